"""Exactly once: a random history of writers and faults, two worker processes, one effect each.

The handlers write into a table without a unique constraint, in their own transaction, so an effect
that is lost or doubled shows. The history goes on from example to example: what one leaves behind is
there for the next.
"""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.cli.project import DEADLINE, Shop
from tests.cli.test_listen import children
from tests.waiting import wait_until

MODELS = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqla_pubsub import PubSub

    class Base(DeclarativeBase): ...

    class Item(PubSub, Base):
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        value: Mapped[int]

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
        listener: Mapped[str]
        what: Mapped[str]
"""
LISTENERS = """
    from datetime import timedelta
    from sqla_pubsub import RetryPolicy, after_delete, after_insert, after_update
    from shop.models import Effect, Item

    soon = RetryPolicy(max_attempts=100, initial=timedelta(0), max_delay=timedelta(milliseconds=20))

    def write(listener, event, old, new, session):
        row = old if new is None else new
        session.add(Effect(listener=listener, what=f"{event.operation[0]} {row.id} {row.value}"))

    @after_insert(Item)
    @after_update(Item)
    @after_delete(Item)
    def plain(event, old, new, session):
        write("plain", event, old, new, session)

    @after_insert(Item, ordered=True, retry=soon)
    @after_update(Item, ordered=True, retry=soon)
    @after_delete(Item, ordered=True, retry=soon)
    def in_order(event, old, new, session):
        write("in_order", event, old, new, session)
        if event.id % 5 == 0 and event.attempt == 1:
            raise RuntimeError("not at the first try")

    @after_insert(Item, retry=soon)
    def failing(event, old, new, session):
        write("failing", event, old, new, session)
        session.flush()
        if event.id % 3 == 0 and event.attempt < 3:
            raise RuntimeError("not yet")
"""


class Base(DeclarativeBase): ...


class Item(Base):
    """The table as a program sees it that knows nothing of listeners."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


FEW = st.integers(1, 12)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["insert", "orm", "bulk", "copy", "roll back", "savepoint"]), FEW),
        st.tuples(st.sampled_from(["update", "touch", "delete"]), FEW),
        st.tuples(st.sampled_from(["kill a worker", "cut a connection"]), st.just(1)),
    ),
    min_size=4,
    max_size=16,
)


class History:
    """Writes at random and keeps the list of what must have been handled."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.expected: list[str] = []
        self.values: dict[int, int] = {}
        self._last = 0
        shop.write("shop/models.py", MODELS)
        shop.write("shop/listeners.py", LISTENERS)
        shop.install()
        self.process = shop.listening("--processes", "2", workers=2)

    def act(self, action: str, count: int) -> None:
        """Do one thing."""
        match action:
            case "kill a worker":
                workers = children(self.process.pid)
                if workers:
                    os.kill(workers[0], signal.SIGKILL)
            case "cut a connection":
                with self.shop.engine.begin() as connection:
                    connection.execute(_CUT)
            case "update" | "touch" | "delete":
                self._change(action, count)
            case _:
                self._insert(action, count)

    def _insert(self, action: str, count: int) -> None:
        ids = list(range(self._last + 1, self._last + 1 + count))
        self._last += count
        rows = [{"id": number, "value": 0} for number in ids]
        statement = text("INSERT INTO item (id, value) VALUES (:id, :value)")
        with self.shop.engine.connect() as connection, connection.begin() as transaction:
            if action == "bulk":
                connection.execute(text("INSERT INTO item SELECT g, 0 FROM generate_series(:a, :b) AS g"),
                                   {"a": ids[0], "b": ids[-1]})  # fmt: skip
            elif action == "orm":
                with Session(connection, join_transaction_mode="rollback_only") as session:
                    session.add_all(Item(**row) for row in rows)
                    session.flush()
            elif action == "copy":
                _copy(connection, "".join(f"{number}\t0\n" for number in ids))
            else:
                connection.execute(statement, rows)
            if action == "savepoint":
                with connection.begin_nested() as savepoint:
                    connection.execute(text("UPDATE item SET value = 99 WHERE id = :id"), {"id": ids[0]})
                    savepoint.rollback()
            if action == "roll back":
                transaction.rollback()
                return
        self.values.update(dict.fromkeys(ids, 0))
        self.expected += [f"I {number} 0" for number in ids]

    def _change(self, action: str, count: int) -> None:
        ids = list(self.values)[-count:]
        if not ids:
            return
        statement = {
            "update": "UPDATE item SET value = value + 1 WHERE id = ANY(:ids)",
            "touch": "UPDATE item SET value = value WHERE id = ANY(:ids)",
            "delete": "DELETE FROM item WHERE id = ANY(:ids)",
        }[action]
        with self.shop.engine.begin() as connection:
            connection.execute(text(statement), {"ids": ids})
        for number in ids:
            if action == "update":
                self.values[number] += 1
                self.expected.append(f"U {number} {self.values[number]}")
            elif action == "delete":
                self.expected.append(f"D {number} {self.values.pop(number)}")

    def check(self) -> None:
        """Compare with the oracle, once everything is settled."""
        wait_until(self.shop.settled, 2 * DEADLINE, "the outbox to be empty")
        with self.shop.engine.connect() as connection:
            rows = connection.execute(text("SELECT listener, what FROM effect ORDER BY id")).all()
            assert connection.scalar(text("SELECT count(*) FROM pubsub_dead_letter")) == 0
        effects: dict[str, list[str]] = {"plain": [], "in_order": [], "failing": []}
        for listener, what in rows:
            effects[listener].append(what)
        assert sorted(effects["plain"]) == sorted(self.expected)
        assert sorted(effects["failing"]) == sorted(what for what in self.expected if what[0] == "I")
        assert by_item(effects["in_order"]) == by_item(self.expected)


def by_item(effects: list[str]) -> dict[str, list[str]]:
    """Return what happened to each row, in order."""
    found: dict[str, list[str]] = {}
    for what in effects:
        found.setdefault(what.split()[1], []).append(what)
    return found


def _copy(connection: Any, data: str) -> None:
    driver = connection.connection.driver_connection
    if hasattr(driver, "pgconn"):
        with driver.cursor().copy("COPY item (id, value) FROM STDIN") as copy:
            copy.write(data)
    else:
        driver.cursor().copy_expert("COPY item (id, value) FROM STDIN", io.StringIO(data))


_CUT = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ("
    " SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND query ILIKE '%pubsub%' ORDER BY random() LIMIT 1)"
)


@pytest.fixture
def history(tmp_path: Path, engine: Engine, url: str) -> Iterator[History]:
    """A history with two workers at work."""
    shop = Shop(tmp_path, engine, url)
    try:
        yield History(shop)
    finally:
        shop.close()


@pytest.mark.one_driver
@settings(
    max_examples=settings().max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(actions=ACTIONS)
def test_every_committed_event_has_exactly_one_effect_per_listener(
    history: History, actions: list[tuple[str, int]]
) -> None:
    for action, count in actions:
        history.act(action, count)
    history.check()
