"""The claims of ``transactional=False``: nobody who may not settle entries can take one, or keep others from it."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from sqla_pubsub import RetryPolicy, after_insert, outbox
from sqla_pubsub.deliver.claim.hold import Holds
from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.deliver.instrument import Instrument
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

LATER = RetryPolicy(initial=timedelta(hours=1))
SEEN = (
    "SELECT (l.classid::bigint << 32) | l.objid::bigint FROM pg_locks AS l"
    " WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.pid <> pg_backend_pid()"
)


@pytest.fixture
def role(notes: Notes) -> Iterator[str]:
    """A role that may connect, and nothing else."""
    name = f"stranger_{notes.engine.url.database}"
    notes.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    with notes.engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def stranger(notes: Notes, role: str) -> Iterator[Connection]:
    """A session of that role."""
    engine = create_engine(notes.engine.url.set(username=role))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection
        connection.execute(text("SELECT pg_advisory_unlock_all()"))
    engine.dispose()


@pytest.mark.parametrize("function", ["pg_advisory_lock", "pg_advisory_lock_shared"])
def test_a_stranger_who_holds_all_keys_that_can_be_guessed_keeps_nothing_stuck(
    notes: Notes, stranger: Connection, function: str, caplog: pytest.LogCaptureFixture
) -> None:
    @after_insert(notes.Note, transactional=False)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.install()
    oid = notes.scalar("SELECT 'pubsub_outbox'::regclass::oid")
    guessed = f"SELECT {function}(hashtextextended({oid} || ':' || n, 1)) FROM generate_series(1, 200) AS n"
    stranger.execute(text(guessed)).all()
    notes.write(*map(str, range(50)))
    with caplog.at_level(logging.WARNING):
        assert notes.drain() == 50
    assert sorted(notes.effects("handle"), key=lambda what: int(what or 0)) == list(map(str, range(50)))
    [record] = [record for record in caplog.records if record.message.startswith("claim.foreign")]
    assert "stranger_" in record.message


def test_a_key_that_was_seen_once_is_worth_nothing_for_a_retry(notes: Notes, stranger: Connection) -> None:
    """It is shown to everybody in pg_locks while it is held, and free between two tries."""
    seen: list[int] = []

    @after_insert(notes.Note, transactional=False, retry=LATER)
    def handle(new: Any) -> None:
        if not seen:
            seen.extend(stranger.scalars(text(SEEN)).all())
            raise ValueError("again")

    notes.write("a")
    assert notes.drain() == 1
    assert seen
    for key in seen:
        assert stranger.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key})
    notes.execute("UPDATE pubsub_outbox SET due_at = now()")
    assert notes.drain() == 1
    assert notes.left() == 0


def test_a_lock_of_a_prepared_transaction_is_a_strangers(notes: Notes, stranger: Connection) -> None:
    """It has no process; a worker always has one."""

    @after_insert(notes.Note, transactional=False)
    def handle() -> None: ...

    notes.write("a")
    oid = notes.scalar("SELECT 'pubsub_outbox'::regclass::oid")
    stranger.execute(text("BEGIN"))
    stranger.execute(text(f"SELECT pg_advisory_xact_lock(hashtextextended('{oid}:1', 1))"))
    stranger.execute(text("PREPARE TRANSACTION 'stuck'"))
    try:
        assert notes.drain() == 1
    finally:
        stranger.execute(text("ROLLBACK PREPARED 'stuck'"))


def test_two_workers_share_what_a_stranger_locked(notes: Notes, stranger: Connection) -> None:
    """The lock is not what keeps them apart."""
    inside: list[int] = []
    together: list[int] = []
    handled: list[int] = []

    @after_insert(notes.Note, transactional=False)
    def handle(event: Any) -> None:
        if event.id in inside:
            together.append(event.id)
        inside.append(event.id)
        notes.scalar("SELECT 1")
        inside.remove(event.id)
        handled.append(event.id)

    notes.install()
    oid = notes.scalar("SELECT 'pubsub_outbox'::regclass::oid")
    stranger.execute(
        text(f"SELECT pg_advisory_lock(hashtextextended('{oid}:' || n, 1)) FROM generate_series(1, 100) n")
    )
    notes.write(*map(str, range(100)))
    with running(*(notes.listener() for _ in range(3))):
        wait_until(lambda: notes.left() == 0, 2 * DEADLINE, "the events to be handled")
    assert together == []
    assert sorted(handled) == list(range(1, 101))


@pytest.mark.parametrize("inherits", ["INHERIT", "NOINHERIT"])
def test_a_role_that_may_settle_entries_is_no_stranger(
    notes: Notes, role: str, stranger: Connection, inherits: str
) -> None:
    """A worker of an earlier release, whose only claim is the lock; by membership too."""
    handled: list[str] = []

    @after_insert(notes.Note, transactional=False)
    def handle(new: Any) -> None:
        handled.append(new.content)

    notes.write("a")
    group = f"group_{notes.engine.url.database}"
    notes.execute(f"CREATE ROLE {group}")
    try:
        notes.execute(f"GRANT DELETE ON pubsub_outbox TO {group}")
        notes.execute(f"GRANT {group} TO {role}")
        notes.execute(f"ALTER ROLE {role} {inherits}")
        oid = notes.scalar("SELECT 'pubsub_outbox'::regclass::oid")
        assert stranger.scalar(text(f"SELECT pg_try_advisory_lock(hashtextextended('{oid}:1', 1))"))
        assert notes.drain() == 0
        stranger.execute(text("SELECT pg_advisory_unlock_all()"))
        assert notes.drain() == 1
    finally:
        notes.execute(f"DROP OWNED BY {group}")
        notes.execute(f"DROP ROLE {group}")
    assert handled == ["a"]


def claimed(connection: Connection, holds: Holds, ids: list[int]) -> list[int]:
    found = []
    for entry_id in ids:
        with connection.begin() as transaction:
            if holds.take("handle", [entry_id]):
                found.append(entry_id)
            else:
                transaction.rollback()
        holds.leave(entry_id)
    return found


def test_one_connection_holds_hundreds_of_claims_and_all_end_with_it(notes: Notes) -> None:
    """Without a lock of the server, of which there are not enough."""

    @after_insert(notes.Note, transactional=False)
    def handle() -> None: ...

    notes.write(*map(str, range(300)))
    ids = [entry.id for entry in notes.entries()]
    statements = Statements(outbox(notes.metadata))
    with notes.engine.connect() as first, notes.engine.connect() as second:
        assert claimed(first, Holds(first, statements, Instrument()), ids) == ids
        assert first.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
        first.rollback()
        others = Holds(second, statements, Instrument())
        assert claimed(second, others, ids) == []
        first.invalidate()
        wait_until(lambda: claimed(second, others, ids[:1]), DEADLINE, "the claims to be free")
        assert claimed(second, others, ids) == ids


def test_a_claim_names_its_process_and_keeps_the_error_before_it(notes: Notes) -> None:
    errors: list[str] = []

    @after_insert(notes.Note, transactional=False, retry=LATER)
    def handle(new: Any) -> None:
        errors.append(notes.scalar("SELECT last_error FROM pubsub_outbox"))
        raise ValueError("the reason")

    notes.write("a")
    for _ in range(2):
        assert notes.drain() == 1
        [entry] = notes.entries()
        assert str(entry.last_error).startswith("Traceback")
        notes.execute("UPDATE pubsub_outbox SET due_at = now()")
    assert all(error.startswith("in hand: server process ") for error in errors)
    assert errors[0].count("\n") == 1
    assert errors[1].endswith("ValueError: the reason\n")


def test_what_is_given_back_keeps_no_claim(notes: Notes) -> None:
    """A try that the database's momentary state ended is not counted, and leaves nothing."""
    tries: list[Any] = []

    @after_insert(notes.Note, transactional=False)
    def handle(session: Session) -> None:
        tries.append(notes.scalar("SELECT last_error FROM pubsub_outbox"))
        if len(tries) == 1:
            session.execute(text("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$"))

    notes.write("a")
    listener = notes.listener()
    assert listener.drain() == 1
    assert len(tries) == 2
    assert all(error.count("in hand") == 1 for error in tries)
    assert notes.left() == 0
