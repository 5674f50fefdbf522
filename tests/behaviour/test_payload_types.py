"""What a handler sees of a row is what the ORM would load from it, in every column type."""

import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Engine,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Text,
    Time,
    TypeDecorator,
    Unicode,
    Uuid,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeEngine

from sqla_pubsub import PubSub, RetryPolicy, Update, after_insert, after_update

pytestmark = pytest.mark.four_drivers

Drain = Callable[[Engine, MetaData], int]


class Colour(enum.Enum):
    RED = "r"
    DARK_BLUE = "dark 'blue'"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Cents(TypeDecorator[Decimal]):
    """Euros in Python, cents in the table."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, _: Any) -> int | None:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, _: Any) -> Decimal | None:
        return None if value is None else Decimal(value) / 100


def naive(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


NASTY = 'it\'s "quoted" \\ back %s %(x)s :name {b} ${1} \t\n\r \x01 é 漢字 🙂 \u2028'
FAR = timezone(timedelta(hours=-7))
metadata = MetaData()
native = Enum(Colour, name="Colour of Things", metadata=metadata)

VALUES: dict[str, tuple[TypeEngine[Any], list[Any]]] = {
    "boolean": (Boolean(), [True, False]),
    "smallint": (SmallInteger(), [-32768, 32767]),
    "integer": (Integer(), [-(2**31), 2**31 - 1]),
    "bigint": (BigInteger(), [2**53 + 1, -(2**63)]),
    "numeric": (Numeric(), [Decimal("0.1000"), Decimal("12345678901234567890.12345678901234567890")]),
    "numeric_38_10": (Numeric(38, 10), [Decimal("1234567890123456789012345678.0123456789"), Decimal("-0E-10")]),
    "numeric_nan": (Numeric(), [Decimal("NaN")]),
    "numeric_as_float": (Numeric(10, 3, asdecimal=False), [0.125, -1.5]),
    "float": (Float(), [0.1, 1e308, 5e-324]),
    "double": (Double(), [1 / 3, float("nan"), float("-inf")]),
    "real": (pg.REAL(), [0.1, -3.0]),
    "text": (Text(), [NASTY, "", "null", "NULL", '{"a": 1}']),
    "unicode": (Unicode(200), [NASTY]),
    "char": (pg.CHAR(5), ["ab   ", "abcde"]),
    "bytea": (LargeBinary(), [b"\x00\xff'%\\x41:a", b""]),
    "timestamptz": (
        DateTime(timezone=True),
        [datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=FAR), datetime(1, 1, 2, tzinfo=UTC)],
    ),
    "timestamp": (DateTime(), [naive(2026, 3, 29, 2, 30, 0, 1), naive(9999, 12, 31, 23, 59, 59)]),
    "date": (Date(), [date(2026, 12, 1), date(1, 1, 1)]),
    "time": (Time(), [time(23, 59, 59, 999999)]),
    "timetz": (Time(timezone=True), [time(1, 2, 3, tzinfo=FAR)]),
    "interval": (Interval(), [timedelta(days=-3, hours=5, microseconds=7), timedelta(0), timedelta(days=800)]),
    "uuid": (Uuid(), [UUID("00000000-0000-0000-0000-00000000abcd")]),
    "uuid_as_text": (Uuid(as_uuid=False), ["00000000-0000-0000-0000-00000000abcd"]),
    "enum_native": (native, [Colour.RED, Colour.DARK_BLUE]),
    "enum_by_value": (
        Enum(Colour, name="by_value", values_callable=lambda e: [item.value for item in e]),
        [Colour.RED, Colour.DARK_BLUE],
    ),
    "enum_not_native": (Enum(Size, native_enum=False), [Size.SMALL, Size.LARGE]),
    "enum_of_strings": (Enum("sad", "so 'so'", name="mood"), ["sad", "so 'so'"]),
    "array": (ARRAY(Integer), [[1, None, 3], []]),
    "array_of_text": (ARRAY(Text), [[NASTY, "a,b", "{}", "NULL", ""]]),
    "array_nested": (ARRAY(Numeric, dimensions=2), [[[Decimal("1.50"), Decimal(2)], [Decimal(3), Decimal("-4.000")]]]),
    "array_of_enum": (ARRAY(native), [[Colour.DARK_BLUE, Colour.RED]]),
    "array_of_uuid": (ARRAY(Uuid), [[UUID(int=5)]]),
    "array_of_bytea": (ARRAY(LargeBinary), [[b"\x00\\", b"'"]]),
    "array_of_timestamptz": (ARRAY(DateTime(timezone=True)), [[datetime(2026, 1, 1, tzinfo=UTC)]]),
    "int4range": (pg.INT4RANGE(), [pg.Range(1, 5), pg.Range(empty=True)]),
    "numrange": (pg.NUMRANGE(), [pg.Range(Decimal("1.50"), None, bounds="(]")]),
    "tstzrange": (pg.TSTZRANGE(), [pg.Range(datetime(2026, 1, 1, tzinfo=UTC), None)]),
    "daterange": (pg.DATERANGE(), [pg.Range(date(2026, 1, 1), date(2026, 2, 1))]),
    "json": (JSON(), [{"b": [1.5, None, {"é": NASTY}], "a": 1}, [], "text", 3]),
    "jsonb": (pg.JSONB(), [{"b": [1.5, None, {"é": "x"}], "a": 2**53 + 1}, "text"]),
    "inet": (pg.INET(), ["192.168.0.1/24", "::1"]),
    "cidr": (pg.CIDR(), ["192.168.0.0/24"]),
    "macaddr": (pg.MACADDR(), ["08:00:2b:01:02:03"]),
    "bit": (pg.BIT(3), ["101"]),
    "tsvector": (pg.TSVECTOR(), ["'fat':2 'rat':3"]),
    "decorated": (Cents(), [Decimal("12.34")]),
    "array_of_decorated": (ARRAY(Cents), [[Decimal("0.05"), Decimal(1)]]),
    "domain": (pg.DOMAIN("Positive Number", Integer, check="VALUE > 0", metadata=metadata), [7]),
}  # fmt: skip
READ_DIFFERENTLY = {"inet", "cidr", "bit"}
"""Written as text; whether text comes back depends on the driver and on SQLAlchemy's version."""
ROWS = max(len(values) for _, values in VALUES.values())


class Base(DeclarativeBase):
    metadata = metadata


class Everything(PubSub, Base):
    __tablename__ = "everything"
    id: Mapped[int] = mapped_column(primary_key=True)
    counter: Mapped[int] = mapped_column(default=0)
    locals().update({name: Column(name, kind) for name, (kind, _) in VALUES.items()})


received: list[tuple[str, int, dict[str, Any]]] = []


@after_insert(Everything)
@after_update(Everything)
def receive(event: Any) -> None:
    sides = [("old", event.old), ("new", event.new)] if isinstance(event, Update) else [("new", event.new)]
    received.extend((side, row.id, {name: getattr(row, name) for name in VALUES}) for side, row in sides)


def written(number: int) -> dict[str, Any]:
    """Return row *number*: a value per column, the first again where there is no other."""
    return {
        name: values[number] if number < len(values) else values[0] for name, (_, values) in VALUES.items()
    }


def same(one: Any, other: Any) -> bool:
    """NaN differs from itself, so what is written alike is alike too; a driver may have a UUID of its own."""
    return isinstance(one, type(other)) and (one == other or repr(one) == repr(other))


@pytest.fixture
def everything(engine: Engine) -> Engine:
    """Every row with every type, in tables of this test."""
    received.clear()
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        # What the capture fixes for itself: the writer's own settings must not show.
        connection.execute(
            text(
                "SET LOCAL DateStyle = 'German'; SET LOCAL IntervalStyle = 'postgres_verbose'; "
                "SET LOCAL bytea_output = 'escape'; SET LOCAL extra_float_digits = -5; SET LOCAL TimeZone = 'Asia/Tokyo'"
            )
        )
        connection.execute(insert(Everything), [{"id": n, **written(n)} for n in range(ROWS)])
        connection.execute(update(Everything).values(counter=1))
    return engine


def test_every_type_arrives_as_the_orm_would_load_it(everything: Engine, drain: Drain) -> None:
    assert drain(everything, Base.metadata) == 2 * ROWS
    with Session(everything) as session:
        loaded = {row.id: row for row in session.scalars(select(Everything))}
    different = [
        (side, name, value, getattr(loaded[number], name))
        for side, number, values in received
        for name, value in values.items()
        if not same(value, getattr(loaded[number], name))
    ]
    assert different == []
    assert sorted(side for side, _, _ in received) == ["new"] * 2 * ROWS + ["old"] * ROWS


def test_every_type_arrives_as_it_was_written(everything: Engine, drain: Drain) -> None:
    drain(everything, Base.metadata)
    assert len(received) == 3 * ROWS
    different = [
        (side, name, value, written(number)[name])
        for side, number, values in received
        for name, value in values.items()
        if name not in READ_DIFFERENTLY and not same(value, written(number)[name])
    ]
    assert different == []


def test_ten_megabytes_of_text_arrive(engine: Engine, drain: Drain) -> None:
    received.clear()
    Base.metadata.create_all(engine)
    text_column = "ab\"'\\é%:" * (10 * 2**20 // 8)
    with engine.begin() as connection:
        connection.execute(insert(Everything), {"id": 1, "text": text_column})
    assert drain(engine, Base.metadata) == 1
    assert received[0][2]["text"] == text_column


def test_columns_that_are_null_arrive_as_none(engine: Engine, drain: Drain) -> None:
    received.clear()
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO everything (id, counter) VALUES (1, 0)"))
    drain(engine, Base.metadata)
    assert received == [("new", 1, dict.fromkeys(VALUES))]


def test_what_psycopg2_cannot_write_arrives_as_the_orm_would_load_it(engine: Engine, drain: Drain) -> None:
    """Multiranges, which it reads as text, and infinite numbers; so they are written in SQL here."""

    class Own(DeclarativeBase):
        pass

    class Opening(PubSub, Own):
        __tablename__ = "opening"
        id: Mapped[int] = mapped_column(primary_key=True)
        hours: Mapped[Any] = mapped_column(pg.INT8MULTIRANGE)
        days: Mapped[Any] = mapped_column(pg.TSTZMULTIRANGE)
        price: Mapped[Decimal]

    rows: list[Any] = []

    @after_insert(Opening)
    def collect(new: Opening) -> None:
        rows.append((new.hours, new.days, new.price))

    Own.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO opening (hours, days, price) VALUES ('{}', '{}', '-Infinity'),"
                " ('{[8,12),[13,17)}', '{[2026-01-01 00:00+00,)}', 'Infinity')"
            )
        )
    drain(engine, Own.metadata)
    with Session(engine) as session:
        loaded = session.scalars(select(Opening).order_by(Opening.id))
        assert rows == [(row.hours, row.days, row.price) for row in loaded]


def test_infinity_arrives_as_far_as_the_driver_can_show_it(
    engine: Engine, drain: Drain, awaited: str | None
) -> None:
    """What it cannot show is a dead letter, and no event that has another value."""

    class Own(DeclarativeBase):
        pass

    class Lease(PubSub, Own):
        __tablename__ = "lease"
        id: Mapped[int] = mapped_column(primary_key=True)
        until: Mapped[date]
        at: Mapped[datetime]

    seen: list[Any] = []

    @after_insert(Lease, retry=RetryPolicy(max_attempts=1))
    def collect(new: Lease) -> None:
        seen.append((new.until, new.at))

    Own.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO lease (until, at) VALUES ('infinity', 'infinity')"))
    drain(engine, Own.metadata)
    with engine.connect() as connection:
        letters = connection.scalar(text("SELECT count(*) FROM pubsub_dead_letter"))
    shown = (awaited or engine.driver) != "psycopg"
    assert seen == ([(date.max, datetime.max)] if shown else [])  # noqa: DTZ901
    assert letters == (0 if shown else 1)


@pytest.mark.every_server
def test_hstore_arrives_as_a_dictionary(engine: Engine, drain: Drain) -> None:
    """PostgreSQL writes an hstore as a JSON object and cannot read it back as one."""
    with engine.begin() as connection:
        if connection.scalar(text("SELECT count(*) FROM pg_available_extensions WHERE name = 'hstore'")) == 0:
            pytest.skip("this server has no hstore")
        connection.execute(text("CREATE EXTENSION hstore"))
    engine.dispose()

    class Own(DeclarativeBase):
        pass

    class Labelled(PubSub, Own):
        __tablename__ = "labelled"
        id: Mapped[int] = mapped_column(primary_key=True)
        labels: Mapped[dict[str, str | None]] = mapped_column(pg.HSTORE)

    labels: list[Any] = []

    @after_insert(Labelled)
    def collect(new: Labelled) -> None:
        labels.append(new.labels)

    Own.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Labelled(labels={"a": NASTY, "b": None}))
        session.commit()
    drain(engine, Own.metadata)
    assert labels == [{"a": NASTY, "b": None}]
