"""What ``load=`` takes, and what it refuses where the declaration stands."""

from typing import Any

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import (
    DeclarativeBase,
    DynamicMapped,
    Load,
    Mapped,
    aliased,
    defer,
    joinedload,
    load_only,
    mapped_column,
    raiseload,
    relationship,
    selectinload,
)

from sqla_pubsub import (
    ConfigurationError,
    Message,
    PubSub,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    on_message,
)
from sqla_pubsub.registry import registry_of


class Models:
    """Comments of articles, and what hangs on both, in a metadata of their own."""

    def __init__(self) -> None:
        class Base(DeclarativeBase):
            pass

        class Author(Base):
            __tablename__ = "author"
            id: Mapped[int] = mapped_column(primary_key=True)

        class Article(Base):
            __tablename__ = "article"
            id: Mapped[int] = mapped_column(primary_key=True)
            author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
            author: Mapped[Author] = relationship()

        class Comment(PubSub, Base):
            __tablename__ = "comment"
            id: Mapped[int] = mapped_column(primary_key=True)
            kind: Mapped[str]
            article_id: Mapped[int] = mapped_column(ForeignKey(Article.id))
            article: Mapped[Article] = relationship()
            replied: Mapped["Comment"] = relationship(
                "Comment", primaryjoin="Comment.id == foreign(Comment.parent_id)", viewonly=True
            )
            replies: DynamicMapped["Comment"] = relationship(
                "Comment",
                primaryjoin=lambda: Comment.id == Comment.parent_id,
                foreign_keys=lambda: Comment.parent_id,
            )
            parent_id: Mapped[int]
            __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "comment"}  # noqa: RUF012

        class Review(Comment):
            editor_id: Mapped[int | None] = mapped_column(ForeignKey(Author.id))
            editor: Mapped[Author | None] = relationship()
            __mapper_args__ = {"polymorphic_identity": "review"}  # noqa: RUF012

        class Viewed(Message, metadata=Base.metadata):
            article_id: int

        self.metadata = Base.metadata
        self.Author, self.Article, self.Comment, self.Review, self.Viewed = (
            Author,
            Article,
            Comment,
            Review,
            Viewed,
        )


@pytest.fixture
def models() -> Models:
    return Models()


def handle(session: Any) -> None: ...


def loads(models: Models) -> list[int]:
    return [
        len(each.load)
        for listener in registry_of(models.metadata).listeners.values()
        for each in listener.subscriptions
    ]


@pytest.mark.parametrize("decorator", [after_insert, after_update, after_delete])
def test_relationships_are_taken_before_the_mappers_are_configured(models: Models, decorator: Any) -> None:
    """The module of what they refer to may not be imported yet."""
    decorator(models.Comment, load=[models.Comment.article, models.Comment.replied])(handle)
    assert loads(models) == [2]
    assert not models.Comment.__mapper__.configured


def test_loader_options_of_relationships_are_taken(models: Models) -> None:
    comment, article = models.Comment, models.Article
    given = [
        joinedload(comment.article).joinedload(article.author),
        Load(comment).selectinload(comment.article),
        Load(comment).options(
            selectinload(comment.replied), joinedload(comment.article).load_only(article.id)
        ),
        selectinload(comment.article).raiseload(article.author),
    ]
    after_insert(comment, load=given)(handle)
    assert loads(models) == [4]


def test_one_alone_needs_no_list(models: Models) -> None:
    after_insert(models.Comment, load=models.Comment.article, name="one")(handle)
    after_insert(models.Comment, load=selectinload(models.Comment.article), name="two")(handle)
    after_insert(models.Comment, load=(each for each in [models.Comment.article]), name="three")(handle)
    assert loads(models) == [1, 1, 1]


def test_a_relationship_of_a_subclass_or_of_a_parent_is_one_of_the_model(models: Models) -> None:
    after_insert(models.Comment, load=[models.Review.editor, models.Review.article])(handle)
    after_update(models.Review, load=[models.Comment.article], name="review")(handle)
    assert loads(models) == [2, 1]


def test_each_of_stacked_decorators_has_its_own(models: Models) -> None:
    after_insert(models.Comment, load=[models.Comment.article])(handle)
    after_update(models.Comment)(handle)
    after_delete(models.Comment, load=[selectinload(models.Comment.article)])(handle)
    assert sorted(loads(models)) == [0, 1, 1]


REFUSED: dict[str, tuple[Any, str]] = {
    "a column": (lambda m: m.Comment.kind, "load=Comment.kind is no relationship"),
    "another model's": (lambda m: m.Article.author, "load=Article.author is no relationship of .*Comment"),
    "an option of another model": (
        lambda m: selectinload(m.Article.author), "load=.*Article.author is no relationship of .*Comment",
    ),
    "an option of columns": (lambda m: load_only(m.Comment.kind), "load=.*Comment.kind is no relationship"),
    "an option of one column": (lambda m: defer(m.Comment.kind), "load=.*Comment.kind is no relationship"),
    "an empty option": (lambda m: Load(m.Comment), "which loads no relationship"),
    "an option that loads nothing": (lambda m: raiseload(m.Comment.article), "loads nothing of .*Comment.article"),
    "all": (lambda m: selectinload("*"), "is no relationship and no loader option"),
    "an alias": (lambda m: aliased(m.Comment, name="other").replied, "is of an alias"),
    "a query": (lambda m: m.Comment.replies, "has lazy='dynamic', which is never loaded but always a query"),
    "a model": (lambda m: m.Article, "is no relationship and no loader option"),
    "a name": (lambda m: "article", "load='article' is no relationship and no loader option"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_anything_else_is_refused_with_what_the_model_has(models: Models, which: str) -> None:
    make, words = REFUSED[which]
    with pytest.raises(ConfigurationError, match=words) as refusal:
        after_insert(models.Comment, load=[make(models)])(handle)
    assert str(refusal.value).startswith("listener 'handle': load=")
    assert "Give a list of relationships of" in str(refusal.value)
    assert "Comment has: " in str(refusal.value)
    assert "article, replied, replies" in str(refusal.value)
    assert not registry_of(models.metadata).listeners


@pytest.mark.parametrize("given", [["Comment.article"], "article", [5]])
def test_a_listener_without_rows_takes_none(models: Models, given: Any) -> None:
    decorate: Any = on_message
    with pytest.raises(
        ConfigurationError, match=r"load= is given for a TRUNCATE, which has no row. Leave it out"
    ):
        after_truncate(models.Comment, load=given)(handle)
    with pytest.raises(
        ConfigurationError, match=r"load= is given for the message .*Viewed, which has no row. Leave"
    ):
        decorate(models.Viewed, load=given)(handle)
    on_message(models.Viewed, load=[])(handle)
    assert loads(models) == [0]
