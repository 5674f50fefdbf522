"""Every way of mapping a class publishes the changes of its table."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, String, Table
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    declarative_base,
    declared_attr,
    mapped_column,
    registry,
)

from sqla_pubsub import ConfigurationError, Publish, PubSub, after_delete, after_insert, after_update, check
from tests.declare.entries import changes, entries, heard, nothing


def with_declarative_base() -> type[Any]:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment


def with_the_mixin_last() -> type[Any]:
    class Base(DeclarativeBase): ...

    class Comment(Base, PubSub):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment


def with_dataclasses() -> type[Any]:
    class Base(MappedAsDataclass, DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment


def with_a_dataclass_mixin_on_the_model() -> type[Any]:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, MappedAsDataclass, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment


def with_legacy_declarative_base() -> type[Any]:
    base: Any = declarative_base()

    class Comment(PubSub, base):  # type: ignore[misc]
        __tablename__ = "comment"
        id = Column(Integer, primary_key=True)
        content = Column(String, nullable=False)

    return Comment


def with_the_mixin_as_legacy_base() -> type[Any]:
    base: Any = declarative_base(cls=PubSub)

    class Comment(base):  # type: ignore[misc]
        __tablename__ = "comment"
        id = Column(Integer, primary_key=True)
        content = Column(String, nullable=False)

    return Comment


def with_registry_mapped() -> type[Any]:
    @registry().mapped
    class Comment(PubSub):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment


def with_registry_mapped_as_dataclass() -> type[Any]:
    @registry().mapped_as_dataclass
    class Comment(PubSub):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment


def with_a_declarative_table() -> type[Any]:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __table__ = Table(
            "comment", Base.metadata, Column("id", Integer, primary_key=True), Column("content", String)
        )

    return Comment


def with_imperative_mapping() -> type[Any]:
    mappers = registry()

    class Comment(PubSub):
        def __init__(self, **values: Any) -> None:
            for name, value in values.items():
                setattr(self, name, value)

    mappers.map_imperatively(
        Comment,
        Table(
            "comment", mappers.metadata, Column("id", Integer, primary_key=True), Column("content", String)
        ),
    )
    return Comment


def with_an_abstract_base() -> type[Any]:
    class Base(DeclarativeBase): ...

    class Published(PubSub, Base):
        __abstract__ = True
        id: Mapped[int] = mapped_column(primary_key=True)

    class Comment(Published):
        __tablename__ = "comment"
        content: Mapped[str]

    return Comment


def with_the_mixin_on_the_base() -> type[Any]:
    class Base(PubSub, DeclarativeBase): ...

    class Comment(Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment


def with_columns_from_mixins() -> type[Any]:
    class Base(DeclarativeBase): ...

    class Numbered:
        id: Mapped[int] = mapped_column(primary_key=True)

    class Named:
        @declared_attr.directive
        @classmethod
        def __tablename__(cls) -> str:
            return cls.__name__.lower()

    class Written:
        @declared_attr
        @classmethod
        def content(cls) -> Mapped[str]:
            return mapped_column(String)

    class Comment(Numbered, Named, PubSub, Written, Base): ...

    return Comment


@pytest.mark.parametrize(
    "declare",
    [
        with_declarative_base,
        with_the_mixin_last,
        with_dataclasses,
        with_a_dataclass_mixin_on_the_model,
        with_legacy_declarative_base,
        with_the_mixin_as_legacy_base,
        with_registry_mapped,
        with_registry_mapped_as_dataclass,
        with_a_declarative_table,
        with_imperative_mapping,
        with_an_abstract_base,
        with_the_mixin_on_the_base,
        with_columns_from_mixins,
    ],
)
@pytest.mark.one_driver
def test_a_model_publishes_however_it_is_mapped(declare: Callable[[], type[Any]], engine: Engine) -> None:
    comment = declare()
    metadata: MetaData = comment.__table__.metadata
    for decorator in (after_insert, after_update, after_delete):
        decorator(comment, name="reader")(nothing)
    metadata.create_all(engine)
    with Session(engine) as session:
        written = comment(id=1, content="first")
        session.add(written)
        session.commit()
        written.content = "second"
        session.commit()
        session.delete(written)
        session.commit()
    first, second = {"id": 1, "content": "first"}, {"id": 1, "content": "second"}
    assert changes(engine, metadata) == [
        ("INSERT", None, first),
        ("UPDATE", first, second),
        ("DELETE", second, None),
    ]


@pytest.mark.one_driver
def test_a_model_without_listeners_has_an_outbox_and_no_trigger(engine: Engine) -> None:
    metadata: MetaData = with_declarative_base().__table__.metadata
    metadata.create_all(engine)
    with engine.connect() as connection:
        assert check(connection, metadata) == []
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_trigger").scalar_one() == 0
    assert entries(engine, metadata) == []


def single_table() -> tuple[type[Any], type[Any], type[Any], type[Any]]:
    class Base(DeclarativeBase): ...

    class Animal(PubSub, Base):
        __tablename__ = "animal"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column("species")
        name: Mapped[str]

    class Dog(Animal):
        __mapper_args__ = {"polymorphic_identity": "dog's"}  # noqa: RUF012

    class Puppy(Dog):
        __mapper_args__ = {"polymorphic_identity": "puppy%"}  # noqa: RUF012

    class Cat(Animal):
        __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012

    return Animal, Dog, Puppy, Cat


def test_a_listener_on_a_single_table_subclass_hears_that_class_and_its_subclasses(engine: Engine) -> None:
    animal, dog, puppy, cat = single_table()
    after_insert(animal, name="all")(nothing)
    after_insert(dog, name="dogs")(nothing)
    after_insert(puppy, name="puppies")(nothing)
    animal.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([model(name=model.__name__) for model in (animal, dog, puppy, cat)])
        session.commit()
    assert heard(engine, animal.metadata) == [
        *[("all", "INSERT")] * 4,
        *[("dogs", "INSERT")] * 2,
        ("puppies", "INSERT"),
    ]


@pytest.mark.one_driver
def test_a_subclass_declared_after_the_listener_is_heard_too(engine: Engine) -> None:
    animal, dog, _, _ = single_table()
    after_delete(dog, name="dogs", when=lambda old: old.name != "kept")(nothing)

    class Poodle(dog):  # type: ignore[misc, valid-type]
        __mapper_args__ = {"polymorphic_identity": "poodle"}  # noqa: RUF012

    animal.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Poodle(name="gone"), Poodle(name="kept"), animal(name="gone")])
        session.commit()
        for each in session.query(animal):
            session.delete(each)
        session.commit()
    assert [entry.old for entry in entries(engine, animal.metadata)] == [
        {"id": 1, "species": "poodle", "name": "gone"}
    ]


@pytest.mark.one_driver
def test_one_listener_may_hear_two_classes_of_one_table(engine: Engine) -> None:
    """It is called once for a row, also where both of its subscriptions hold."""
    animal, dog, puppy, cat = single_table()
    for model in (cat, puppy, dog):
        after_insert(model, name="some")(nothing)
    animal.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([model(name=model.__name__) for model in (animal, dog, puppy, cat)])
        session.commit()
    names = sorted((entry.new or {})["name"] for entry in entries(engine, animal.metadata))
    assert names == ["Cat", "Dog", "Puppy"]


@pytest.mark.one_driver
def test_a_row_that_changes_its_class_is_an_update_of_the_class_it_became(engine: Engine) -> None:
    animal, dog, _, cat = single_table()
    after_update(dog, name="dogs")(nothing)
    after_update(cat, name="cats")(nothing)
    animal.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(dog(name="Rex"))
        session.commit()
        session.connection().exec_driver_sql("UPDATE animal SET species = 'cat'")
        session.commit()
    assert heard(engine, animal.metadata) == [("cats", "UPDATE")]


def joined() -> tuple[type[Any], type[Any]]:
    class Base(DeclarativeBase): ...

    class Person(PubSub, Base):
        __tablename__ = "person"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        name: Mapped[str]

    class Author(Person):
        __tablename__ = "author"
        __mapper_args__ = {"polymorphic_identity": "author"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
        pen: Mapped[str]

    return Person, Author


def test_a_listener_on_a_joined_subclass_hears_its_own_table(engine: Engine) -> None:
    person, author = joined()
    for decorator in (after_insert, after_update):
        decorator(person, name="people")(nothing)
        decorator(author, name="authors")(nothing)
    person.metadata.create_all(engine)
    with Session(engine) as session:
        written = author(name="Samuel", pen="Mark")
        session.add_all([person(name="Olivia"), written])
        session.commit()
        written.name = "Sam"
        session.commit()
    assert heard(engine, person.metadata) == [
        ("authors", "INSERT"),
        *[("people", "INSERT")] * 2,
        ("people", "UPDATE"),
    ]
    assert [e.new for e in entries(engine, person.metadata) if e.listener == "authors"] == [
        {"id": 2, "pen": "Mark"}
    ]


@pytest.mark.one_driver
def test_only_the_joined_subclass_may_publish(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Person(Base):
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Author(PubSub, Person):
        __tablename__ = "author"
        id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
        pen: Mapped[str]

    after_insert(Author, name="authors")(nothing)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Person(), Author(pen="Mark")])
        session.commit()
    assert heard(engine, Base.metadata) == [("authors", "INSERT")]


@pytest.mark.one_driver
def test_a_concrete_subclass_has_its_own_listeners(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Car(PubSub, Base):
        __tablename__ = "car"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Truck(Car):
        __tablename__ = "truck"
        __mapper_args__ = {"concrete": True}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        load: Mapped[int]

    after_insert(Car, name="cars")(nothing)
    after_insert(Truck, name="trucks")(nothing)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Car(), Truck(load=40)])
        session.commit()
    assert heard(engine, Base.metadata) == [("cars", "INSERT"), ("trucks", "INSERT")]


def test_a_single_table_subclass_of_a_joined_class_is_refused() -> None:
    """Its discriminator stands in another table, which the trigger cannot see for a deleted row."""
    _, author = joined()

    class Poet(author):  # type: ignore[misc, valid-type]
        __mapper_args__ = {"polymorphic_identity": "poet"}  # noqa: RUF012

    with pytest.raises(ConfigurationError, match="'person'"):
        after_insert(Poet, name="poets")(nothing)


@pytest.mark.one_driver
def test_payload_and_conditions_know_attributes_by_their_names(engine: Engine) -> None:
    """Stored are the names of the columns: attributes can be renamed without touching the database."""

    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        __pubsub__ = Publish(exclude=["written_by"])
        number: Mapped[int] = mapped_column("id", primary_key=True)
        text: Mapped[str] = mapped_column("content")
        written_by: Mapped[str] = mapped_column("author")
        author: Mapped[str] = mapped_column("editor")

    after_update(Comment, name="reader", of=[Comment.text], when=lambda old, new: new.author != old.author)(
        nothing
    )
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        written = Comment(number=1, text="a", written_by="x", author="y")
        session.add(written)
        session.commit()
        for change in ({"text": "b"}, {"author": "z"}, {"text": "c", "author": "x"}):
            for name, value in change.items():
                setattr(written, name, value)
            session.commit()
    assert changes(engine, Base.metadata) == [
        ("UPDATE", {"id": 1, "content": "b", "editor": "z"}, {"id": 1, "content": "c", "editor": "x"})
    ]


def test_two_classes_of_one_table_agree_on_what_travels() -> None:
    animal, *_ = single_table()
    with pytest.raises(ConfigurationError, match="One table has one payload"):
        type(
            "Bird",
            (animal,),
            {"__pubsub__": Publish(columns=["name"]), "__mapper_args__": {"polymorphic_identity": "b"}},
        )
