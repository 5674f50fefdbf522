# ruff: noqa: DTZ001, DTZ901
"""A message arrives as it was published, and a context as it was set, or both are refused before they are stored."""

import enum
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import (
    ConfigurationError,
    Listener,
    Message,
    PubSub,
    after_insert,
    on_message,
    publish,
    set_context,
)

NAN, INFINITY = float("nan"), float("inf")
ODD = timezone(timedelta(hours=1, seconds=30))
HALF = "\ud83d"


class Base(DeclarativeBase): ...


class Note(PubSub, Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


@dataclass
class Place:
    lat: float
    tags: list[str] = field(default_factory=list)


@dataclass
class NamedPlace(Place):
    name: str = "here"


class Everything(Message, metadata=Base.metadata, name="everything"):
    number: int = 1
    ratio: float = 1.5
    maybe: float | None = None
    flag: bool = True
    text: str = ""
    price: Decimal = Decimal("1.50")
    at: datetime = datetime(2026, 1, 31, tzinfo=UTC)
    day: date = date(2026, 1, 31)
    clock: time = time(9, 30)
    took: timedelta = timedelta(seconds=1.5)
    key: uuid.UUID = uuid.UUID(int=7)
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    word: Word = Word.YES
    place: Place = field(default_factory=lambda: Place(1.0))
    places: list[Place] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)
    several: set[int] = field(default_factory=set)
    raw: bytes = b""
    pair: tuple[int, str] = (1, "a")
    anything: Any = None


arrived: list[Any] = []


@on_message(Everything)
def reader(new: Everything) -> None:
    arrived.append(new)


@after_insert(Note)
def noted(context: Any) -> None:
    arrived.append(context)


@pytest.fixture
def tables(engine: Engine) -> Engine:
    Base.metadata.create_all(engine)
    arrived.clear()
    return engine


GOOD: list[dict[str, Any]] = [
    {},
    {"number": 2**70}, {"number": -(10**4000)}, {"ratio": 3}, {"ratio": 1e308}, {"ratio": -0.0}, {"ratio": 5e-324},
    {"price": Decimal("NaN")}, {"price": Decimal("-Infinity")}, {"price": Decimal("1E+5")}, {"price": 5},
    {"at": datetime(2026, 1, 31)}, {"at": datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))},
    {"at": datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))},
    {"at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-23, minutes=-59)))}, {"at": datetime.min},
    {"clock": time(9, tzinfo=timezone(timedelta(hours=5, minutes=45)))},
    {"took": timedelta.max}, {"took": timedelta(days=-3, microseconds=7)},
    {"text": "a\0b \x1b \U0001f600 \\u0000 '\" % :x"}, {"text": Word.YES},
    {"place": Place(2.5, ["x\0"])}, {"places": [Place(1.0), Place(2.0)]},
    {"counts": {"a": 1, "": 2.5, "\0": 3}}, {"by_number": {1: "a", -2: "b"}}, {"several": {3, 1, 2}},
    {"raw": b"\xff\0"}, {"anything": {"a": [1, None, "x"]}}, {"maybe": 2}, {"level": 1},
]  # fmt: skip
BAD: list[tuple[dict[str, Any], str]] = [
    ({"ratio": NAN}, "ratio is nan"),
    ({"ratio": INFINITY}, "ratio is inf"),
    ({"maybe": -INFINITY}, "maybe is -inf"),
    ({"anything": [1, {"a": NAN}]}, r"anything\[1\]\['a'\] is nan"),
    ({"counts": {"a": NAN}}, r"counts\['a'\] is nan"),
    ({"place": Place(NAN)}, "place.lat is nan"),
    ({"places": [Place(1.0), Place(INFINITY)]}, r"places\[1\].lat is inf"),
    ({"number": "1"}, "Expected `int`, got `str`"),
    ({"number": True}, "Expected `int`, got `bool`"),
    ({"number": None}, "Expected `int`, got `null`"),
    ({"number": 10**5000}, "4300 digits"),
    ({"number": 1.0}, "Expected `int`, got `float`"),
    ({"flag": 1}, "Expected `bool`, got `int`"),
    ({"text": 1}, "Expected `str`, got `int`"),
    ({"text": uuid.UUID(int=1)}, "text is of type UUID and would arrive as str"),
    ({"text": f"a{HALF}"}, "text contains half a surrogate pair"),
    ({"places": [Place(1.0, [HALF])]}, r"places\[0\].tags\[0\] contains half a surrogate pair"),
    ({"counts": {HALF: 1}}, "a key of counts contains half a surrogate pair"),
    ({"ratio": 10**400}, "out of range"),
    ({"ratio": 2**53 + 1}, "ratio is of type int and would arrive as float"),
    ({"price": 0.5}, "price is of type float and would arrive as Decimal"),
    ({"price": "1.50"}, "price is of type str and would arrive as Decimal"),
    ({"at": datetime(2026, 1, 31, tzinfo=ODD)}, "at has an offset from UTC that cannot be written"),
    ({"at": datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))}, "at has an offset from UTC"),
    ({"at": datetime(2026, 1, 31, tzinfo=timezone(timedelta(microseconds=1)))}, "at has an offset from UTC"),
    ({"at": "2026-01-31T00:00:00Z"}, "at is of type str and would arrive as datetime"),
    ({"at": date(2026, 1, 31)}, "RFC3339"),
    ({"anything": datetime(2026, 1, 31)}, "anything is of type datetime and would arrive as str"),
    ({"day": datetime(2026, 1, 31)}, "RFC3339"),
    ({"clock": time(9, tzinfo=ODD)}, "clock has an offset from UTC"),
    ({"clock": time(9, tzinfo=ZoneInfo("Europe/Berlin"))}, "clock has an offset from UTC"),
    ({"took": 5}, "Expected `duration`"),
    ({"colour": "red"}, "colour is of type str and would arrive as Colour"),
    ({"colour": "blue"}, "Invalid enum value"),
    ({"place": NamedPlace(1.0)}, "place is of type NamedPlace and would arrive as Place"),
    ({"counts": {1: 1.0}}, "a key of counts is of type int and would arrive as str"),
    ({"by_number": {"x": "a"}}, "Expected `int`, got `str`"),
    ({"anything": {1: "a", "1": "b"}}, "anything has keys that are the same as text"),
    ({"anything": object()}, "object is unsupported"),
    ({"pair": (1, 2)}, "Expected `str`, got `int`"),
    ({"pair": (1, "a", 3)}, "length"),
]  # fmt: skip


@pytest.mark.one_driver
def test_all_types_that_travel_arrive_as_they_were_published(tables: Engine) -> None:
    sent = [Everything(**values) for values in GOOD]
    with Session(tables) as session, session.begin():
        for message in sent:
            publish(session, message)
    Listener(tables, Base.metadata).drain()
    assert list(map(repr, arrived)) == list(map(_repr, sent))


def _repr(sent: Everything) -> str:
    """With what the types of the fields make of a number or a word, and fixed offsets."""
    sent.ratio, sent.price, sent.text = float(sent.ratio), Decimal(sent.price), str(sent.text)
    sent.level, sent.maybe = Level(sent.level), None if sent.maybe is None else float(sent.maybe)
    sent.counts = {key: float(value) for key, value in sent.counts.items()}
    offset = sent.at.utcoffset()
    if offset is not None:
        sent.at = sent.at.replace(tzinfo=timezone(offset) if offset else UTC, fold=0)
    return repr(sent)


@pytest.mark.parametrize(("values", "found"), BAD, ids=[found for _, found in BAD])
@pytest.mark.one_driver
def test_what_would_arrive_as_something_else_is_refused_before_the_database_sees_it(
    engine: Engine, values: dict[str, Any], found: str
) -> None:
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    with Session(engine) as session, pytest.raises(ConfigurationError, match=found) as refused:
        publish(session, Everything(**values))
    assert "message 'everything' would not arrive as it is" in str(refused.value)
    assert str(refused.value).isprintable()
    assert asked == []


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _round() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring["itself"] = ring
    return ring


@pytest.mark.parametrize("make", [_deep, _round])
@pytest.mark.one_driver
def test_what_never_ends_is_refused(engine: Engine, make: Any) -> None:
    with Session(engine) as session:
        with pytest.raises(ConfigurationError):
            publish(session, Everything(anything=make()))
        with pytest.raises(ConfigurationError):
            set_context(session, value=make())


CONTEXTS: list[dict[str, Any]] = [
    {}, {"a": None, "b": [1, 2.5, True, {"c": "\U0001f600 \\u0000 \x1b"}]}, {"big": 10**4000}, {"small": 5e-324},
    {"word": Word.YES, "level": Level.LOW}, {"pair": (1, 2)}, {"Zoë %s :x": "\\ud800"},
]  # fmt: skip
NO_CONTEXTS: list[tuple[dict[str, Any], str]] = [
    ({"a": "x\0"}, r"context\['a'\] contains NUL"),
    ({"a": [{"b\0": 1}]}, r"a key of context\['a'\]\[0\] contains NUL"),
    ({"a\0": 1}, "a key of context contains NUL"),
    ({"a": HALF}, "half a surrogate pair"),
    ({"a": HALF + "\ude00"}, "half a surrogate pair"),
    ({HALF: 1}, "half a surrogate pair"),
    ({"a": {"b": {HALF: 1}}}, "half a surrogate pair"),
    ({"a": NAN}, "is nan"), ({"a": [INFINITY]}, "is inf"), ({"a": Decimal("NaN")}, "Decimal"),
    ({"a": Decimal(1)}, "Decimal"), ({"a": datetime(2026, 1, 31)}, "datetime"), ({"a": Colour.RED}, "Colour"),
    ({"a": {1: "x"}}, "key of context.* is of type int"), ({"a": {None: "x"}}, "is of type NoneType"),
    ({"a": {True: "x"}}, "is of type bool"), ({"a": {1: 1, "1": 2}}, "same as text"), ({"a": {(1,): 2}}, "tuple"),
    ({"a": 10**5000}, "digits"), ({"a": {1}}, "set"), ({"a": b"x"}, "bytes"), ({"a": Place(1.0)}, "Place"),
]  # fmt: skip


@pytest.mark.one_driver
def test_a_context_of_json_values_arrives_as_it_was_set(tables: Engine) -> None:
    for values in CONTEXTS:
        with Session(tables) as session, session.begin():
            set_context(session, **values)
            session.add(Note())
    Listener(tables, Base.metadata).drain()
    expected = [
        {key: list(value) if type(value) is tuple else value for key, value in values.items()}
        for values in CONTEXTS
    ]
    assert arrived == expected


@pytest.mark.parametrize(("values", "found"), NO_CONTEXTS, ids=[found for _, found in NO_CONTEXTS])
@pytest.mark.one_driver
def test_a_context_that_the_database_would_refuse_or_change_is_refused_before(
    engine: Engine, values: dict[str, Any], found: str
) -> None:
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    with Session(engine) as session, pytest.raises(ConfigurationError, match=found) as refused:
        set_context(session, **values)
    assert "no JSON" in str(refused.value)
    assert str(refused.value).isprintable()
    assert asked == []
