"""Types of extensions and of the user's own, wherever they stand in the type of a column."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    func,
    text,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeEngine, UserDefinedType

from sqla_pubsub import Listener, PubSub, after_delete, after_insert, after_update


@pytest.fixture
def base() -> Any:
    """A declarative base with a metadata of this test."""

    class Base(DeclarativeBase):
        pass

    return Base


@pytest.fixture
def extension(engine: Engine) -> Callable[..., None]:
    """Install extensions, or skip the test where the server has none."""

    def install(*names: str, schema: str = "public") -> None:
        with engine.begin() as connection:
            for name in names:
                found = connection.scalar(
                    text("SELECT count(*) FROM pg_available_extensions WHERE name = :name"), {"name": name}
                )
                if not found:
                    pytest.skip(f"this server has no {name}")
                connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
                connection.execute(text(f"CREATE EXTENSION {name} SCHEMA {schema}"))
        engine.dispose()

    return install


def sides_of(engine: Engine, base: Any, model: Any, *statements: str) -> list[Any]:
    """Return all that arrives, both sides, of what the statements write; and what the ORM loads at the end."""
    sides: list[Any] = []

    @after_insert(model)
    @after_update(model)
    @after_delete(model)
    def collect(event: Any) -> None:
        sides.extend(side for side in (event.old, event.new) if side is not None)

    base.metadata.create_all(engine)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    Listener(engine, base.metadata).drain()
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT reason FROM pubsub_dead_letter")).all() == []
    return sides


class Sorted(TypeDecorator[dict[str, str | None]]):
    impl = pg.HSTORE
    cache_ok = True

    def process_result_value(self, value: Any, _: Any) -> Any:
        return None if value is None else dict(sorted(value.items()))


class Twice(TypeDecorator[Any]):
    impl = Sorted
    cache_ok = True

    def process_result_value(self, value: Any, _: Any) -> Any:
        return None if value is None else [value, value]


class Chosen(TypeDecorator[Any]):
    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        return dialect.type_descriptor(pg.HSTORE() if dialect.name == "postgresql" else JSON())


HSTORES: dict[str, TypeEngine[Any]] = {
    "plain": pg.HSTORE(),
    "decorated": Sorted(),
    "twice": Twice(),
    "chosen": Chosen(),
    "variant": JSON().with_variant(pg.HSTORE(), "postgresql"),
    "decorated_variant": String().with_variant(Sorted(), "postgresql"),
    "array": ARRAY(pg.HSTORE()),
    "decorated_array": ARRAY(Sorted()),
    "domain": pg.DOMAIN("labels", pg.HSTORE()),
}


@pytest.mark.every_server
def test_an_hstore_arrives_wherever_it_stands(
    engine: Engine, base: Any, extension: Callable[..., None]
) -> None:
    extension("hstore")

    class Item(PubSub, base):  # type: ignore[misc]
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        locals().update({name: Column(name, kind) for name, kind in HSTORES.items()})

    base.metadata.create_all(engine)
    value = '\'"b"=>NULL, "a"=>"it\'\'s \\"x\\" {\\\\}"\'::hstore'
    row = ", ".join(f"ARRAY[{value}, '']" if "array" in name else value for name in HSTORES)
    sides = sides_of(
        engine, base, Item,
        f"INSERT INTO item VALUES (1, {row})",
        "UPDATE item SET id = 2",
        "DELETE FROM item",
        f"INSERT INTO item VALUES (3, {row})",
    )  # fmt: skip
    found = {"b": None, "a": 'it\'s "x" {\\}'}
    expected = dict.fromkeys(HSTORES, found) | {
        "twice": [found, found], "array": [found, {}], "decorated_array": [found, {}],
    }  # fmt: skip
    assert [{name: getattr(side, name) for name in HSTORES} for side in sides] == [expected] * 5
    assert list(sides[0].decorated) == list(sides[0].decorated_array[0]) == ["a", "b"]


def test_two_models_with_equal_columns_have_each_their_own_variant(engine: Engine, base: Any) -> None:
    class One(PubSub, base):  # type: ignore[misc]
        __tablename__ = "one"
        id: Mapped[int] = mapped_column(primary_key=True)
        data: Mapped[Any] = mapped_column(String().with_variant(pg.JSONB(), "postgresql"))

    class Two(PubSub, base):  # type: ignore[misc]
        __tablename__ = "two"
        id: Mapped[int] = mapped_column(primary_key=True)
        data: Mapped[Any] = mapped_column(String().with_variant(ARRAY(Integer), "postgresql"))

    class Three(PubSub, base):  # type: ignore[misc]
        __tablename__ = "three"
        id: Mapped[int] = mapped_column(primary_key=True)
        data: Mapped[Any] = mapped_column(String())

    seen: list[Any] = []

    @after_insert(One)
    @after_insert(Two)
    @after_insert(Three)
    def collect(new: Any) -> None:
        seen.append(new.data)

    base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO one (data) VALUES ('[1, 2]')"))
        connection.execute(text("INSERT INTO two (data) VALUES ('{3,4}')"))
        connection.execute(text("INSERT INTO three (data) VALUES ('[5]')"))
    Listener(engine, base.metadata).drain()
    assert seen == [[1, 2], [3, 4], "[5]"]


@pytest.mark.every_server
def test_what_reflection_does_not_know_arrives_as_the_orm_loads_it(engine: Engine, base: Any) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                'CREATE SCHEMA "Far away";'
                'CREATE TYPE "Far away"."Full %s Address" AS (street text, "no" int, at timestamp);'
                'CREATE DOMAIN "Far away".home AS "Far away"."Full %s Address";'
                'CREATE TYPE "Far away".span AS RANGE (subtype = float8);'
                'CREATE TABLE person (id int PRIMARY KEY, home "Far away"."Full %s Address",'
                ' homes "Far away"."Full %s Address"[], deep "Far away"."Full %s Address"[][],'
                ' own "Far away".home, spans "Far away".span[], span "Far away".span)'
            )
        )
    with pytest.warns(SAWarning, match="Did not recognize type"):
        table = Table("person", base.metadata, autoload_with=engine)

    class Person(PubSub, base):  # type: ignore[misc]
        __table__ = table

    address = 'ROW(\'a "b", (c)\', 5, \'2026-01-02 03:04:05.5\')::"Far away"."Full %s Address"'.replace(
        ":", "\\:"
    )
    sides = sides_of(
        engine, base, Person,
        f"INSERT INTO person VALUES (1, {address}, ARRAY[{address}, NULL], ARRAY[[{address}],[{address}]], "
        f"{address}, '{{\"[1,2)\"}}', '[1,2.5)')",
        "UPDATE person SET id = 2",
    )  # fmt: skip
    names = ("home", "homes", "deep", "own", "spans", "span")
    with Session(engine) as session:
        row = session.get_one(Person, 2)
        loaded = {name: getattr(row, name) for name in names}
    assert [{name: getattr(side, name) for name in names} for side in sides] == [loaded] * 3


@pytest.mark.every_server
def test_types_of_extensions_off_the_path_arrive(
    engine: Engine, base: Any, extension: Callable[..., None]
) -> None:
    extension("citext", "ltree", schema="extensions")

    class Ltree(UserDefinedType[str]):
        cache_ok = True

        def get_col_spec(self, **_: Any) -> str:
            return "extensions.ltree"

    class Citext(pg.CITEXT):
        __visit_name__ = "user_defined"

        def get_col_spec(self, **_: Any) -> str:
            return "extensions.citext"

    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE page (id int PRIMARY KEY, way extensions.ltree, ways extensions.ltree[],"
                " name extensions.citext, names extensions.citext[], other extensions.ltree)"
            )
        )

    class Page(PubSub, base):  # type: ignore[misc]
        __tablename__ = "page"
        id: Mapped[int] = mapped_column(primary_key=True)
        way: Mapped[str] = mapped_column(Ltree)
        ways: Mapped[Any] = mapped_column(ARRAY(Ltree))
        name: Mapped[str] = mapped_column(pg.CITEXT)
        names: Mapped[Any] = mapped_column(ARRAY(pg.CITEXT))
        other: Mapped[str] = mapped_column(String)

    sides = sides_of(
        engine, base, Page,
        "INSERT INTO page VALUES (1, 'a.b', '{a.b,c}', 'Ann', '{Ann,\"B, C\"}', 'x.y')",
        "UPDATE page SET id = 2", "DELETE FROM page WHERE id = 2", "INSERT INTO page VALUES (3, 'a.b')",
    )  # fmt: skip
    assert [(s.way, s.name, s.other) for s in sides[:4]] == [("a.b", "Ann", "x.y")] * 4
    assert [list(s.names) for s in sides[:4]] == [["Ann", "B, C"]] * 4
    assert [s.ways for s in sides[:4]] == [["a.b", "c"]] * 4
    assert sides[4].ways is None


def test_money_arrives_as_the_writer_saw_it(engine: Engine, base: Any) -> None:
    class Bill(PubSub, base):  # type: ignore[misc]
        __tablename__ = "bill"
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[Any] = mapped_column(pg.MONEY)
        parts: Mapped[Any] = mapped_column(ARRAY(pg.MONEY))

    sides = sides_of(engine, base, Bill, "INSERT INTO bill VALUES (1, 1234.5, '{1,2000}')")
    with engine.begin() as connection:
        # As a writer of a German locale leaves it, which few servers have.
        connection.execute(
            text(
                "INSERT INTO pubsub_outbox (listener, operation, source, new) VALUES ('collect', 'INSERT', 'bill',"
                ' \'{"id": 2, "total": "1.234,50 €", "parts": ["2.000,00 €"]}\')'
            )
        )
    Listener(engine, base.metadata).drain()
    assert [(side.total, side.parts) for side in sides] == [
        ("$1,234.50", ["$1.00", "$2,000.00"]),
        ("1.234,50 €", ["2.000,00 €"]),
    ]


class Vector(TypeDecorator[Any]):
    """As pgvector's type: an array, whose comparison is one too."""

    impl = ARRAY(Float)
    cache_ok = True

    def process_result_value(self, value: Any, _: Any) -> Any:
        return None if value is None else np.asarray(value)


def test_values_that_compare_as_arrays_arrive(engine: Engine, base: Any) -> None:
    class Point(PubSub, base):  # type: ignore[misc]
        __tablename__ = "point"
        id: Mapped[int] = mapped_column(primary_key=True)
        place: Mapped[Any] = mapped_column(Vector)
        label: Mapped[str | None]

    seen: list[Any] = []

    @after_insert(Point)
    @after_update(Point)
    @after_delete(Point)
    def collect(event: Any) -> None:
        seen.append(event.changed)
        for side in (event.old, event.new):
            if side is not None:
                assert isinstance(side.place, np.ndarray)
                seen.append(side.place.tolist())
        if event.new is not None:
            assert event.new.label is None

    base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO point VALUES (1, '{1,2}')"))
        connection.execute(text("UPDATE point SET place = '{1,3}'"))
    Listener(engine, base.metadata).drain()
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM pubsub_outbox; DELETE FROM point"))
    Listener(engine, base.metadata).drain()
    assert seen == [(), [1.0, 2.0], ("place",), [1.0, 2.0], [1.0, 3.0], (), [1.0, 3.0]]


class Shouted(TypeDecorator[str]):
    """What the database puts around a column when it is selected."""

    impl = LargeBinary
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return func.upper(func.convert_from(column, "UTF8"))


def test_what_a_type_puts_around_a_column_is_evaluated(engine: Engine, base: Any) -> None:
    class Secret(PubSub, base):  # type: ignore[misc]
        __tablename__ = "secret"
        id: Mapped[int] = mapped_column(primary_key=True)
        word: Mapped[Any] = mapped_column(Shouted)

    sides = sides_of(engine, base, Secret, "INSERT INTO secret VALUES (1, 'abc')", "DELETE FROM secret")
    assert [side.word for side in sides] == ["ABC", "ABC"]


def test_lists_of_json_arrive_whatever_is_in_them(engine: Engine, base: Any) -> None:
    class Box(PubSub, base):  # type: ignore[misc]
        __tablename__ = "box"
        id: Mapped[int] = mapped_column(primary_key=True)
        one: Mapped[Any] = mapped_column(ARRAY(pg.JSON, dimensions=1))
        two: Mapped[Any] = mapped_column(ARRAY(pg.JSONB, dimensions=1))

    value = """'{"[1, 2]","{\\\\"a\\\\": [3]}","4",NULL}'""".replace("\\\\", "\\")
    sides = sides_of(engine, base, Box, f"INSERT INTO box VALUES (1, {value}, {value})")
    assert [(side.one, side.two) for side in sides] == [([[1, 2], {"a": [3]}, 4, None],) * 2]


def test_a_metadata_may_be_another(engine: Engine) -> None:
    """A type that turns NULL into something does not hide that a column was not stored."""

    class Filled(TypeDecorator[Any]):
        impl = String
        cache_ok = True

        def process_result_value(self, value: Any, _: Any) -> Any:
            return value or "filled"

    class Base(DeclarativeBase):
        metadata = MetaData()

    class Item(PubSub, Base):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        stored: Mapped[Any] = mapped_column(Filled)
        absent: Mapped[Any] = mapped_column(Filled, default="default")

    seen: list[Any] = []

    @after_insert(Item)
    def collect(new: Item) -> None:
        seen.append((new.stored, new.absent))

    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO pubsub_outbox (listener, operation, source, new)"
                " VALUES ('collect', 'INSERT', 'item', '{\"id\": 1, \"stored\": null}')".replace('":', '"\\:')
            )
        )
    Listener(engine, Base.metadata).drain()
    assert seen == [("filled", "default")]
