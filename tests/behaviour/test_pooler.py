"""Behind a transaction pooler a connection of the server belongs to another program next: nothing stays on it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, ListenerConfig, RetryPolicy, after_insert
from tests.deliver.notes import DEADLINE, Notes, running
from tests.faults.test_network import PGBOUNCER, pgbouncer
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="PgBouncer is not installed. Run: apt-get install pgbouncer"
)
LEFT = (
    "SELECT current_setting('synchronous_commit'), current_setting('client_connection_check_interval'),"
    " current_setting('idle_in_transaction_session_timeout'), current_setting('idle_session_timeout'),"
    " current_setting('search_path'), current_setting('statement_timeout'), current_user,"
    " (SELECT count(*) FROM pg_prepared_statements)"
)


@pytest.fixture
def pooled(notes: Notes, url: str, tmp_path: Path) -> Iterator[Engine]:
    """An engine through PgBouncer, and limits of time in the database."""
    address = make_url(url)
    for name in ("idle_in_transaction_session_timeout", "idle_session_timeout"):
        notes.execute(f"ALTER DATABASE {address.database} SET {name} TO '1h'")
    with pgbouncer(tmp_path, address.port or 5432) as port:
        engine = create_engine(address.set(port=port))
        yield engine
        engine.dispose()


def left_on_the_server(engine: Engine) -> set[tuple[Any, ...]]:
    """Look at every connection of the server that the pooler has, by using several at a time."""
    connections = [engine.connect() for _ in range(4)]
    try:
        return {tuple(connection.execute(text(LEFT)).one()) for connection in connections}
    finally:
        for connection in connections:
            connection.rollback()
            connection.close()


def test_a_listener_leaves_no_setting_on_the_connections_of_the_server(notes: Notes, pooled: Engine) -> None:
    inside: list[Any] = []

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def handle(new: Any, session: Session) -> None:
        inside.append(tuple(session.execute(text(LEFT)).one()))
        session.execute(text("SET LOCAL search_path TO nowhere"))
        session.execute(text("SET LOCAL statement_timeout TO '5s'"))
        session.execute(
            text("INSERT INTO public.effect (listener, what) VALUES ('handle', :what)"), {"what": new.content}
        )

    notes.install()
    before = left_on_the_server(pooled)
    config = ListenerConfig(synchronous_commit=False, commit_every=timedelta(milliseconds=1))
    for number in range(8):
        notes.write(*(f"{number} {each}" for each in range(3)))
        assert Listener(pooled, notes.metadata, config).drain() == 3
    with running(Listener(pooled, notes.metadata, config)):
        notes.write(*map(str, range(20)))
        wait_until(lambda: notes.left() == 0, DEADLINE, "the events to be settled")
    assert len(notes.effects("handle")) == 44
    assert left_on_the_server(pooled) == before
    assert {(row[0], row[2]) for row in inside} == {("off", "0")}
    assert {row[4:6] for row in inside} == {('"$user", public', "0")}
    assert len(before) == 1


def test_psycopg_prepares_nothing_that_the_pooler_would_lose(notes: Notes, pooled: Engine) -> None:
    """One listener on many connections of the server, as a pooler before 1.21 would serve it."""

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.install()
    listener = Listener(pooled, notes.metadata, ListenerConfig(commit_every=timedelta(milliseconds=1)))
    with running(listener):
        for number in range(15):
            holding = pooled.connect()
            holding.execute(text("SELECT 1"))
            notes.write(str(number))
            wait_until(lambda: notes.left() == 0, DEADLINE, "the event to be settled")
            holding.rollback()
            holding.close()
    assert notes.effects("handle") == [str(number) for number in range(15)]
    assert {row[-1] for row in left_on_the_server(pooled)} == {0}
