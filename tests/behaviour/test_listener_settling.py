"""What is settled is settled in the transaction that claimed it, and it is looked at whether it was."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, ListenerConfig, RetryPolicy, after_insert
from sqla_pubsub.errors import NotSettled
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

ONCE = RetryPolicy(max_attempts=1)
LONG = timedelta(seconds=30)
SOON = RetryPolicy(initial=timedelta(0), jitter=False)
KINDS: dict[str, dict[str, Any]] = {
    "each": {},
    "database": {"effects": "database"},
    "batch": {"batch": 3},
    "timed": {"timeout": LONG},
    "ordered": {"ordered": True},
    "outside": {"transactional": False},
}
SWALLOW = (
    "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
    " CREATE TRIGGER swallow BEFORE {} ON {} FOR EACH ROW EXECUTE FUNCTION swallow()"
)
CURED = "DROP FUNCTION swallow CASCADE"


def declare(notes: Notes, kind: str, work: Callable[[Session, list[str]], None], **options: Any) -> None:
    """Declare the listener 'handle' of one kind, which does *work* with the contents of its events."""
    decorate = after_insert(notes.Note, name="handle", **KINDS[kind], **options)
    if kind == "batch":

        @decorate
        def together(events: list[Any], session: Session) -> None:
            work(session, [each.new.content for each in events])

    else:

        @decorate
        def one(new: Any, session: Session) -> None:
            work(session, [new.content])


def write_effects(notes: Notes, session: Session, contents: list[str]) -> None:
    for content in contents:
        session.execute(
            text("INSERT INTO effect (listener, what) VALUES ('handle', :what)"), {"what": content}
        )


@pytest.mark.either_driver
@pytest.mark.parametrize("kind", KINDS)
def test_an_acknowledgement_that_is_swallowed_is_an_error_and_has_no_second_effect(
    notes: Notes, kind: str
) -> None:
    """Also where the handler's work cannot be undone: it is called again when the outbox is well."""
    calls: list[list[str]] = []

    def work(session: Session, contents: list[str]) -> None:
        calls.append(contents)
        write_effects(notes, session, contents)

    declare(notes, kind, work)
    notes.write("a", "b", "c")
    notes.execute(SWALLOW.format("DELETE", "pubsub_outbox"))
    listener = notes.listener()
    with pytest.raises(NotSettled, match="could not be deleted"):
        listener.drain()
    assert len(calls) == 1
    assert len(notes.effects("handle")) == (1 if kind == "outside" else 0)
    assert len(notes.entries()) == 3
    notes.execute(CURED)
    assert notes.drain() == 3
    assert sorted(map(str, notes.effects("handle"))) == [*(["a"] if kind == "outside" else []), "a", "b", "c"]
    assert notes.left() == 0


@pytest.mark.either_driver
@pytest.mark.in_turn("kind")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_attempts", [1, 5])
@pytest.mark.parametrize("what", [("UPDATE", "pubsub_outbox"), ("INSERT", "pubsub_dead_letter")])
def test_a_failure_that_is_swallowed_is_an_error(
    notes: Notes, kind: str, what: tuple[str, str], max_attempts: int
) -> None:
    def work(session: Session, contents: list[str]) -> None:
        raise ValueError

    policy = RetryPolicy(max_attempts=max_attempts, initial=LONG)
    declare(notes, kind, work, retry=policy)
    notes.write("a")
    notes.execute(SWALLOW.format(*what))
    swallowed = (max_attempts == 1) == (what[0] == "INSERT")
    if swallowed:
        with pytest.raises(NotSettled, match="moved to the dead" if max_attempts == 1 else "updated"):
            notes.drain()
        assert [entry.attempt for entry in notes.entries()] == [0]
        notes.execute(CURED)
    assert notes.drain() == 1
    assert [entry.attempt for entry in notes.entries()] == ([] if max_attempts == 1 else [1])
    assert len(notes.dead()) == (max_attempts == 1)


@pytest.mark.either_driver
@pytest.mark.parametrize("kind", ["each", "batch", "outside"])
def test_a_running_listener_backs_off_while_its_acknowledgement_is_swallowed(
    notes: Notes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, rehearses now and then, and lets its neighbours work."""
    calls: list[list[str]] = []
    other: list[str] = []

    @after_insert(notes.Note)
    def neighbour(new: Any) -> None:
        other.append(new.content)

    def said() -> int:
        return sum("outbox.refuses" in record.getMessage() for record in caplog.records)

    declare(notes, kind, lambda _, contents: calls.append(contents))
    notes.install()
    notes.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN CASE WHEN OLD.listener = 'neighbour' THEN OLD END; END $$;"
        " CREATE TRIGGER swallow BEFORE DELETE ON pubsub_outbox FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    with caplog.at_level(logging.ERROR), running(notes.listener()):
        notes.write("a")
        wait_until(lambda: said() >= 2, DEADLINE, "the listener to say it twice")
        assert calls == [["a"]]
        notes.write("b", "c", "d")
        wait_until(lambda: len(other) == 4, DEADLINE, "the neighbour to go on")
        assert calls == [["a"]]
        notes.execute(CURED)
        wait_until(lambda: notes.left() == 0, DEADLINE, "all to be settled")
    assert sorted(content for each in calls for content in each) == ["a", "a", "b", "c", "d"]
    assert said() < 6


@pytest.fixture
def guarded(notes: Notes) -> Iterator[Notes]:
    """An outbox with row-level security, and a role that it concerns."""
    notes.install()
    notes.execute("CREATE ROLE listening LOGIN")
    notes.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO listening")
    notes.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO listening")
    notes.execute("ALTER TABLE pubsub_outbox ENABLE ROW LEVEL SECURITY")
    for command in ("SELECT", "UPDATE"):
        notes.execute(f"CREATE POLICY see_{command.lower()} ON pubsub_outbox FOR {command} USING (true)")
    yield notes
    notes.execute("DROP OWNED BY listening")
    notes.execute("DROP ROLE listening")


@pytest.mark.either_driver
@pytest.mark.parametrize("kind", KINDS)
def test_row_level_security_without_a_policy_for_delete_is_an_error(guarded: Notes, kind: str) -> None:
    declare(guarded, kind, lambda session, contents: write_effects(guarded, session, contents))
    guarded.write("a", "b")
    engine = create_engine(guarded.engine.url.set(username="listening"))
    with pytest.raises(NotSettled):
        Listener(engine, guarded.metadata, ListenerConfig()).drain()
    assert len(guarded.effects("handle")) == (1 if kind == "outside" else 0)
    assert len(guarded.entries()) == 2
    guarded.execute("CREATE POLICY see_delete ON pubsub_outbox FOR DELETE USING (true)")
    assert Listener(engine, guarded.metadata, ListenerConfig()).drain() == 2
    engine.dispose()


def raw(session: Session) -> Any:
    return session.connection().connection.driver_connection


def commit_the_driver(session: Session) -> None:
    raw(session).commit()


def commit_and_go_on(session: Session) -> None:
    raw(session).commit()
    session.execute(text("SELECT 1"))


def commit_and_go_on_below(session: Session) -> None:
    raw(session).commit()
    with raw(session).cursor() as cursor:
        cursor.execute("SELECT 1")


def commit_by_a_cursor(session: Session) -> None:
    with raw(session).cursor() as cursor:
        cursor.execute("COMMIT")


def commit_in_the_pool(session: Session) -> None:
    session.connection().connection.commit()


def switch_to_autocommit(session: Session) -> None:
    raw(session).commit()
    raw(session).autocommit = True


COMMITS: dict[str, Callable[[Session], None]] = {
    "commits the driver": commit_the_driver,
    "goes on after it": commit_and_go_on,
    "goes on after it with a cursor": commit_and_go_on_below,
    "commits by a cursor": commit_by_a_cursor,
    "commits in the pool": commit_in_the_pool,
    "switches to autocommit": switch_to_autocommit,
}


@pytest.mark.in_turn("kind")
@pytest.mark.parametrize("kind", ["each", "database", "batch", "timed", "ordered"])
@pytest.mark.parametrize("how", COMMITS)
def test_a_handler_that_commits_below_sqlalchemy_is_not_called_for_that_event_again(
    notes: Notes, how: str, kind: str
) -> None:
    """Its work cannot be undone, so a second try would do it twice; what comes after it is well."""

    def work(session: Session, contents: list[str]) -> None:
        write_effects(notes, session, contents)
        if "bad" in contents:
            COMMITS[how](session)

    declare(notes, kind, work, retry=SOON)
    notes.write("bad")
    notes.write("bad")
    notes.write("a", "b", "c")
    if kind != "batch":
        assert notes.drain() == 5
        assert [letter.id for letter in notes.dead()] == [1, 2]
        effects = notes.effects("handle")
        # Where it goes on below SQLAlchemy it shows at the end of the group only, and once more by itself.
        assert effects.count("bad") <= (4 if "with a cursor" in how else 2)
        assert [effect for effect in effects if effect != "bad"] == ["a", "b", "c"]
    else:
        assert notes.drain() == 5
        assert {1, 2} <= {letter.id for letter in notes.dead()}
        assert all("ended the transaction itself" in letter.reason for letter in notes.dead())
        if "with a cursor" not in how:
            assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "bad", "bad", "c"]
    assert not notes.entries()


REFUSED = {
    "COMMIT": "COMMIT",
    "commit work": "  commit work",
    "after a comment": "/* done */ -- so\n COMMIT",
    "END": "END",
    "ROLLBACK": "ROLLBACK",
    "ABORT": "ABORT TRANSACTION",
    "PREPARE": "PREPARE TRANSACTION 'x'",
    "and chain": "COMMIT AND CHAIN",
}


@pytest.mark.either_driver
@pytest.mark.in_turn("kind")
@pytest.mark.parametrize("kind", ["each", "database", "batch", "timed"])
@pytest.mark.parametrize("how", REFUSED)
def test_a_statement_that_would_end_the_transaction_is_not_sent(notes: Notes, how: str, kind: str) -> None:
    def work(session: Session, contents: list[str]) -> None:
        write_effects(notes, session, contents)
        if "bad" in contents:
            session.execute(text(REFUSED[how]))

    declare(notes, kind, work, retry=ONCE)
    notes.write("a", "bad", "b")
    assert notes.drain(commit_every=LONG) == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [2]


@pytest.mark.either_driver
def test_a_savepoint_that_a_handler_writes_as_text_is_its_own_business(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.execute(text("SAVEPOINT mine"))
        session.execute(text("INSERT INTO effect (listener, what) VALUES ('handle', 'undone')"))
        session.execute(text("ROLLBACK TO SAVEPOINT mine"))
        session.execute(text("ROLLBACK WORK TO mine"))
        write_effects(notes, session, [new.content])

    notes.write("a", "b")
    assert notes.drain(commit_every=LONG) == 2
    assert notes.effects("handle") == ["a", "b"]
    assert notes.left() == 0


@pytest.mark.parametrize("kind", ["each", "database", "batch"])
def test_a_procedure_that_commits_fails_the_event(notes: Notes, kind: str) -> None:
    def work(session: Session, contents: list[str]) -> None:
        write_effects(notes, session, contents)
        if "bad" in contents:
            with pytest.raises(DBAPIError) as caught:
                session.execute(text("CALL finish()"))
            raise caught.value

    declare(notes, kind, work, retry=ONCE)
    notes.install()
    notes.execute("CREATE PROCEDURE finish() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$")
    notes.write("a", "bad", "b")
    assert notes.drain(commit_every=LONG) == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [2]


def test_what_another_worker_took_after_a_raw_commit_is_not_acknowledged_twice(notes: Notes) -> None:
    """The claim ended with the commit, and the entry is another worker's by then."""
    inner: list[int] = []

    @after_insert(notes.Note, effects="database", retry=SOON)
    def handle(new: Any, session: Session) -> None:
        write_effects(notes, session, [new.content])
        if not inner:
            inner.append(0)
            commit_and_go_on_below(session)
            inner[0] = notes.drain()

    notes.write("a")
    assert notes.drain() == 0
    assert inner == [1]
    assert notes.left() == 0
