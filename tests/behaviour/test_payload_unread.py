"""A row that cannot be decoded is the concern of a handler that looks at it, and of no other."""

from typing import Any

import pytest
from sqlalchemy import Dialect, Engine, Integer, TypeDecorator, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import (
    DeadLetter,
    Listener,
    Message,
    PubSub,
    after_delete,
    after_insert,
    after_update,
    on_message,
    outbox,
)
from sqla_pubsub.errors import UnreadableEntry

pytestmark = pytest.mark.one_driver


GOOD = '{"id": 1, "size": 1}'
POISON = {
    "no object": '"text"',
    "an array": "[1, 2]",
    "two objects": '[{"id": 1}, {"id": 2}]',
    "JSON null": "null",
    "a word for a number": '{"id": 1, "size": "many"}',
    "what a TypeDecorator refuses": '{"id": 1, "size": 1000}',
}


OPTIONS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "batched": {"batch": 5},
    "ordered": {"ordered": True},
    "autonomous": {"transactional": False},
}


class Percent(TypeDecorator[int]):
    """Refuses what is no percentage."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        if value is not None and not 0 <= value <= 100:
            raise ValueError(f"{value} is no percentage")
        return value


class Store:
    """A table whose entries the test writes by hand."""

    def __init__(self, engine: Engine) -> None:
        class Base(DeclarativeBase):
            pass

        class Item(PubSub, Base):
            __tablename__ = "item"
            id: Mapped[int] = mapped_column(primary_key=True)
            size: Mapped[int] = mapped_column(Percent)

        class Viewed(Message, metadata=Base.metadata, name="viewed"):
            number: int

        self.engine, self.Base = engine, Base
        self.Item: Any = Item
        self.Viewed: Any = Viewed

    def put(self, listener: str, operation: str, old: str | None, new: str | None) -> None:
        self.Base.metadata.create_all(self.engine)
        source = "viewed" if operation == "MESSAGE" else "item"
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO pubsub_outbox (listener, operation, source, old, new)"
                    " VALUES (:listener, :operation, :source, :old, :new)"
                ),
                {"listener": listener, "operation": operation, "source": source, "old": old, "new": new},
            )

    def drain(self) -> int:
        return Listener(self.engine, self.Base.metadata).drain()

    def dead(self) -> list[DeadLetter]:
        with Session(self.engine) as session:
            return list(session.query(outbox(self.Base.metadata).DeadLetter))


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.mark.parametrize("way", OPTIONS)
@pytest.mark.parametrize("poison", POISON)
def test_a_handler_that_looks_at_no_row_is_called_for_one_that_cannot_be_decoded(
    store: Store, poison: str, way: str
) -> None:
    options = OPTIONS[way]
    seen: list[int] = []

    def one(event: Any) -> None:
        seen.append(event.id)

    def many(events: list[Any]) -> None:
        seen.extend(event.id for event in events)

    handler = many if way == "batched" else one
    for operation in (after_insert, after_update, after_delete):
        operation(store.Item, name="counts", **options)(handler)
    store.put("counts", "INSERT", None, GOOD)
    store.put("counts", "INSERT", None, POISON[poison])
    store.put("counts", "UPDATE", POISON[poison], GOOD)
    store.put("counts", "UPDATE", GOOD, POISON[poison])
    store.put("counts", "DELETE", POISON[poison], None)
    assert store.drain() == 5
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert store.dead() == []


@pytest.mark.parametrize("poison", POISON)
def test_the_other_side_of_an_update_is_read_all_the_same(store: Store, poison: str) -> None:
    seen: list[Any] = []

    @after_update(store.Item)
    def looks(event: Any) -> None:
        seen.append(event.new.size)
        with pytest.raises(UnreadableEntry, match=r"^outbox entry 2 for 'looks' cannot be read: "):
            _ = event.old

    store.put("looks", "UPDATE", GOOD, GOOD)
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM pubsub_outbox"))
    store.put("looks", "UPDATE", POISON[poison], GOOD)
    assert store.drain() == 1
    assert seen == [1]
    assert store.dead() == []


@pytest.mark.parametrize("asks", ["event", "new"])
@pytest.mark.parametrize("poison", POISON)
def test_a_handler_that_looks_at_such_a_row_leaves_a_dead_letter(
    store: Store, poison: str, asks: str
) -> None:
    seen: list[Any] = []
    if asks == "event":

        @after_insert(store.Item, name="looks")
        def _(event: Any) -> None:
            seen.append(event.new.size)
    else:

        @after_insert(store.Item, name="looks")
        def _(new: Any) -> None:
            seen.append(new.size)

    store.put("looks", "INSERT", None, GOOD)
    store.put("looks", "INSERT", None, POISON[poison])
    store.put("looks", "INSERT", None, GOOD)
    assert store.drain() == 3
    assert seen == [1, 1]
    (letter,) = store.dead()
    assert letter.reason.startswith("outbox entry 2 for 'looks' cannot be read: ")
    assert letter.attempt == 1


def test_what_changed_is_told_of_values_that_cannot_be_decoded(store: Store) -> None:
    seen: list[Any] = []

    @after_update(store.Item)
    def looks(event: Any) -> None:
        seen.append(event.changed)

    store.put("looks", "UPDATE", GOOD, '{"id": 1, "size": "many"}')
    store.put("looks", "UPDATE", GOOD, '{"id": 1, "size": 1000}')
    store.put("looks", "UPDATE", GOOD, '"text"')
    assert store.drain() == 3
    assert seen == [("size",), ("size",)]
    (letter,) = store.dead()
    assert letter.reason.startswith("outbox entry 3 for 'looks' cannot be read: ")


def test_a_message_is_read_when_the_handler_looks(store: Store) -> None:
    seen: list[str] = []

    @on_message(store.Viewed)
    def counts(event: Any) -> None:
        seen.append("counts")

    @on_message(store.Viewed)
    def looks(event: Any) -> None:
        seen.append(f"looks {event.new.number}")

    for name in ("counts", "looks"):
        store.put(name, "MESSAGE", None, '{"number": "many"}')
        store.put(name, "MESSAGE", None, '{"number": 3}')
    assert store.drain() == 4
    assert sorted(seen) == ["counts", "counts", "looks 3"]
    (letter,) = store.dead()
    assert letter.reason.startswith("outbox entry 3 is no readable message 'viewed': ")
