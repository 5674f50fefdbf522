"""Stored payloads outlive the table they came from, and some cannot be read at all."""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Dialect, Engine, Enum, Integer, Text, TypeDecorator, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import DeadLetter, Listener, PubSub, after_insert, after_update, outbox
from tests.deliver.notes import Notes

pytestmark = pytest.mark.either_driver

INSERT_ENTRY = (
    "INSERT INTO pubsub_outbox (listener, operation, source, old, new)"
    " VALUES (:listener, :operation, :source, :old, :new)"
)


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Percent(TypeDecorator[int]):
    """Refuses what is no percentage."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        if value is not None and not 0 <= value <= 100:
            raise ValueError(f"{value} is no percentage")
        return value


class Store:
    """A table of today's shape, whose entries the test writes by hand."""

    def __init__(self, engine: Engine) -> None:
        class Base(DeclarativeBase):
            pass

        class Item(PubSub, Base):
            __tablename__ = "item"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]
            amount: Mapped[int] = mapped_column(default=3)
            tags: Mapped[str] = mapped_column(default=lambda: "made")
            place: Mapped[str] = mapped_column(server_default=text("'shelf'"))
            level: Mapped[Level] = mapped_column(Enum(Level, native_enum=False, length=20), default=Level.LOW)
            share: Mapped[int] = mapped_column(Percent, default=0)

        self.engine = engine
        self.Base = Base
        self.Item: Any = Item
        self.rows: list[Any] = []

        @after_update(Item)
        @after_insert(Item)
        def collect(new: Any) -> None:
            self.rows.append({name: getattr(new, name) for name in ("id", "name", "amount", "tags", "level")})

        Base.metadata.create_all(engine)

    def put(
        self, new: str | None, *, old: str | None = None, operation: str = "INSERT", source: str = "item"
    ) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text(INSERT_ENTRY),
                {"listener": "collect", "operation": operation, "source": source, "old": old, "new": new},
            )

    def drain(self) -> int:
        return Listener(self.engine, self.Base.metadata).drain()

    def dead(self) -> list[DeadLetter]:
        with Session(self.engine) as session:
            letter = outbox(self.Base.metadata).DeadLetter
            return list(session.query(letter).order_by(letter.id))

    @contextmanager
    def stored(self) -> Iterator[Session]:
        with Session(self.engine) as session:
            yield session
            session.commit()


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


GOOD = '{"id": 1, "name": "a", "amount": 1, "tags": "t", "place": "p", "level": "HIGH", "share": 1}'
GOOD_ROW = {"id": 1, "name": "a", "amount": 1, "tags": "t", "level": Level.HIGH}


def test_a_column_that_was_not_stored_has_the_default_of_the_model(store: Store) -> None:
    store.put('{"id": 1}')
    assert store.drain() == 1
    assert store.rows == [{"id": 1, "name": None, "amount": 3, "tags": "made", "level": Level.LOW}]


def test_a_column_that_was_stored_as_null_stays_none(store: Store) -> None:
    store.put('{"id": 1, "name": null, "amount": null, "tags": "t", "level": null}')
    store.drain()
    assert store.rows == [{"id": 1, "name": None, "amount": None, "tags": "t", "level": None}]


def test_a_column_with_a_server_default_is_read_from_the_row(engine: Engine, store: Store) -> None:
    places: list[str] = []

    @after_insert(store.Item)
    def place(new: Any) -> None:
        places.append(new.place)

    with store.stored() as session:
        session.add(store.Item(id=1, place="window"))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM pubsub_outbox"))
        connection.execute(
            text(INSERT_ENTRY),
            {"listener": "place", "operation": "INSERT", "source": "item", "old": None, "new": '{"id": 1}'},
        )
    assert store.drain() == 1
    assert places == ["window"]


def test_a_column_that_the_model_no_longer_has_is_ignored(store: Store) -> None:
    store.put(GOOD.replace("{", '{"gone": {"a": [1]}, ', 1))
    assert store.drain() == 1
    assert store.rows == [GOOD_ROW]


def test_a_number_that_is_text_now_is_read(store: Store) -> None:
    store.put(GOOD.replace('"a"', "17"))
    store.drain()
    assert store.rows == [GOOD_ROW | {"name": "17"}]


def test_an_entry_of_a_renamed_table_is_read(store: Store) -> None:
    """With one candidate there is no doubt which model is meant."""
    store.put(GOOD, source="old_name_of_item")
    store.drain()
    assert store.rows == [GOOD_ROW]


POISON = {
    "no object": '"text"',
    "an array": "[1, 2]",
    "an array of objects": '[{"id": 1}, {"id": 2}]',
    "JSON null": "null",
    "a word for a number": GOOD.replace('"amount": 1', '"amount": "many"'),
    "a number too large": GOOD.replace('"amount": 1', '"amount": 99999999999999999999'),
    "an unknown enum value": GOOD.replace("HIGH", "HIGHEST"),
    "what a TypeDecorator refuses": GOOD.replace('"share": 1', '"share": 1000'),
}


@pytest.mark.parametrize("poison", POISON)
def test_an_unreadable_entry_is_a_dead_letter_and_its_neighbours_are_handled(
    store: Store, poison: str
) -> None:
    new = POISON[poison]
    store.put(GOOD)
    store.put(new)
    store.put(GOOD)
    assert store.drain() == 3
    assert store.rows == [GOOD_ROW, GOOD_ROW]
    (letter,) = store.dead()
    assert letter.reason.startswith("outbox entry 2 for 'collect' ")
    assert letter.attempt == 1
    assert letter.new is not None or poison == "JSON null"


def test_many_unreadable_entries_hold_nothing_up(store: Store) -> None:
    for _ in range(30):
        store.put(GOOD)
        store.put('"text"')
    assert store.drain() == 60
    assert len(store.rows) == 30
    assert len(store.dead()) == 30


def test_an_unreadable_old_does_not_matter_to_a_handler_that_never_asks_for_it(store: Store) -> None:
    store.put(GOOD, old='"text"', operation="UPDATE")
    store.drain()
    assert store.rows == [GOOD_ROW]


def test_a_dead_letter_keeps_the_payload_as_it_was(store: Store) -> None:
    store.put('{"id": 1, "amount": "many", "n": 1.50}')
    store.drain()
    (letter,) = store.dead()
    assert letter.listener == "collect"
    assert letter.new == {"id": 1, "amount": "many", "n": 1.5}
    assert "invalid input syntax for type bigint" in letter.reason


def test_a_column_dropped_with_entries_waiting_reaches_the_handler_of_today(notes: Notes) -> None:
    class Draft(PubSub, notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "draft"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str] = mapped_column(Text)

    bodies: list[str] = []

    @after_insert(Draft)
    def collect(new: Draft) -> None:
        bodies.append(new.body)

    notes.install()
    notes.execute("ALTER TABLE draft ADD COLUMN mood text")
    notes.execute("INSERT INTO draft (body, mood) VALUES ('a', 'good')")
    notes.execute("ALTER TABLE draft DROP COLUMN mood")
    notes.execute("INSERT INTO draft (body) VALUES ('b')")
    assert notes.drain() == 2
    assert bodies == ["a", "b"]
