"""``load=`` for every kind of key, relationship and inheritance."""

import uuid
from typing import Any, ClassVar

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Table,
    case,
    event,
    func,
    insert,
    inspect,
    text,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Load,
    Mapped,
    Session,
    attribute_keyed_dict,
    column_property,
    joinedload,
    mapped_column,
    object_session,
    reconstructor,
    relationship,
    selectinload,
)

from sqla_pubsub import (
    Listener,
    Publish,
    PubSub,
    RetryPolicy,
    after_delete,
    after_insert,
    after_update,
    outbox,
)
from tests.translated import translated


@pytest.fixture
def base() -> Any:
    """A declarative base with a metadata of this test."""

    class Base(DeclarativeBase):
        pass

    return Base


def save(engine: Engine, base: Any, *objects: Any) -> None:
    base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(objects)
        session.commit()


def drained(engine: Engine, base: Any) -> int:
    settled = Listener(engine, base.metadata).drain()
    letter = outbox(base.metadata).DeadLetter
    with Session(engine) as session:
        assert [each.traceback for each in session.query(letter)] == []
    return settled


def test_keys_of_several_columns_and_of_other_types(engine: Engine, base: Any) -> None:
    class Order(base):  # type: ignore[misc]
        __tablename__ = "order"
        shop: Mapped[str] = mapped_column("Shop ü %s", primary_key=True)
        number: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column(Enum("a", "b", name="kind"), primary_key=True)
        note: Mapped[str]

    class Line(PubSub, base):  # type: ignore[misc]
        __tablename__ = "line"
        shop: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column(Enum("a", "b", name="kind"), primary_key=True)
        place: Mapped[int] = mapped_column("from", primary_key=True)
        __table_args__ = (
            ForeignKeyConstraint(
                ["shop", "number", "kind"], ["order.Shop ü %s", "order.number", "order.kind"]
            ),
        )
        order: Mapped[Order] = relationship()

    seen: list[str] = []

    @after_insert(Line, load=Line.order)
    def collect(new: Line) -> None:
        assert "order" in inspect(new).dict
        seen.append(f"{new.place} {new.order.note}")

    first = Order(shop="x", number=uuid.uuid4(), kind="a", note="one")
    second = Order(shop="ä'\"", number=uuid.uuid4(), kind="b", note="two")
    save(engine, base, *(Line(place=place, order=order) for order in (first, second) for place in (1, 2)))
    assert drained(engine, base) == 4
    assert sorted(seen) == ["1 one", "1 two", "2 one", "2 two"]


def test_collections_of_every_kind(engine: Engine, base: Any) -> None:
    class Note(PubSub, base):  # type: ignore[misc]
        __tablename__ = "note"
        __table_args__ = {"schema": "My Shop"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[set["Word"]] = relationship()
        by_text: Mapped[dict[str, "Word"]] = relationship(
            collection_class=attribute_keyed_dict("text"), viewonly=True
        )
        tags: Mapped[list["Tag"]] = relationship(secondary=lambda: tagged, order_by="Tag.id")

    class Word(base):  # type: ignore[misc]
        __tablename__ = "word"
        id: Mapped[int] = mapped_column(primary_key=True)
        note_id: Mapped[int | None] = mapped_column(ForeignKey("My Shop.note.id"))
        text: Mapped[str]

    class Tag(base):  # type: ignore[misc]
        __tablename__ = "tag"
        id: Mapped[int] = mapped_column(primary_key=True)

    tagged = Table(
        "tagged",
        base.metadata,
        Column("note", ForeignKey("My Shop.note.id")),
        Column("tag", ForeignKey("tag.id")),
    )
    seen: list[Any] = []

    @after_insert(Note, load=[Note.words, Note.by_text, Note.tags])
    def collect(new: Note, session: Session) -> None:
        assert {"words", "by_text", "tags"} <= inspect(new).dict.keys()
        assert {id(each) for each in new.words} == {id(each) for each in new.by_text.values()}
        seen.append((sorted(new.by_text), type(new.words), [tag.id for tag in new.tags], session.dirty))

    with engine.begin() as connection:
        connection.execute(text('CREATE SCHEMA "My Shop"'))
    tags = [Tag(id=1), Tag(id=2)]
    save(engine, base, Note(words={Word(text="a"), Word(text="b")}, tags=tags), Note(tags=tags[:1]))
    assert drained(engine, base) == 2
    assert [each[0] for each in seen] == [["a", "b"], []]
    assert [each[2] for each in seen] == [[1, 2], [1]]
    assert not seen[0][3]


def test_what_refers_back_refers_to_the_row_of_the_event(engine: Engine, base: Any) -> None:
    class Article(base):  # type: ignore[misc]
        __tablename__ = "article"
        id: Mapped[int] = mapped_column(primary_key=True)
        comments: Mapped[list["Comment"]] = relationship(back_populates="article", order_by="Comment.id")

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]
        article_id: Mapped[int] = mapped_column(ForeignKey(Article.id))
        article: Mapped[Article] = relationship(back_populates="comments")

    seen: list[Any] = []

    @after_insert(Comment, load=selectinload(Comment.article).selectinload(Article.comments))
    def collect(new: Comment, session: Session) -> None:
        assert new.article.comments[new.id - 1] is new
        seen.append([each.content for each in new.article.comments])
        assert not session.dirty

    article = Article()
    save(engine, base, *(Comment(content=content, article=article) for content in "abc"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE comment SET content = content || ' now'"))
    assert drained(engine, base) == 3
    assert seen == [["a", "b now", "c now"], ["a now", "b", "c now"], ["a now", "b now", "c"]]


def test_trees_of_rows_of_the_same_table(engine: Engine, base: Any) -> None:
    class Node(PubSub, base):  # type: ignore[misc]
        __tablename__ = "node"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int | None] = mapped_column(ForeignKey("node.id"))
        parent: Mapped["Node | None"] = relationship(remote_side="Node.id", back_populates="children")
        children: Mapped[list["Node"]] = relationship(back_populates="parent", order_by="Node.id")

    seen: list[Any] = []

    @after_insert(Node, load=[selectinload(Node.parent, recursion_depth=-1), joinedload(Node.children)])
    def collect(new: Node) -> None:
        above, node = [], new
        while node.parent is not None:
            assert "parent" in inspect(node).dict
            node = node.parent
            above.append(node.id)
        seen.append((new.id, above, [child.id for child in new.children]))

    save(engine, base, Node(id=1), Node(id=2, parent_id=1), Node(id=3, parent_id=2), Node(id=4, parent_id=2))
    assert drained(engine, base) == 4
    assert seen == [(1, [], [2]), (2, [1], [3, 4]), (3, [2, 1], []), (4, [2, 1], [])]


@pytest.mark.parametrize("told_by", ["column", "expression"])
def test_classes_that_share_a_table_load_what_they_have(engine: Engine, base: Any, told_by: str) -> None:
    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column()
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship(foreign_keys=author_id)
        __mapper_args__: ClassVar[Any] = {
            "polymorphic_on": kind if told_by == "column" else case((kind == "review", "R"), else_="C"),
            "polymorphic_identity": "comment" if told_by == "column" else "C",
        }

    class Review(Comment):
        editor_id: Mapped[int | None] = mapped_column(ForeignKey(Author.id))
        editor: Mapped[Author | None] = relationship(foreign_keys=editor_id)
        __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "review" if told_by == "column" else "R"}

    seen: list[Any] = []

    @after_insert(Comment, load=[Comment.author, Review.editor])
    def collect(new: Comment) -> None:
        assert "author" in inspect(new).dict
        editor = new.editor and new.editor.id if isinstance(new, Review) else None
        seen.append((type(new).__name__, new.author.id, editor))

    save(engine, base, Author(id=1), Author(id=2))
    with engine.begin() as connection:
        connection.execute(
            insert(Comment.__table__),
            [
                {"id": 1, "kind": "comment", "author_id": 1, "editor_id": None},
                {"id": 2, "kind": "review", "author_id": 2, "editor_id": 1},
            ],
        )
    assert drained(engine, base) == 2
    assert seen == [("Comment", 1, None), ("Review", 2, 1)]


def test_a_class_that_joins_two_tables(engine: Engine, base: Any) -> None:
    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Text(base):  # type: ignore[misc]
        __tablename__ = "text"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "text"}  # noqa: RUF012

    class Review(PubSub, Text):
        __tablename__ = "review"
        id: Mapped[int] = mapped_column(ForeignKey(Text.id), primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship()
        __mapper_args__ = {"polymorphic_identity": "review"}  # noqa: RUF012

    seen: list[int] = []

    @after_insert(Review, load=[Review.author])
    def collect(new: Review) -> None:
        assert "author" in inspect(new).dict
        seen.append(new.author.id)

    save(engine, base, Author(id=5), Author(id=6))
    save(engine, base, Review(author_id=5), Review(author_id=6))
    assert drained(engine, base) == 2
    assert seen == [5, 6]


def test_a_foreign_key_that_does_not_travel_is_that_of_now(engine: Engine, base: Any) -> None:
    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        __pubsub__ = Publish(exclude=["author_id"])
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship()

    seen: list[Any] = []

    @after_insert(Comment, load=[Comment.author])
    def collect(new: Comment) -> None:
        seen.append((new.author.id, "author" in inspect(new).dict))

    save(engine, base, Author(id=1), Author(id=2))
    save(engine, base, Comment(author_id=2), Comment(author_id=1))
    assert drained(engine, base) == 2
    assert seen == [(2, True), (1, True)]


def test_a_row_too_large_to_travel_with_its_claim_has_what_it_refers_to(engine: Engine, base: Any) -> None:
    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship()

    seen: list[Any] = []

    @after_update(Comment, load=[Comment.author])
    @after_delete(Comment, load=[Comment.author])
    def collect(old: Comment, new: Comment | None) -> None:
        seen.append((len(old.content), old.author.id, new and new.author.id))

    save(engine, base, Comment(content="x" * 300_000, author=Author(id=1)))
    with engine.begin() as connection:
        connection.execute(text("UPDATE comment SET content = content || 'y'"))
        connection.execute(text("DELETE FROM comment"))
    assert drained(engine, base) == 2
    assert seen == [(300_000, 1, 1), (300_001, 1, None)]


def test_relationships_that_a_model_always_loads_are_not_loaded_with_it(engine: Engine, base: Any) -> None:
    """What the listener has not asked for costs it no statement."""

    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Article(base):  # type: ignore[misc]
        __tablename__ = "article"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship(lazy="selectin")
        article_id: Mapped[int] = mapped_column(ForeignKey(Article.id))
        article: Mapped[Article] = relationship(lazy="joined")

    seen: list[Any] = []

    @after_insert(Comment, load=[Load(Comment).selectinload(Comment.article)])
    def collect(new: Comment) -> None:
        seen.append(sorted(inspect(new).dict.keys() & {"author", "article"}))

    save(engine, base, Comment(author=Author(), article=Article()))
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _r, statement, *_: sent.append(statement))
    assert drained(engine, base) == 1
    assert seen == [["article"]]
    assert not [each for each in sent if "FROM author" in each]


def test_what_is_loaded_is_made_as_the_orm_makes_it(engine: Engine, base: Any) -> None:
    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column()
        shout: Mapped[str] = column_property(func.upper(name))

        @reconstructor
        def made(self) -> None:
            self.was_made = True

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship()

    seen: list[Any] = []

    @after_insert(Comment, load=Comment.author)
    def collect(new: Comment, session: Session) -> None:
        assert object_session(new.author) is session
        assert session.get(Author, 1) is new.author
        seen.append((new.author.name, new.author.shout, new.author.was_made))
        new.author.name = "changed"
        session.flush()
        session.refresh(new.author)
        seen.append((new.author.name, new.author.shout))

    save(engine, base, Comment(author=Author(id=1, name="a")))
    assert drained(engine, base) == 1
    assert seen == [("a", "A", True), ("changed", "CHANGED")]


def test_options_further_on_are_those_of_the_object(engine: Engine, base: Any) -> None:
    class City(base):  # type: ignore[misc]
        __tablename__ = "city"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        secret: Mapped[str]
        city_id: Mapped[int | None] = mapped_column(ForeignKey(City.id))
        city: Mapped[City | None] = relationship()

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship()
        others: Mapped[list[Author]] = relationship(
            primaryjoin=lambda: Author.id > Comment.author_id, foreign_keys=lambda: Author.id, viewonly=True
        )

    seen: list[Any] = []
    load = [
        joinedload(Comment.author).load_only(Author.name).raiseload(Author.city),
        joinedload(Comment.others.and_(Author.name != "c")),
    ]

    @after_insert(Comment, load=load, retry=RetryPolicy(max_attempts=1))
    def collect(new: Comment) -> None:
        with pytest.raises(Exception, match="lazy='raise'"):
            new.author.city  # noqa: B018
        seen.append([each.name for each in new.others])
        assert "secret" not in inspect(new.author).dict
        assert new.author.secret == "s"

    authors = [Author(id=number, name=name, secret="s") for number, name in enumerate("abcd")]
    save(engine, base, *authors, Comment(author_id=0))
    assert drained(engine, base) == 1
    assert seen == [["b", "d"]]


def test_a_foreign_key_that_does_not_travel_of_a_row_that_is_gone_refers_to_nothing(
    engine: Engine, base: Any
) -> None:
    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        __pubsub__ = Publish(exclude=["author_id"])
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship()

    seen: list[Any] = []

    @after_delete(Comment, load=[Comment.author])
    def collect(old: Comment) -> None:
        seen.append(old.author)

    save(engine, base, Comment(author=Author(id=1)))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM comment"))
    assert drained(engine, base) == 1
    assert seen == [None]


def test_what_a_tenant_has_is_loaded_from_its_schema_also_after_it_was_changed(
    engine: Engine, base: Any
) -> None:
    class Author(base):  # type: ignore[misc]
        __tablename__ = '100% "real" author'
        id: Mapped[int] = mapped_column(primary_key=True)
        texts: Mapped[int]

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
        author: Mapped[Author] = relationship()

    seen: list[int] = []

    @after_insert(Comment, load=[Comment.author])
    def collect(new: Comment, session: Session) -> None:
        seen.append(new.author.texts)
        new.author.texts += 1

    tenant = translated(engine, {None: "tenant"})
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA tenant"))
    author = Author(id=1, texts=0)
    save(tenant, base, *(Comment(author=author) for _ in range(5)))
    assert drained(tenant, base) == 5
    assert seen == [0, 1, 2, 3, 4]
