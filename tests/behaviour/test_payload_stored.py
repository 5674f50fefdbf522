"""What is stored is read, not what the model allows: an old worker beside a migration that widens columns."""

import enum
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    CHAR,
    REAL,
    Column,
    Engine,
    Enum,
    Float,
    Integer,
    Numeric,
    SmallInteger,
    String,
    TypeDecorator,
    select,
    text,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeEngine

from sqla_pubsub import Listener, PubSub, after_delete, after_insert, after_update


class Short(TypeDecorator[str]):
    impl = String(3)
    cache_ok = True

    def process_result_value(self, value: str | None, _: Any) -> str | None:
        return None if value is None else value.upper()


class Mood(enum.Enum):
    GOOD = "good"


def moment(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


WIDENED: dict[str, tuple[TypeEngine[Any], str, str, Any]] = {
    # name: (of the model, of the table by now, what is written, what is read)
    "numeric": (Numeric(5, 2), "numeric(12, 4)", "0.1234", Decimal("0.1234")),
    "numeric_whole": (Numeric(3, 0), "numeric", "12345678901234567890.5", Decimal("12345678901234567890.5")),
    "numeric_float": (Numeric(5, 2, asdecimal=False), "numeric", "0.1234", 0.1234),
    "text": (String(3), "text", "'longer'", "longer"),
    "char": (CHAR(3), "text", "'longer'", "longer"),
    "padded": (CHAR(3), "char(5)", "'ab'", "ab   "),
    "decorated": (Short(), "text", "'longer'", "LONGER"),
    "smallint": (SmallInteger(), "integer", "70000", 70000),
    "integer": (Integer(), "bigint", "5000000000", 5000000000),
    "real": (REAL(), "double precision", "0.1234567890123", 0.1234567890123),
    "float": (Float(), "double precision", "1e300", 1e300),
    "timestamp": (
        pg.TIMESTAMP(precision=0),
        "timestamp",
        "'2026-01-02 03:04:05.678901'",
        moment(2026, 1, 2, 3, 4, 5, 678901),
    ),
    "time": (pg.TIME(precision=0), "time", "'03:04:05.678901'", time(3, 4, 5, 678901)),
    "interval": (
        pg.INTERVAL(fields="DAY TO HOUR"),
        "interval",
        "'1 day 2:03:04.5'",
        timedelta(days=1, hours=2, minutes=3, seconds=4.5),
    ),
    "interval_of": (pg.INTERVAL(precision=0), "interval", "'1.25 s'", timedelta(seconds=1.25)),
    "domain": (pg.DOMAIN("short", String(3)), "text", "'longer'", "longer"),
    "numerics": (ARRAY(Numeric(5, 2)), "numeric[]", "'{0.1234,1}'", [Decimal("0.1234"), Decimal(1)]),
    "texts": (ARRAY(String(3)), "text[]", "'{longer,x}'", ["longer", "x"]),
    "decorateds": (ARRAY(Short), "text[]", "'{longer,x}'", ["LONGER", "X"]),
    "integers": (ARRAY(Integer), "bigint[]", "'{5000000000}'", [5000000000]),
    "moments": (
        ARRAY(pg.TIMESTAMP(precision=0)),
        "timestamp[]",
        "'{2026-01-02 03:04:05.5}'",
        [moment(2026, 1, 2, 3, 4, 5, 500000)],
    ),
    "range": (pg.INT4RANGE(), "int8range", "'[1,5000000000)'", pg.Range(1, 5000000000)),
    "words": (Enum("a", "b", name="word"), "text", "'c'", "c"),
    "many_words": (ARRAY(Enum("a", "b", name="word")), "text[]", "'{c}'", ["c"]),
}  # fmt: skip


@pytest.fixture
def base() -> Any:
    """A declarative base with a metadata of this test."""

    class Base(DeclarativeBase):
        pass

    return Base


@pytest.mark.every_server
def test_a_widened_column_arrives_as_it_was_written(engine: Engine, base: Any) -> None:
    class Wide(PubSub, base):  # type: ignore[misc]
        __tablename__ = "wide"
        id: Mapped[int] = mapped_column(primary_key=True)
        locals().update({name: Column(name, kind) for name, (kind, *_) in WIDENED.items()})

    sides: list[Any] = []

    @after_insert(Wide)
    @after_update(Wide)
    @after_delete(Wide)
    def collect(event: Any) -> None:
        sides.extend(side for side in (event.old, event.new) if side is not None)

    base.metadata.create_all(engine)
    with engine.begin() as connection:
        for name, (_, now, *_) in WIDENED.items():
            connection.execute(text(f"ALTER TABLE wide ALTER {name} TYPE {now} USING {name}::text::{now}"))
        written = ", ".join(each for _, _, each, _ in WIDENED.values())
        connection.execute(text(f"INSERT INTO wide ({', '.join(WIDENED)}) VALUES ({written})"))
        connection.execute(text("UPDATE wide SET id = 2"))
        connection.execute(text("DELETE FROM wide"))
    assert Listener(engine, base.metadata).drain() == 3
    expected = {name: read for name, (*_, read) in WIDENED.items()}
    assert [{name: getattr(side, name) for name in WIDENED} for side in sides] == [expected] * 4


def test_bits_arrive_as_they_were_written(engine: Engine, base: Any) -> None:
    class Mask(PubSub, base):  # type: ignore[misc]
        __tablename__ = "mask"
        id: Mapped[int] = mapped_column(primary_key=True)
        bits: Mapped[Any] = mapped_column(pg.BIT(3))
        few: Mapped[Any] = mapped_column(pg.BIT(3, varying=True))
        many: Mapped[Any] = mapped_column(ARRAY(pg.BIT(3)))

    seen: list[Any] = []

    @after_insert(Mask)
    def collect(new: Mask) -> None:
        seen.append((new.bits, new.few, new.many))

    base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "ALTER TABLE mask ALTER bits TYPE bit(5), ALTER few TYPE varbit, ALTER many TYPE bit(5)[];"
                "INSERT INTO mask (bits, few, many) VALUES ('10101', '111100001111', '{11111}')"
            )
        )
    Listener(engine, base.metadata).drain()
    with Session(engine) as session:
        bits, few = session.execute(select(Mask.bits, Mask.few)).one()
    assert seen == [(bits, few, [type(bits)("11111")])]
    assert (str(bits), str(few)) == ("10101", "111100001111")


def test_a_new_member_of_an_enum_is_unreadable_only_to_who_looks(engine: Engine, base: Any) -> None:
    class Day(PubSub, base):  # type: ignore[misc]
        __tablename__ = "day"
        id: Mapped[int] = mapped_column(primary_key=True)
        mood: Mapped[Mood]

    seen: list[Any] = []

    @after_insert(Day)
    def looks(new: Day) -> None:
        seen.append(("looks", new.mood))

    @after_insert(Day)
    def counts(event: Any) -> None:
        seen.append(("counts", event.attempt))

    base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TYPE mood ADD VALUE 'AWFUL'"))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO day (mood) VALUES ('GOOD'), ('AWFUL')"))
    Listener(engine, base.metadata).drain()
    assert sorted(seen, key=repr) == [("counts", 1), ("counts", 1), ("looks", Mood.GOOD)]
    with engine.connect() as connection:
        reason = connection.scalar(text("SELECT reason FROM pubsub_dead_letter"))
    assert reason is not None
    assert "cannot be read: LookupError: 'AWFUL' is not among the defined enum values" in reason
