"""The project of the soak: listeners of every kind, and writers of every kind.

Each transaction that changes a row also writes down what it did, into a table that publishes nothing:
what is in there at the end was committed, whatever the writer was told.
"""

import io
import random
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

MODELS = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqla_pubsub import PubSub

    class Base(DeclarativeBase): ...

    class Item(PubSub, Base):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        value: Mapped[int]

    class Fact(Base):
        __tablename__ = "fact"
        id: Mapped[int] = mapped_column(primary_key=True)
        item: Mapped[str]

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
        listener: Mapped[str]
        item: Mapped[str]
        row: Mapped[int]
"""
LISTENERS = """
    import random
    from datetime import timedelta
    from sqla_pubsub import RetryPolicy, after_delete, after_insert, after_update
    from shop.models import Effect, Item

    # A lost connection counts as an attempt, and connections are lost all the time here.
    soon = RetryPolicy(max_attempts=500, initial=timedelta(milliseconds=10), max_delay=timedelta(milliseconds=200))

    def effect(listener, event):
        row = event.new or event.old
        return Effect(listener=listener, item=f"{event.operation} {row.id} {row.value}", row=row.id)

    def on_everything(**options):
        def decorate(function):
            for after in (after_insert, after_update, after_delete):
                function = after(Item, retry=soon, **options)(function)
            return function
        return decorate

    @on_everything()
    def plain(event, session):
        session.add(effect("plain", event))

    @on_everything(ordered=True)
    def in_order(event, session):
        session.add(effect("in_order", event))
        session.flush()
        if random.random() < 0.02:
            raise RuntimeError("now and then")

    @on_everything(batch=20)
    def batched(events, session):
        session.add_all(effect("batched", event) for event in events)

    @on_everything(transactional=False)
    def outside(event, session):
        session.add(effect("outside", event))
"""
AWAITED = """
    @on_everything()
    async def awaited(event, session):
        session.add(effect("awaited", event))
        await session.flush()

    @on_everything(ordered=True)
    async def awaited_in_order(event, session):
        session.add(effect("awaited_in_order", event))

    @on_everything(transactional=False)
    async def awaited_outside(event, session):
        session.add(effect("awaited_outside", event))
"""
"""More of them, where the driver can be awaited."""


class Base(DeclarativeBase): ...


class Item(Base):
    """The table as a program sees it that knows nothing of listeners."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class Fact(Base):
    """What a transaction did, if it was committed."""

    __tablename__ = "fact"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


INSERTED = text(
    "INSERT INTO fact (item) SELECT 'INSERT ' || g || ' 0' FROM generate_series(CAST(:a AS int), :b) AS g"
)
UPDATED = text(
    "WITH changed AS (UPDATE item SET value = value + 1 WHERE id IN (SELECT id FROM item WHERE id BETWEEN :a AND :b "
    "ORDER BY id FOR UPDATE) RETURNING id, value) "
    "INSERT INTO fact (item) SELECT 'UPDATE ' || id || ' ' || value FROM changed"
)
DELETED = text(
    "WITH gone AS (DELETE FROM item WHERE id IN (SELECT id FROM item WHERE id BETWEEN :a AND :b "
    "ORDER BY id FOR UPDATE) RETURNING id, value) "
    "INSERT INTO fact (item) SELECT 'DELETE ' || id || ' ' || value FROM gone"
)
SERIES = text("INSERT INTO item (id, value) SELECT g, 0 FROM generate_series(CAST(:a AS int), :b) AS g")


def by_orm(connection: Connection, a: int, b: int) -> None:
    """Add objects; change some of them in a second flush."""
    with Session(connection, join_transaction_mode="rollback_only") as session:
        items = [Item(id=number, value=0) for number in range(a, b + 1)]
        session.add_all([*items, *(Fact(item=f"INSERT {item.id} 0") for item in items)])
        session.flush()
        items[0].value = 1
        session.add(Fact(item=f"UPDATE {a} 1"))
        session.commit()


def by_bulk(connection: Connection, a: int, b: int) -> None:
    """Insert with Core, many rows in a statement."""
    connection.execute(insert(Item), [{"id": number, "value": 0} for number in range(a, b + 1)])
    connection.execute(INSERTED, {"a": a, "b": b})


def by_sql(connection: Connection, a: int, b: int) -> None:
    """Insert with one statement of SQL."""
    connection.execute(SERIES, {"a": a, "b": b})
    connection.execute(INSERTED, {"a": a, "b": b})


def by_copy(connection: Connection, a: int, b: int) -> None:
    """COPY."""
    driver: Any = connection.connection.driver_connection
    data = "".join(f"{number}\t0\n" for number in range(a, b + 1))
    statement = "COPY item (id, value) FROM STDIN"
    try:
        if hasattr(driver, "pgconn"):
            with driver.cursor().copy(statement) as copy:
                copy.write(data)
        else:
            driver.cursor().copy_expert(statement, io.StringIO(data))
    except connection.dialect.loaded_dbapi.Error as error:
        connection.invalidate(error)
        raise DBAPIError.instance(statement, None, error, connection.dialect.loaded_dbapi.Error) from error
    connection.execute(INSERTED, {"a": a, "b": b})


def rolled_back(connection: Connection, a: int, b: int) -> None:
    """Insert, and think better of it."""
    by_sql(connection, a, b)
    connection.rollback()


def savepoint(connection: Connection, a: int, b: int) -> None:
    """Insert, and undo an update by its savepoint."""
    by_sql(connection, a, b)
    with connection.begin_nested() as nested:
        connection.execute(UPDATED, {"a": a, "b": b})
        nested.rollback()


def updated(connection: Connection, a: int, _: int) -> None:
    """Update what was written before."""
    connection.execute(UPDATED, {"a": a - 20, "b": a - 1})


def deleted(connection: Connection, a: int, _: int) -> None:
    """Delete some of what was written before."""
    connection.execute(DELETED, {"a": a - 40, "b": a - 35})


KINDS: Mapping[str, Callable[[Connection, int, int], None]] = {
    kind.__name__: kind
    for kind in (by_orm, by_bulk, by_sql, by_copy, rolled_back, savepoint, updated, deleted)
}
LANE = 100_000_000
"""Room for the ids of one writer."""


class Writer(threading.Thread):
    """Writes at random until told to stop, and waits while too much is unhandled.

    Args:
        number: Which one; each has ids of its own.
        engine: Opens a connection for each transaction.
        rng: Decides what is written.
        crowded: Whether too much waits.
    """

    def __init__(self, number: int, engine: Engine, rng: random.Random, crowded: threading.Event) -> None:
        super().__init__()
        self._engine = engine
        self._rng = rng
        self._crowded = crowded
        self._next = number * LANE + 1
        self._enough = threading.Event()
        self.committed = dict.fromkeys(KINDS, 0)
        self.refused = 0

    def stop(self) -> None:
        """End after the transaction in hand."""
        self._enough.set()

    def run(self) -> None:
        """Write until stopped."""
        while not self._enough.is_set():
            if self._crowded.is_set():
                self._enough.wait(0.5)
                continue
            kind = self._rng.choice(list(KINDS))
            first, count = self._next, self._rng.randint(1, 12)
            self._next += count
            with suppress(DBAPIError):
                self.refused += 1
                with self._engine.begin() as connection:
                    KINDS[kind](connection, first, first + count - 1)
                self.refused -= 1
                self.committed[kind] += 1
            self._enough.wait(self._rng.uniform(0, 0.05))
