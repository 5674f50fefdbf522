"""``transactional=False``: slow outside work, with no transaction open and a claim that dies with its connection."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import UserDefinedType

from sqla_pubsub import Insert, Listener, ListenerConfig, PubSub, Reject, RetryPolicy, after_insert
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(initial=timedelta(0))
OTHERS = "pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"
SLEEPING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
CLAIM = "SELECT pg_try_advisory_lock(hashtextextended('pubsub_outbox'::regclass::oid || ':' || :id, 1))"


def test_no_transaction_is_open_while_the_handler_runs(notes: Notes) -> None:
    """Else it would hold back vacuum for as long as the outside work takes."""
    states: list[Any] = []

    @after_insert(notes.Note, transactional=False)
    def handle(new: Any) -> None:
        with notes.engine.connect() as connection:
            query = (
                f"SELECT state, xact_start IS NULL, backend_xmin IS NULL FROM pg_stat_activity WHERE {OTHERS}"
            )
            states.extend(connection.execute(text(query)).all())

    notes.write("a")
    assert notes.drain() == 1
    assert states
    assert set(states) == {("idle", True, True)}


def test_the_session_commits_statement_by_statement(notes: Notes) -> None:
    seen: list[Any] = []

    @after_insert(notes.Note, transactional=False, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()
        seen.append(notes.effects("handle"))
        session.commit()
        raise RuntimeError("what was written stays")

    notes.write("a")
    assert notes.drain() == 1
    assert seen == [["a"]]
    assert notes.effects("handle") == ["a"]
    assert len(notes.dead()) == 1


def test_what_the_handler_leaves_pending_is_written(notes: Notes) -> None:
    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b")
    assert notes.drain() == 2
    assert notes.effects("handle") == ["a", "b"]


def test_failures_follow_the_policy(notes: Notes) -> None:
    @after_insert(notes.Note, transactional=False, retry=RetryPolicy(max_attempts=3, initial=timedelta(0)))
    def handle(new: Any, event: Insert[Any], session: Session) -> None:
        if new.content == "rejected":
            raise Reject("never")
        if new.content == "bad" or event.attempt < 2:
            raise ValueError(new.content)
        session.add(notes.effect("handle", new.content))

    notes.write("good", "bad", "rejected")
    assert notes.drain() == 2 + 3 + 1
    assert notes.effects("handle") == ["good"]
    assert sorted((letter.id, letter.attempt, letter.reason) for letter in notes.dead()) == [
        (2, 3, "ValueError: bad"),
        (3, 1, "never"),
    ]


def test_an_unreadable_entry_is_a_dead_letter(notes: Notes) -> None:
    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b")
    notes.execute("UPDATE pubsub_outbox SET new = '\"text\"' WHERE id = 1")
    assert notes.drain() == 2
    assert notes.effects("handle") == ["b"]
    assert [letter.id for letter in notes.dead()] == [1]


@pytest.mark.parametrize("held", [1, 30])
def test_drain_ends_while_others_have_the_rest_in_hand(notes: Notes, held: int) -> None:
    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write(*map(str, range(held + 2)))
    with notes.engine.connect() as other:
        for number in range(1, held + 1):
            assert other.scalar(text(CLAIM), {"id": str(number)})
        listener = notes.listener()
        # Stopped from outside if it looks at the same entries again and again.
        watchdog = threading.Timer(DEADLINE, listener.stop)
        watchdog.start()
        assert listener.drain() == 2
        assert watchdog.is_alive()
        watchdog.cancel()
        other.rollback()
        other.execute(text("SELECT pg_advisory_unlock_all()"))
    assert notes.drain() == held


def test_retries_behind_those_that_others_have_in_hand_are_found(notes: Notes) -> None:
    """What is due longest is looked at first, and may have the higher ids."""

    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write(*map(str, range(1, 61)))
    notes.execute("UPDATE pubsub_outbox SET attempt = 1, due_at = now() - id * interval '1 minute'")
    with notes.engine.connect() as other:
        for number in range(31, 61):
            assert other.scalar(text(CLAIM), {"id": str(number)})
        assert notes.drain() == 30
        other.rollback()
        other.execute(text("SELECT pg_advisory_unlock_all()"))
    assert notes.drain() == 30


def test_a_worker_waiting_for_what_another_has_in_hand_does_not_spin(notes: Notes) -> None:
    statements: list[str] = []

    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("held")
    engine = create_engine(notes.engine.url)
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    with notes.engine.connect() as other:
        assert other.scalar(text(CLAIM), {"id": "1"})
        with running(Listener(engine, notes.metadata, ListenerConfig(poll_interval=timedelta(seconds=1)))):
            wait_until(lambda: len(statements) > 5, DEADLINE, "the listener to look")
            before = len(statements)
            threading.Event().wait(0.5)
            assert len(statements) - before < 60
            other.execute(text("SELECT pg_advisory_unlock_all()"))
            other.rollback()
            wait_until(lambda: notes.left() == 0, DEADLINE, "the event to be handled")
    engine.dispose()
    assert notes.effects("handle") == ["held"]


def test_two_workers_never_have_one_event_in_hand_together(notes: Notes) -> None:
    in_hand: set[int] = set()
    together: list[int] = []
    lock = threading.Lock()

    @after_insert(notes.Note, transactional=False)
    def handle(event: Insert[Any], session: Session) -> None:
        with lock:
            if event.id in in_hand:
                together.append(event.id)
            in_hand.add(event.id)
        session.add(notes.effect("handle", event.new.content))
        session.flush()
        with lock:
            in_hand.discard(event.id)

    notes.write(*map(str, range(60)))
    engines = [create_engine(notes.engine.url) for _ in range(3)]
    with running(*(Listener(engine, notes.metadata) for engine in engines)):
        wait_until(lambda: notes.left() == 0, DEADLINE, "an empty outbox")
    for engine in engines:
        engine.dispose()
    assert together == []
    assert sorted(map(str, notes.effects("handle"))) == sorted(map(str, range(60)))


def test_a_claim_dies_with_its_connection_and_is_not_acknowledged_late(notes: Notes) -> None:
    """The first worker goes on handling, but its acknowledgement goes nowhere."""
    first, go_on = threading.Event(), threading.Event()
    attempts: list[int] = []

    @after_insert(notes.Note, transactional=False, retry=ONCE)
    def handle(event: Insert[Any]) -> None:
        attempts.append(event.attempt)
        if len(attempts) == 1:
            first.set()
            assert go_on.wait(DEADLINE)

    notes.write("a")
    with running(notes.listener()):
        assert first.wait(DEADLINE)
        notes.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid ="
            " (hashtextextended('pubsub_outbox'::regclass::oid || '\\:1', 1) & x'ffffffff'::bigint)::oid"
        )
        notes.execute("UPDATE pubsub_outbox SET attempt = 5")
        go_on.set()
        wait_until(lambda: notes.left() == 0, DEADLINE, "the second try")
    assert attempts == [1, 6]
    assert notes.dead() == []


def test_a_stopped_listener_finishes_the_event_in_hand(notes: Notes) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b")
    listener = notes.listener()
    with running(listener):
        assert begun.wait(DEADLINE)
        listener.stop()
        go_on.set()
    assert notes.effects("handle") == ["a"]
    assert [(entry.id, entry.attempt) for entry in notes.entries()] == [(2, 0)]


def test_a_transactional_listener_runs_beside_it(notes: Notes) -> None:
    @after_insert(notes.Note, transactional=False)
    def outside(new: Any, session: Session) -> None:
        session.add(notes.effect("outside", new.content))

    @after_insert(notes.Note)
    def inside(new: Any, session: Session) -> None:
        session.add(notes.effect("inside", new.content))

    notes.write("a", "b")
    assert notes.drain() == 4
    assert notes.effects("outside") == notes.effects("inside") == ["a", "b"]


@pytest.mark.one_driver
def test_a_server_without_a_free_connection_is_not_the_fault_of_the_event(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler's own connection is opened before it runs; a failure of that is not counted."""
    calls: list[str] = []

    @after_insert(notes.Note, transactional=False, retry=ONCE)
    def handle(new: Any) -> None:
        calls.append(new.content)

    notes.install()
    limit = f"ALTER DATABASE {notes.engine.url.database} CONNECTION LIMIT"
    notes.execute("CREATE ROLE plain LOGIN")
    notes.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
    engine = create_engine(notes.engine.url.set(username="plain"))
    try:
        with running(Listener(engine, notes.metadata)):
            wait_until(lambda: notes.scalar(SLEEPING), DEADLINE, "the listener to sleep")
            notes.execute(f"{limit} 1")
            notes.write("a")
            wait_until(lambda: "too many connections" in caplog.text, DEADLINE, "the listener to say so")
            notes.execute(f"{limit} -1")
            wait_until(lambda: notes.left() == 0, DEADLINE, "the event to be handled")
    finally:
        engine.dispose()
        notes.execute("DROP OWNED BY plain")
        notes.execute("DROP ROLE plain")
    assert calls == ["a"]
    assert notes.dead() == []


@pytest.mark.one_driver
def test_a_stopped_listener_has_given_the_connection_of_its_sessions_back(notes: Notes) -> None:
    @after_insert(notes.Note, transactional=False)
    def handle(session: Session) -> None:
        session.execute(text("SELECT 1"))
        listener.stop()

    notes.write("a", "b")
    engine = create_engine(notes.engine.url)
    listener = Listener(engine, notes.metadata)
    listener.run()
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0
    engine.dispose()


def test_options_that_a_handler_gives_its_connection_are_not_for_the_next_event(notes: Notes) -> None:
    @after_insert(notes.Note, transactional=False, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "of ann":
            session.connection(execution_options={"schema_translate_map": {None: "ann"}})
        session.add(notes.effect("handle", new.content))

    notes.write("a", "of ann", "b")
    notes.execute("CREATE SCHEMA ann CREATE TABLE effect (LIKE public.effect INCLUDING ALL)")
    notes.execute("ALTER TABLE ann.effect ALTER id SET DEFAULT 1")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert notes.scalar("SELECT what FROM ann.effect") == "of ann"


@pytest.mark.parametrize("transactional", [True, False])
def test_a_right_that_is_missing_to_read_an_entry_is_not_the_fault_of_the_event(
    notes: Notes, transactional: bool
) -> None:
    """The type of a column stands in a schema that the role may not use."""

    class Mood(UserDefinedType[str]):
        cache_ok = True

        def get_col_spec(self, **_: Any) -> str:
            return "hidden.mood"

    class Thing(PubSub, notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        mood: Mapped[Any] = mapped_column(Mood)

    @after_insert(Thing, transactional=transactional, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.mood))

    notes.execute("CREATE SCHEMA hidden")
    notes.execute("CREATE DOMAIN hidden.mood AS text")
    notes.install()
    notes.execute("INSERT INTO thing (mood) VALUES ('good')")
    notes.execute("CREATE ROLE blind LOGIN")
    notes.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO blind")
    notes.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO blind")
    engine = create_engine(notes.engine.url.set(username="blind"))
    try:
        with pytest.raises(DBAPIError, match="permission denied for schema hidden"):
            Listener(engine, notes.metadata).drain()
        assert [(entry.attempt, entry.crashes) for entry in notes.entries()] == [(0, 0)]
        notes.execute("GRANT USAGE ON SCHEMA hidden TO blind")
        assert Listener(engine, notes.metadata).drain() == 1
    finally:
        engine.dispose()
        notes.execute("DROP OWNED BY blind")
        notes.execute("DROP ROLE blind")
    assert notes.effects("handle") == ["good"]


@pytest.mark.parametrize("by", ["what is left", "a statement"])
def test_a_connection_that_ends_in_a_handler_fails_its_event_alone(notes: Notes, by: str) -> None:
    """Whatever the driver calls that, and whenever it notices."""
    killed: list[int] = []

    @after_insert(notes.Note, transactional=False, retry=AT_ONCE)
    def handle(new: Any, session: Session) -> None:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        if new.content == "bad" and not killed:
            killed.append(pid)
            notes.execute("SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
        session.add(notes.effect("handle", new.content))
        if by == "a statement":
            session.flush()

    notes.write("a", "bad", "b")
    with running(notes.listener()):
        wait_until(lambda: notes.left() == 0, DEADLINE, "all to be handled")
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "bad"]
    assert len(killed) == 1
