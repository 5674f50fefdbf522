"""Every mapping style: names, composites, mutable values, inheritance, what the ORM adds on loading."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from sqlalchemy import Engine, ForeignKey, String, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    composite,
    mapped_column,
    object_session,
    reconstructor,
    relationship,
    synonym,
    validates,
)
from sqlalchemy.orm.exc import DetachedInstanceError

from sqla_pubsub import (
    Delete,
    Insert,
    Listener,
    Publish,
    PubSub,
    Update,
    after_delete,
    after_insert,
    after_update,
)

pytestmark = pytest.mark.either_driver


@dataclass
class Point:
    x: int
    y: int


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


def test_attributes_carry_their_own_names_and_not_those_of_the_columns(engine: Engine, base: Any) -> None:
    class Order(PubSub, base):  # type: ignore[misc]
        __tablename__ = "Order Lines"
        number: Mapped[int] = mapped_column('No. "1"', primary_key=True)
        customer: Mapped[str] = mapped_column("Customer Näme %s :x")
        select: Mapped[str] = mapped_column("from")
        other = synonym("customer")

    seen: list[Any] = []

    @after_update(Order)
    def collect(old: Order, new: Order, event: Update[Order]) -> None:
        seen.append((old.number, old.customer, old.other, new.customer, new.select, event.changed))

    save(engine, base, Order(number=7, customer="a", select="x"))
    with engine.begin() as connection:
        connection.execute(update(Order).values(customer="b"))
    Listener(engine, base.metadata).drain()
    assert seen == [(7, "a", "a", "b", "x", ("customer",))]


def test_a_table_in_another_schema_arrives(engine: Engine, base: Any) -> None:
    class Item(PubSub, base):  # type: ignore[misc]
        __tablename__ = "Item"
        __table_args__ = ({"schema": "My Shop"},)
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    seen: list[str] = []

    @after_insert(Item)
    def collect(new: Item) -> None:
        seen.append(new.name)

    with engine.begin() as connection:
        connection.execute(text('CREATE SCHEMA "My Shop"'))
    save(engine, base, Item(name="a"))
    Listener(engine, base.metadata).drain()
    assert seen == ["a"]


def test_composite_attributes_are_put_together(engine: Engine, base: Any) -> None:
    class Vertex(PubSub, base):  # type: ignore[misc]
        __tablename__ = "vertex"
        id: Mapped[int] = mapped_column(primary_key=True)
        start: Mapped[Point] = composite(mapped_column("x1"), mapped_column("y1"))

    seen: list[Any] = []

    @after_update(Vertex)
    def collect(old: Vertex, new: Vertex) -> None:
        seen.append((old.start, new.start))

    save(engine, base, Vertex(start=Point(1, 2)))
    with engine.begin() as connection:
        connection.execute(text("UPDATE vertex SET y1 = 5"))
    Listener(engine, base.metadata).drain()
    assert seen == [(Point(1, 2), Point(1, 5))]


def test_a_change_inside_a_mutable_value_is_written(engine: Engine, base: Any) -> None:
    class Profile(PubSub, base):  # type: ignore[misc]
        __tablename__ = "profile"
        id: Mapped[int] = mapped_column(primary_key=True)
        data: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSONB))

    @after_insert(Profile)
    def extend(new: Profile) -> None:
        assert isinstance(new.data, MutableDict)
        new.data["seen"] = True

    save(engine, base, Profile(data={"a": [1]}))
    Listener(engine, base.metadata).drain()
    with Session(engine) as session:
        assert session.scalars(select(Profile)).one().data == {"a": [1], "seen": True}


def test_the_reconstructor_runs_and_the_constructor_does_not(engine: Engine, base: Any) -> None:
    class Account(PubSub, base):  # type: ignore[misc]
        __tablename__ = "account"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

        def __init__(self, name: str) -> None:
            self.name = name
            self.greeting = "made"

        @reconstructor
        def loaded(self) -> None:
            self.greeting = f"loaded {self.name}"

        @validates("name")
        def check(self, _: str, name: str) -> str:
            return name + "!"

    seen: list[str] = []

    @after_delete(Account)
    @after_insert(Account)
    def collect(event: Any) -> None:
        row = event.old if isinstance(event, Delete) else event.new
        seen.append(row.greeting)

    save(engine, base, Account("ann"))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM account"))
    Listener(engine, base.metadata).drain()
    assert seen == ["loaded ann!", "loaded ann!"]


def test_dataclass_models_arrive(engine: Engine) -> None:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Part(PubSub, Base):
        __tablename__ = "part"
        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        name: Mapped[str]
        size: Mapped[int] = mapped_column(default=3)

    seen: list[Part] = []

    @after_insert(Part)
    def collect(new: Part) -> None:
        seen.append(new)

    save(engine, Base, Part(name="a"))
    Listener(engine, Base.metadata).drain()
    assert repr(seen[0]).endswith("Part(id=1, name='a', size=3)")


def test_rows_of_one_table_arrive_as_the_class_that_their_discriminator_names(
    engine: Engine, base: Any
) -> None:
    class Animal(PubSub, base):  # type: ignore[misc]
        __tablename__ = "animal"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__: ClassVar[dict[str, str]] = {
            "polymorphic_on": "kind",
            "polymorphic_identity": "animal",
        }

    class Dog(Animal):
        tricks: Mapped[int | None]
        __mapper_args__: ClassVar[dict[str, str]] = {"polymorphic_identity": "dog"}

    seen: dict[str, list[Any]] = {"every": [], "dogs": []}

    @after_insert(Animal)
    def every(new: Animal) -> None:
        seen["every"].append((type(new), getattr(new, "tricks", None)))

    @after_insert(Dog)
    def dogs(new: Dog) -> None:
        seen["dogs"].append(new.tricks)

    save(engine, base, Animal(), Dog(tricks=2))
    Listener(engine, base.metadata).drain()
    assert sorted(seen["every"], key=str) == [(Animal, None), (Dog, 2)]
    assert seen["dogs"] == [2]


def test_a_joined_subclass_loads_the_columns_of_its_parent(engine: Engine, base: Any) -> None:
    class Person(PubSub, base):  # type: ignore[misc]
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        name: Mapped[str]
        __mapper_args__: ClassVar[dict[str, str]] = {
            "polymorphic_on": "kind",
            "polymorphic_identity": "person",
        }

    class Engineer(Person):
        __tablename__ = "engineer"
        id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
        language: Mapped[str]
        __mapper_args__: ClassVar[dict[str, str]] = {"polymorphic_identity": "engineer"}

    seen: list[Any] = []

    @after_insert(Person)
    def persons(new: Person) -> None:
        seen.append((type(new), new.name))

    @after_insert(Engineer)
    def engineers(new: Engineer) -> None:
        seen.append((type(new), new.language, new.name))

    save(engine, base, Engineer(name="ann", language="sql"))
    Listener(engine, base.metadata).drain()
    assert sorted(seen, key=len) == [(Engineer, "ann"), (Engineer, "sql", "ann")]


def test_a_composite_primary_key_identifies_the_row(engine: Engine, base: Any) -> None:
    class Seat(PubSub, base):  # type: ignore[misc]
        __tablename__ = "seat"
        row: Mapped[str] = mapped_column(String(2), primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        guest: Mapped[str | None]

    @after_insert(Seat)
    def seat(new: Seat, session: Session) -> None:
        assert session.get(Seat, (new.row, new.number)) is new
        new.guest = f"guest of {new.row}"

    save(engine, base, Seat(row="A", number=1), Seat(row="B", number=1))
    assert Listener(engine, base.metadata).drain() == 2
    with Session(engine) as session:
        assert [s.guest for s in session.scalars(select(Seat).order_by(Seat.row))] == [
            "guest of A",
            "guest of B",
        ]


@pytest.fixture
def secretive(base: Any) -> Any:
    """A model whose events travel without the secret."""

    class Member(PubSub, base):  # type: ignore[misc]
        __tablename__ = "member"
        __pubsub__ = Publish(exclude=["secret"])
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        secret: Mapped[str] = mapped_column("secret_column")
        note: Mapped[str] = mapped_column(default="none", deferred=True)

    return Member


def test_an_excluded_column_is_loaded_from_the_row_when_new_is_asked_for_it(
    engine: Engine, base: Any, secretive: Any
) -> None:
    seen: list[str] = []

    @after_insert(secretive)
    def collect(event: Insert[Any]) -> None:
        seen.extend((event.new.name, event.new.secret, event.new.note))

    save(engine, base, secretive(name="ann", secret="s"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE member SET name = 'changed', secret_column = 'now'"))
    Listener(engine, base.metadata).drain()
    assert seen == ["ann", "now", "none"]


def test_an_excluded_column_of_old_is_a_clear_error(engine: Engine, base: Any, secretive: Any) -> None:
    seen: list[str] = []

    @after_update(secretive)
    def collect(old: Any) -> None:
        assert old.name == "ann"
        with pytest.raises(DetachedInstanceError):
            _ = old.secret
        seen.append("refused")

    save(engine, base, secretive(name="ann", secret="s"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE member SET name = 'changed'"))
    Listener(engine, base.metadata).drain()
    assert seen == ["refused"]


def test_only_the_chosen_columns_and_the_key_travel(engine: Engine, base: Any) -> None:
    class Row(PubSub, base):  # type: ignore[misc]
        __tablename__ = "row"
        __pubsub__ = Publish(columns=["b"])
        id: Mapped[int] = mapped_column(primary_key=True)
        a: Mapped[str]
        b: Mapped[str]

    seen: list[Any] = []

    @after_delete(Row)
    def collect(old: Row) -> None:
        # What did not travel would have to be read from the row, and that is gone.
        with pytest.raises(InvalidRequestError):
            _ = old.a
        seen.append((old.id, old.b))

    save(engine, base, Row(a="1", b="2"))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM row"))
    Listener(engine, base.metadata).drain()
    assert seen == [(1, "2")]


@pytest.fixture
def library(base: Any) -> Any:
    """Authors and their books, of which the books publish."""

    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        books: Mapped[list["Book"]] = relationship(back_populates="author")

    class Book(PubSub, base):  # type: ignore[misc]
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
        author: Mapped[Author] = relationship(back_populates="books")

    Book.Author = Author
    return Book


def test_relationships_of_new_load_through_the_session(engine: Engine, base: Any, library: Any) -> None:
    seen: list[Any] = []

    @after_insert(library)
    def collect(new: Any) -> None:
        seen.append((new.author.name, [book is new for book in new.author.books]))

    save(engine, base, library(title="one", author=library.Author(name="ann")))
    Listener(engine, base.metadata).drain()
    assert seen == [("ann", [True])]


def test_relationships_of_a_deleted_row_load_and_those_of_old_in_an_update_do_not(
    engine: Engine, base: Any, library: Any
) -> None:
    seen: list[Any] = []

    @after_delete(library)
    def deleted(old: Any, session: Session) -> None:
        assert object_session(old) is session
        seen.append(old.author.name)

    @after_update(library)
    def updated(old: Any) -> None:
        assert object_session(old) is None
        with pytest.raises(DetachedInstanceError):
            _ = old.author
        seen.append(old.title)

    save(engine, base, library(title="one", author=library.Author(name="ann")))
    with engine.begin() as connection:
        connection.execute(text("UPDATE book SET title = 'two'"))
        connection.execute(text("DELETE FROM book"))
    Listener(engine, base.metadata).drain()
    assert sorted(seen) == ["ann", "one"]


def test_the_session_knows_the_row_as_it_was_at_the_event(engine: Engine, base: Any, library: Any) -> None:
    seen: list[Any] = []

    @after_insert(library)
    def collect(new: Any, session: Session) -> None:
        got = session.get(library, 1)
        found = session.scalars(select(library)).one()
        assert got is new
        assert found is new
        seen.append(new.title)
        session.refresh(new)
        seen.append(new.title)

    save(engine, base, library(title="at the event", author=library.Author(name="ann")))
    with engine.begin() as connection:
        connection.execute(update(library).values(title="now"))
    Listener(engine, base.metadata).drain()
    assert seen == ["at the event", "now"]


def test_what_the_handler_loaded_before_it_looked_at_the_event_gives_way(
    engine: Engine, base: Any, library: Any
) -> None:
    seen: list[str] = []

    @after_insert(library)
    def collect(event: Insert[Any], session: Session) -> None:
        before = session.scalars(select(library)).one()
        seen.extend((before.title, event.new.title))
        assert session.get(library, 1) is event.new

    save(engine, base, library(title="at the event", author=library.Author(name="ann")))
    with engine.begin() as connection:
        connection.execute(update(library).values(title="now"))
    Listener(engine, base.metadata).drain()
    assert seen == ["now", "at the event"]


def test_assigning_to_new_writes_the_row(engine: Engine, base: Any, library: Any) -> None:
    @after_insert(library)
    def capitalize(new: Any) -> None:
        new.title = new.title.upper()

    save(engine, base, library(title="one", author=library.Author(name="ann")))
    Listener(engine, base.metadata).drain()
    with Session(engine) as session:
        assert session.scalars(select(library.title)).all() == ["ONE"]


def test_rows_of_a_bulk_insert_arrive_in_their_order(engine: Engine, base: Any) -> None:
    class Log(PubSub, base):  # type: ignore[misc]
        __tablename__ = "log"
        id: Mapped[int] = mapped_column(primary_key=True)
        line: Mapped[str]

    seen: list[str] = []

    @after_insert(Log)
    def collect(new: Log) -> None:
        seen.append(new.line)

    base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Log), [{"line": str(n)} for n in range(120)])
    assert Listener(engine, base.metadata).drain() == 120
    assert seen == [str(n) for n in range(120)]
