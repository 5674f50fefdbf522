"""The database's momentary states: tried again at once, and not counted against the event."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from sqla_pubsub import Insert, Listener, RetryPolicy, after_insert
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.settle.outcome import FailureLimits
from tests.deliver.notes import DEADLINE, Notes, running
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
SHORTLY_IDLE = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE pid = :pid AND clock_timestamp() - state_change < interval '700ms'"
)
SOON = Limits(
    failure=FailureLimits(put_off=timedelta(milliseconds=10), longest_put_off=timedelta(milliseconds=40))
)
RAISE = "DO $$ BEGIN RAISE EXCEPTION 'momentary' USING ERRCODE = '{}'; END $$"


@pytest.mark.one_driver
@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57P01", "57P02", "57P03"])
def test_a_momentary_error_is_tried_again_and_not_counted(notes: Notes, state: str) -> None:
    calls: list[tuple[str, int]] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, event: Insert[Any], session: Session) -> None:
        calls.append((new.content, event.attempt))
        session.add(notes.effect("handle", new.content))
        if new.content == "b" and len([c for c in calls if c[0] == "b"]) <= 3:
            session.execute(text(RAISE.format(state)))

    notes.write("a", "b", "c")
    assert notes.drain() == 3
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "c"]
    assert {attempt for _, attempt in calls} == {1}
    assert notes.left() == 0


def test_an_error_that_stays_is_counted_in_the_end(notes: Notes) -> None:
    """At most five uncounted tries in a row: nothing loops for ever."""
    calls: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        calls.append(1)
        session.execute(text(RAISE.format("40001")))

    notes.write("a")
    assert notes.drain() == 1
    assert len(calls) == 6
    (letter,) = notes.dead()
    assert letter.attempt == 1
    assert "momentary" in letter.reason


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"batch": 10}, {"transactional": False}], ids=str)
def test_a_table_that_is_altered_beside_a_handler_costs_no_attempt(
    notes: Notes, options: dict[str, Any]
) -> None:
    """What was sent five times psycopg prepares, and what is prepared may not give other columns."""
    attempts: list[int] = []
    altered: list[Any] = []

    def read(new: Any, event: Insert[Any], session: Session) -> None:
        attempts.append(event.attempt)
        session.execute(text("SELECT * FROM mood")).all()
        session.add(notes.effect("handle", new.content))
        if new.content == "alter" and not altered:
            altered.append(new)
            # It would wait for the transaction of a group.
            if options.get("transactional", True):
                session.execute(text("ALTER TABLE mood ADD COLUMN another integer"))
            else:
                notes.execute("ALTER TABLE mood ADD COLUMN another integer")

    if "batch" in options:

        @after_insert(notes.Note, name="handle", retry=ONCE, **options)
        def together(events: list[Insert[Any]], session: Session) -> None:
            for event in events:
                read(event.new, event, session)
    else:
        after_insert(notes.Note, name="handle", retry=ONCE, **options)(read)
    notes.install()
    notes.execute("CREATE TABLE mood (size integer)")
    contents = [*"abcdefg", "alter", *"hijklm"]
    notes.write(*contents)
    wait_until(lambda: notes.drain() == 0 and not notes.entries(), DEADLINE, "all to be handled")
    assert notes.dead() == []
    assert set(map(str, notes.effects("handle"))) == set(contents)
    assert set(attempts) == {1}


def test_an_internal_error_that_stays_is_counted_in_the_end(notes: Notes) -> None:
    """As for a type that is gone: it passes with the connection, unless something is broken."""
    calls: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        calls.append(1)
        session.execute(
            text(
                "DO $$ BEGIN RAISE EXCEPTION 'cache lookup failed for type 7' USING ERRCODE = 'XX000'; END $$"
            )
        )

    notes.write("a")
    with running(notes.listener(limits=SOON)):
        wait_until(notes.dead, DEADLINE, "it to be given up")
    assert len(calls) == 6
    (letter,) = notes.dead()
    assert letter.attempt == 1


def test_an_error_of_the_event_itself_is_counted_at_once(notes: Notes) -> None:
    calls: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        calls.append(1)
        session.execute(text(RAISE.format("23505")))

    notes.write("a")
    assert notes.drain() == 1
    assert len(calls) == 1


def test_a_deadlock_with_a_writer_costs_the_event_nothing(notes: Notes) -> None:
    """The listener is the victim: the other side waits longer before it looks for a deadlock."""
    holding = threading.Event()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    calls: list[int] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        calls.append(1)
        session.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
        session.execute(text("UPDATE effect SET what = 'handler' WHERE listener = 'one'"))
        holding.set()
        if len(calls) == 1:
            # The server looks for a deadlock once a wait, and the writer looks too late.
            wait_until(lambda: notes.scalar(waiting) == 1, DEADLINE, "the writer to wait")
        session.execute(text("UPDATE effect SET what = 'handler' WHERE listener = 'two'"))

    notes.write("a")
    notes.execute("INSERT INTO effect (listener) VALUES ('one'), ('two')")

    def write() -> None:
        assert holding.wait(DEADLINE)
        with notes.engine.begin() as connection:
            connection.execute(text("SET LOCAL deadlock_timeout = '60s'"))
            connection.execute(text("UPDATE effect SET what = 'writer' WHERE listener = 'two'"))
            connection.execute(text("UPDATE effect SET what = 'writer' WHERE listener = 'one'"))

    writer = threading.Thread(target=write)
    with running(notes.listener()):
        writer.start()
        wait_until(lambda: notes.left() == 0, DEADLINE, "the event to be handled")
    writer.join()
    assert notes.scalar(waiting) == 0
    assert len(calls) == 2
    assert notes.effects("one") == ["handler"]
    assert notes.dead() == []


def test_a_lost_connection_under_a_handler_is_counted_and_the_event_tried_again(notes: Notes) -> None:
    """It may be this event that breaks the connection, every time."""

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=3, initial=timedelta(0)))
    def handle(new: Any, event: Insert[Any], session: Session) -> None:
        session.add(notes.effect("handle", f"{new.content} {event.attempt}"))
        session.flush()
        if new.content == "bad" and event.attempt == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    notes.write("a", "bad", "b")
    assert notes.drain() >= 3
    assert sorted(map(str, notes.effects("handle"))) == ["a 1", "b 1", "bad 2"]
    assert notes.left() == 0


def test_an_event_that_always_breaks_the_connection_is_a_dead_letter_in_the_end(notes: Notes) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=2, initial=timedelta(0)))
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()
        if new.content == "bad":
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    notes.write("a", "bad", "b")
    notes.drain()
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b"]
    assert [(letter.id, letter.attempt) for letter in notes.dead()] == [(2, 2)]


def test_an_idle_transaction_that_the_server_ends_is_counted(notes: Notes) -> None:
    """25P03 comes from the handler's own slowness."""

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '20ms'"))
        gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        wait_until(lambda: notes.scalar(gone, pid=pid) == 0, DEADLINE, "the server to end it")
        session.add(notes.effect("handle", "x"))

    notes.write("a")
    notes.drain()
    assert notes.effects("handle") == []
    assert [letter.attempt for letter in notes.dead()] == [1]


@pytest.mark.one_driver
def test_a_listener_that_lacks_a_right_waits_for_it_without_a_storm_of_connections(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", "x"))

    notes.write("a")
    notes.execute("CREATE ROLE weak LOGIN")
    engine = create_engine(notes.engine.url.set(username="weak"))
    notes.execute("GRANT SELECT ON pubsub_outbox TO weak")

    def losses() -> list[float]:
        return [record.created for record in caplog.records if "right.missing" in record.getMessage()]

    try:
        with running(Listener(engine, notes.metadata)):
            wait_until(lambda: len(losses()) >= 6, DEADLINE, "six failures")
            assert "role 'weak' lacks UPDATE (attempt, crashes, due_at, last_error)" in caplog.text
            assert losses()[5] - losses()[0] > 0.2
            notes.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO weak")
            notes.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO weak")
            wait_until(lambda: notes.left() == 0, DEADLINE, "the event to be handled")
    finally:
        engine.dispose()
        notes.execute("DROP OWNED BY weak")
        notes.execute("DROP ROLE weak")


def test_a_batch_that_breaks_its_connection_is_replayed_one_by_one(notes: Notes) -> None:
    @after_insert(notes.Note, batch=10, retry=ONCE)
    def handle(events: list[Insert[Any]], session: Session) -> None:
        for each in events:
            session.add(notes.effect("handle", each.new.content))
            session.flush()
            if each.new.content == "bad":
                session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    notes.write("a", "bad", "b")
    notes.drain()
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [2]


def test_an_exhausted_pool_is_waited_for(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    """The application's own threads may use the same engine."""

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", "x"))

    notes.write("a")
    engine = create_engine(notes.engine.url, pool_size=2, max_overflow=0, pool_timeout=0.05)
    holding = engine.connect()
    with running(Listener(engine, notes.metadata)):
        with holding:
            wait_until(lambda: "connection.waiting" in caplog.text, DEADLINE, "the listener to say so")
        wait_until(lambda: notes.effects("handle") == ["x"], DEADLINE, "the effect")
    engine.dispose()


@pytest.mark.one_driver
@pytest.mark.parametrize(
    ("limit", "transactional"),
    [
        ("idle_in_transaction_session_timeout", True),
        ("transaction_timeout", True),
        ("idle_session_timeout", False),
    ],
)
def test_a_limit_of_the_role_does_not_end_the_connection_under_a_slow_handler(
    notes: Notes, server: Server, limit: str, transactional: bool
) -> None:
    """How long a handler may take is what ``timeout=`` says."""
    if limit == "transaction_timeout" and server.version < 17:
        pytest.skip("PostgreSQL 17 brought it")
    calls: list[int] = []

    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(0)), transactional=transactional)
    def handle(session: Session) -> None:
        calls.append(1)
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        wait_until(lambda: not notes.scalar(SHORTLY_IDLE, pid=pid), DEADLINE, "the limit to pass")
        session.execute(text("SELECT 1"))
        if len(calls) > 1:
            listener.stop()

    notes.write("a")
    notes.execute("CREATE ROLE hasty LOGIN SUPERUSER")
    notes.execute(f"ALTER ROLE hasty SET {limit} = '500ms'")
    engine = create_engine(notes.engine.url.set(username="hasty"))
    listener = Listener(engine, notes.metadata)
    try:
        assert listener.drain() == 1
    finally:
        engine.dispose()
        notes.execute("DROP ROLE hasty")
    assert len(calls) == 1
    assert notes.left() == 0
