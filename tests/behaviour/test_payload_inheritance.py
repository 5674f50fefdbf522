"""A row is of the class that the ORM would load, with all that its mapper says of it."""

import enum
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from sqlalchemy import Engine, Enum, ForeignKey, Integer, case, cast, func, literal, select, text
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    mapped_column,
    object_session,
    polymorphic_union,
)

from sqla_pubsub import Listener, Publish, PubSub, after_delete, after_insert, after_update

pytestmark = pytest.mark.either_driver

Arguments = dict[str, Any]


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


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


class Kind(enum.Enum):
    FIXED = "f"
    OTHER = "o"


def by_case(kind: Any) -> Any:
    return case((kind == "fixed", "fixed"), else_="other")


SWITCHES: dict[str, Any] = {
    "a name": lambda kind, amount: "kind",
    "a column": lambda kind, amount: kind,
    "a case": lambda kind, amount: by_case(kind),
    "a labelled case": lambda kind, amount: by_case(kind).label("told"),
    "several columns": lambda kind, amount: case(
        ((kind == "fixed") & (func.coalesce(amount, 1) > 0), "fixed"), else_="other"
    ),
    "a function": lambda kind, amount: func.lower(func.concat(kind, "")),
    "a subquery": lambda kind, amount: select(literal("fixed")).where(kind == "fixed").scalar_subquery(),
}


def discounts(base: Any, switch: Any) -> tuple[Any, Any, Any]:
    """Return a hierarchy in one table: the base class, a subclass with columns, and one of that."""

    class Discount(PubSub, base):  # type: ignore[misc]
        __tablename__ = "discount"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column("What kind")
        value: Mapped[int | None] = mapped_column("how_much")
        __mapper_args__: ClassVar[Arguments] = {
            "polymorphic_on": switch(kind, value),
            "polymorphic_identity": "other",
        }

    class Fixed(Discount):
        amount: Mapped[int | None] = mapped_column("the amount")
        note: Mapped[str | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "fixed"}

    class Rare(Fixed):
        reason: Mapped[str | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "rare", "polymorphic_load": "inline"}

    return Discount, Fixed, Rare


ROW = """INSERT INTO discount ("What kind", how_much, "the amount", note) VALUES ('fixed', 5, 10, 'n')"""


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_row_is_of_the_class_that_polymorphic_on_tells(engine: Engine, base: Any, switch: str) -> None:
    discount, fixed, _ = discounts(base, SWITCHES[switch])
    seen: list[Any] = []

    @after_insert(discount)
    def collect(new: Any, session: Session) -> None:
        assert type(new) is fixed
        assert [session.get(model, new.id) is new for model in (fixed, discount)] == [True, True]
        seen.append((new.kind, new.value, new.amount, new.note))
        new.amount = 99

    base.metadata.create_all(engine)
    run(engine, ROW, """UPDATE discount SET "the amount" = 11, how_much = 6""")
    assert Listener(engine, base.metadata).drain() == 1
    assert seen == [("fixed", 5, 10, "n")]
    with engine.connect() as connection:
        assert connection.scalar(text('SELECT "the amount" FROM discount')) == 99


@pytest.mark.parametrize("switch", ["a name", "a case"])
def test_the_columns_of_a_subclass_are_those_of_the_event(engine: Engine, base: Any, switch: str) -> None:
    discount, fixed, _ = discounts(base, SWITCHES[switch])
    seen: list[Any] = []

    def collect(event: Any) -> None:
        sides = [event.old, event.new]
        seen.append((event.changed, *(row and (type(row), row.amount, row.note) for row in sides)))

    for model, name in ((discount, "of the base"), (fixed, "of the subclass")):
        after_insert(model, name=name)(collect)
        after_update(model, name=name)(collect)
        after_delete(model, name=name)(collect)
    base.metadata.create_all(engine)
    run(engine, ROW, """UPDATE discount SET "the amount" = 11""", "DELETE FROM discount")
    Listener(engine, base.metadata).drain()
    once = [
        ((), None, (fixed, 10, "n")),
        (("amount",), (fixed, 10, "n"), (fixed, 11, "n")),
        ((), (fixed, 11, "n"), None),
    ]
    assert sorted(map(repr, seen)) == sorted(map(repr, once * 2))


def test_of_three_levels_each_row_is_of_its_own(engine: Engine, base: Any) -> None:
    discount, fixed, rare = discounts(base, SWITCHES["a column"])
    seen: list[Any] = []

    @after_delete(discount)
    def collect(old: Any, session: Session) -> None:
        assert object_session(old) is session
        seen.append((type(old), getattr(old, "amount", None), getattr(old, "reason", None)))

    of_fixed: list[Any] = []

    @after_delete(fixed)
    def fixed_only(old: Any) -> None:
        of_fixed.append(type(old))

    save(engine, base, discount(), fixed(amount=1), rare(amount=2, reason="r"))
    run(engine, "DELETE FROM discount")
    Listener(engine, base.metadata).drain()
    assert seen == [(discount, None, None), (fixed, 1, None), (rare, 2, "r")]
    assert of_fixed == [fixed, rare]


def test_siblings_may_have_one_column_under_different_names(engine: Engine, base: Any) -> None:
    class Job(PubSub, base):  # type: ignore[misc]
        __tablename__ = "job"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_on": "kind", "polymorphic_identity": "job"}

    class Mail(Job):
        address: Mapped[str | None] = mapped_column("target", use_existing_column=True)
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "mail"}

    class Call(Job):
        number: Mapped[str | None] = mapped_column("target", use_existing_column=True)
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "call"}

    seen: list[Any] = []

    @after_update(Job)
    def collect(event: Any) -> None:
        name = event.changed[0]
        seen.append((type(event.new), name, getattr(event.old, name), getattr(event.new, name)))

    save(engine, base, Mail(address="a"), Call(number="1"))
    run(engine, "UPDATE job SET target = target || 'x'")
    Listener(engine, base.metadata).drain()
    assert seen == [(Mail, "address", "a", "ax"), (Call, "number", "1", "1x")]


@pytest.mark.parametrize("native", [True, False])
def test_the_discriminator_may_be_an_enum_alone_and_in_an_expression(
    engine: Engine, base: Any, native: bool
) -> None:
    kinds = Enum(Kind, native_enum=native, name="kind of thing", metadata=base.metadata)

    class Thing(PubSub, base):  # type: ignore[misc]
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[Kind] = mapped_column(kinds)
        __mapper_args__: ClassVar[Arguments] = {
            "polymorphic_on": "kind",
            "polymorphic_identity": Kind.OTHER,
        }

    class Fixed(Thing):
        amount: Mapped[int | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": Kind.FIXED}

    class Fact(PubSub, base):  # type: ignore[misc]
        __tablename__ = "fact"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[Kind] = mapped_column(kinds)
        __mapper_args__: ClassVar[Arguments] = {
            "polymorphic_on": case((kind == Kind.FIXED, 1), else_=2),
            "polymorphic_identity": 2,
        }

    class FixedFact(Fact):
        amount: Mapped[int | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": 1}

    seen: list[Any] = []

    @after_insert(Fact)
    @after_insert(Thing)
    def collect(new: Any) -> None:
        seen.append((type(new), new.kind))

    save(engine, base, Fixed(amount=1), FixedFact(kind=Kind.FIXED), Fact(kind=Kind.OTHER))
    Listener(engine, base.metadata).drain()
    assert sorted(seen, key=repr) == sorted(
        [(Fixed, Kind.FIXED), (FixedFact, Kind.FIXED), (Fact, Kind.OTHER)], key=repr
    )


def people(base: Any, switch: Any) -> tuple[Any, Any, Any]:
    """Return a hierarchy of three tables, and one class more in the second of them."""

    class Person(PubSub, base):  # type: ignore[misc]
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column()
        name: Mapped[str]
        __mapper_args__: ClassVar[Arguments] = {
            "polymorphic_on": switch(kind),
            "polymorphic_identity": "person",
        }

    class Engineer(Person):
        __tablename__ = "engineer"
        number: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
        language: Mapped[str | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "engineer"}

    class Chief(Engineer):
        __tablename__ = "chief"
        key: Mapped[int] = mapped_column(ForeignKey("engineer.number"), primary_key=True)
        amount: Mapped[int | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "chief"}

    return Person, Engineer, Chief


@pytest.mark.parametrize(
    "switch", [lambda kind: kind, lambda kind: case((kind != "", kind)), lambda kind: "kind"]
)
def test_a_row_of_a_joined_table_is_of_the_class_that_its_parent_tells(
    engine: Engine, base: Any, switch: Any
) -> None:
    person, engineer, chief = people(base, switch)
    seen: list[Any] = []

    @after_insert(person)
    @after_insert(engineer)
    @after_insert(chief)
    def collect(new: Any, session: Session) -> None:
        assert [session.get(model, new.id) is new for model in (person, chief)] == [True, True]
        seen.append((type(new), new.name, new.language, new.amount))
        new.amount = new.amount + 1

    base.metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO person (kind, name) VALUES ('chief', 'ann')",
        "INSERT INTO engineer VALUES (1, 'sql')",
        "INSERT INTO chief VALUES (1, 5)",
    )
    assert Listener(engine, base.metadata).drain() == 3
    assert seen == [(chief, "ann", "sql", 5), (chief, "ann", "sql", 6), (chief, "ann", "sql", 5)]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT amount FROM chief")) == 6


def test_a_deleted_row_of_a_joined_table_arrives_without_its_parent(engine: Engine, base: Any) -> None:
    person, engineer, chief = people(base, lambda kind: kind)
    seen: list[Any] = []

    @after_delete(engineer)
    def collect(old: Any) -> None:
        seen.append((old.id, old.number, old.language))

    save(engine, base, chief(name="ann", kind="chief", language="sql", amount=1))
    with Session(engine) as session:
        session.delete(session.get(person, 1))
        session.commit()
    Listener(engine, base.metadata).drain()
    assert seen == [(1, 1, "sql")]


def test_a_discriminator_that_does_not_travel_is_asked_of_the_row(engine: Engine, base: Any) -> None:
    class Animal(PubSub, base):  # type: ignore[misc]
        __tablename__ = "animal"
        __pubsub__ = Publish(exclude=["kind"])
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    class Dog(Animal):
        tricks: Mapped[int | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "dog"}

    seen: list[Any] = []

    @after_insert(Animal)
    def collect(new: Any) -> None:
        seen.append((type(new), new.tricks))
        new.tricks = 9

    save(engine, base, Dog(tricks=2))
    Listener(engine, base.metadata).drain()
    assert seen == [(Dog, 2)]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT tricks FROM animal")) == 9


def test_a_concrete_class_has_its_own_rows(engine: Engine, base: Any) -> None:
    class Employee(PubSub, ConcreteBase, base):  # type: ignore[misc]
        __tablename__ = "employee"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "employee", "concrete": True}

    class Manager(Employee):
        __tablename__ = "manager"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        amount: Mapped[int | None]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "manager", "concrete": True}

    seen: list[Any] = []

    @after_insert(Employee)
    @after_insert(Manager)
    @after_delete(Manager)
    def collect(event: Any) -> None:
        row = event.new or event.old
        seen.append((type(row), row.name, getattr(row, "amount", None)))
        if event.new is not None and type(row) is Manager:
            row.amount = 99

    save(engine, base, Employee(name="a"), Manager(name="b", amount=5))
    assert Listener(engine, base.metadata).drain() == 2
    run(engine, "DELETE FROM manager")
    assert Listener(engine, base.metadata).drain() == 1
    assert sorted(seen[:2], key=repr) == [(Employee, "a", None), (Manager, "b", 5)]
    assert seen[2:] == [(Manager, "b", 99)]


def test_a_discriminator_of_a_union_is_that_of_the_table(engine: Engine, base: Any) -> None:
    class Person(PubSub, base):  # type: ignore[misc]
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Engineer(PubSub, base):  # type: ignore[misc]
        __tablename__ = "engineer"
        id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
        amount: Mapped[int | None]

    tables = base.metadata.tables
    joined = tables["person"].join(tables["engineer"])
    union = polymorphic_union(  # type: ignore[no-untyped-call]
        {
            "engineer": joined.select()
            .with_only_columns(tables["person"].c.id, tables["person"].c.kind, tables["engineer"].c.amount)
            .subquery(),
            "person": tables["person"].select().where(tables["person"].c.kind == "person").subquery(),
        },
        None,
        "pjoin",
    )

    own: Any = type("Own", (DeclarativeBase,), {"metadata": base.metadata})

    class Human(PubSub, own):  # type: ignore[misc]
        __table__ = tables["person"]
        __mapper_args__: ClassVar[Arguments] = {
            "polymorphic_on": union.c.kind,
            "polymorphic_identity": "person",
            "with_polymorphic": ("*", union),
        }

    class Builder(Human):
        __table__ = tables["engineer"]
        __mapper_args__: ClassVar[Arguments] = {"polymorphic_identity": "engineer"}

    seen: list[Any] = []

    @after_insert(Human)
    def collect(new: Any) -> None:
        seen.append((type(new), new.kind, new.amount))

    base.metadata.create_all(engine)
    run(engine, "INSERT INTO person (kind) VALUES ('engineer')", "INSERT INTO engineer VALUES (1, 7)")
    Listener(engine, base.metadata).drain()
    assert seen == [(Builder, "engineer", 7)]


def test_a_column_property_is_that_of_the_event(engine: Engine, base: Any) -> None:
    class User(PubSub, base):  # type: ignore[misc]
        __tablename__ = "user"
        id: Mapped[int] = mapped_column(primary_key=True)
        first: Mapped[str] = mapped_column("First name")
        last: Mapped[str] = mapped_column()
        level: Mapped[Kind] = mapped_column(Enum(Kind, name="Level", metadata=base.metadata))
        places: Mapped[int] = mapped_column(Integer)
        price: Mapped[Decimal] = mapped_column()
        full = column_property(first + " " + last)
        fixed = column_property(level == Kind.FIXED)
        short = column_property(func.left(first, places))
        cents = column_property(cast(price * 100, Integer))

    def shown(user: Any) -> Any:
        return (user.full, user.fixed, user.short, user.cents)

    seen: list[Any] = []

    @after_insert(User)
    @after_update(User)
    @after_delete(User)
    def collect(event: Any) -> None:
        seen.extend(shown(row) for row in (event.old, event.new) if row is not None)

    save(engine, base, User(first="Ann", last="Lee", level=Kind.FIXED, places=2, price=Decimal("1.50")))
    run(engine, """UPDATE "user" SET "First name" = 'Bo', level = 'OTHER'""", 'DELETE FROM "user"')
    Listener(engine, base.metadata).drain()
    ann, bo = ("Ann Lee", True, "An", 150), ("Bo Lee", False, "Bo", 150)
    assert seen == [ann, ann, bo, bo]


def test_a_column_property_that_cannot_be_evaluated_harms_only_who_asks_for_it(
    engine: Engine, base: Any
) -> None:
    class Share(PubSub, base):  # type: ignore[misc]
        __tablename__ = "share"
        id: Mapped[int] = mapped_column(primary_key=True)
        parts: Mapped[int] = mapped_column()
        size = column_property(100 / parts)

    seen: list[Any] = []

    @after_insert(Share)
    def collect(new: Share) -> None:
        seen.append(new.parts)

    save(engine, base, Share(parts=4), Share(parts=0))
    Listener(engine, base.metadata).drain()
    assert sorted(seen) == [0, 4]
