"""Failures that the database does not take: counted and put off, and no reason to throw a connection away."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import RetryPolicy, after_insert
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.settle.outcome import FailureLimits
from sqla_pubsub.errors import NotSettled
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
HOUR = timedelta(hours=1)
LATE = Limits(failure=FailureLimits(put_off=HOUR, longest_put_off=HOUR))
TAKEN = (
    "INSERT INTO pubsub_dead_letter (id, listener, operation, source, reason)"
    " SELECT n, 'older', 'INSERT', 'note', 'of an earlier life' FROM generate_series(1, 20) AS n"
)
RAISES = """
    CREATE FUNCTION no_letters() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no letters here'; END $$;
    CREATE TRIGGER no_letters BEFORE INSERT ON pubsub_dead_letter FOR EACH ROW EXECUTE FUNCTION no_letters()
"""
REFUSES = """
    CREATE FUNCTION no_{what}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no {what} here'; END $$;
    CREATE TRIGGER no_{what} BEFORE {event} ON pubsub_outbox FOR EACH ROW WHEN ({when})
    EXECUTE FUNCTION no_{what}()
"""
OF_FAILS = "OLD.listener = 'fails'"
NO_RETRIES = REFUSES.format(
    what="retries", event="UPDATE", when=f"{OF_FAILS} AND NEW.due_at IS DISTINCT FROM OLD.due_at"
)
NO_UPDATES = REFUSES.format(what="updates", event="UPDATE", when=OF_FAILS)
NO_DELETES = REFUSES.format(what="deletes", event="DELETE", when=OF_FAILS)
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "ordered": {"ordered": True},
    "database": {"effects": "database"},
    "batch": {"batch": 3},
    "timeout": {"timeout": HOUR},
    "autonomous": {"transactional": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cause", [TAKEN, RAISES], ids=["its id is taken", "a trigger raises"])
def test_an_event_whose_dead_letter_cannot_be_written_is_put_off(notes: Notes, kind: str, cause: str) -> None:
    """Else its handler is called again and again, and no neighbour has a connection for long."""
    calls: list[str] = []

    def work(content: str, _: Session) -> None:
        calls.append(content)
        if content == "bad":
            raise ValueError("never")

    notes.declare("fails", work, retry=ONCE, **KINDS[kind])

    @after_insert(notes.Note)
    def neighbour(new: Any, session: Session) -> None:
        session.add(notes.effect("neighbour", new.content))

    notes.install()
    notes.execute(cause)
    notes.write("a", "bad", "b")
    notes.listener(limits=LATE).drain()
    assert calls.count("bad") <= 2, "in a group, and in isolation"
    assert calls.count("b") >= 1
    assert notes.effects("neighbour") == ["a", "bad", "b"]
    [left] = notes.entries()
    assert (left.listener, left.attempt) == ("fails", 1)
    assert left.due_at is not None
    assert "it is to be a dead letter (ValueError: never), which cannot be written" in (left.last_error or "")


def test_it_becomes_a_dead_letter_as_soon_as_the_database_takes_one(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def fails() -> None:
        raise ValueError("never")

    notes.install()
    notes.execute(RAISES)
    notes.write("a")
    notes.drain()
    notes.execute("DROP TRIGGER no_letters ON pubsub_dead_letter")
    notes.execute("UPDATE pubsub_outbox SET due_at = now()")
    notes.drain()
    assert [letter.reason for letter in notes.dead()] == ["ValueError: never"]
    assert notes.entries() == []


@pytest.mark.in_turn("kind")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("cause", [NO_RETRIES, NO_UPDATES], ids=["retries", "updates"])
def test_a_retry_that_cannot_be_written_costs_no_connection_and_few_calls(
    notes: Notes, kind: str, slots: int, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a tight loop of connections and uncounted calls: it is said, and tried again after growing pauses."""
    calls: list[str] = []
    pids = set[int]()

    def work(content: str, session: Session) -> None:
        pids.add(session.scalar(text("SELECT pg_backend_pid()")) or 0)
        calls.append(content)
        if content == "bad":
            raise ValueError("no")

    notes.declare("fails", work, retry=RetryPolicy(initial=HOUR, jitter=False), **KINDS[kind])

    @after_insert(notes.Note)
    def neighbour(new: Any, session: Session) -> None:
        session.add(notes.effect("neighbour", new.content))

    def said(what: str = "outbox.refuses: 'fails'") -> int:
        return sum(what in record.getMessage() for record in caplog.records)

    notes.install()
    notes.execute(cause)
    listeners = [notes.listener() for _ in range(slots)]
    with caplog.at_level(logging.INFO), running(*listeners):
        notes.write("a", "bad", "b")
        wait_until(lambda: said() >= 2 * slots, DEADLINE, "each listener to say it twice")
        notes.write("c")
        wait_until(lambda: "c" in notes.effects("neighbour"), DEADLINE, "the neighbour to go on")
        # Once in each group that is undone for it, and once in isolation, unless another listener has it by then.
        # One may be about to say it.
        assert calls.count("bad") <= said() + said("of 'fails' one by one") + slots
        assert calls.count("bad") <= 8 * (said() + slots), "in a loop without pauses they are hundreds"
        notes.execute(cause.replace("CREATE", "DROP").partition("RETURNS")[0] + " CASCADE")
        wait_until(lambda: len(notes.entries()) == 1, 2 * DEADLINE, "the others to be handled")
        wait_until(lambda: notes.entries()[0].attempt == 1, 2 * DEADLINE, "the retry to be written")
        kept = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (:pids)"
        assert notes.scalar(kept, pids=list(pids)) == len(pids), "no connection was ended"
    assert {"a", "b", "c"} <= set(calls)
    assert "connection.lost" not in caplog.text
    # That of an autonomous handler goes back to the pool, where another part of its worker may take it.
    assert len(pids) <= slots * (2 if kind == "autonomous" else 1), "the connections are the same ones"
    assert said() <= 8 * slots


@pytest.mark.parametrize("kind", KINDS)
def test_a_drain_whose_retry_cannot_be_written_says_so(notes: Notes, kind: str) -> None:
    calls: list[str] = []

    def work(content: str, _: Session) -> None:
        calls.append(content)
        raise ValueError("no")

    notes.declare("fails", work, retry=RetryPolicy(initial=HOUR, jitter=False), **KINDS[kind])
    notes.install()
    notes.execute(NO_RETRIES)
    notes.write("bad")
    with pytest.raises(NotSettled, match=r"outbox entry 1 could not be updated: .*no retries here") as caught:
        notes.drain()
    assert caught.value.entries == (1,)
    assert len(calls) <= 2
    assert [entry.attempt for entry in notes.entries()] == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_that_can_neither_be_acknowledged_nor_dead_lettered_is_put_off(
    notes: Notes, kind: str
) -> None:
    """The acknowledgement fails, which is a failure of the event, and so does its dead letter."""
    calls: list[str] = []
    notes.declare("fails", lambda content, _: calls.append(content), retry=ONCE, **KINDS[kind])
    notes.install()
    notes.execute(NO_DELETES)
    notes.write("a")
    assert notes.listener(limits=LATE).drain() == 1
    assert len(calls) <= 2
    [left] = notes.entries()
    assert left.attempt == 1
    assert "it is to be a dead letter" in (left.last_error or "")
    assert "no deletes here" in (left.last_error or "")


@pytest.mark.in_turn("kind")
@pytest.mark.parametrize("kind", KINDS)
def test_while_an_outbox_takes_nothing_no_handler_is_called_again(
    notes: Notes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An acknowledgement is rehearsed first, and the error that it meets is no loss of the connection either."""
    calls: list[str] = []

    def said() -> int:
        return caplog.text.count("outbox.refuses: 'fails'")

    notes.declare("fails", lambda content, _: calls.append(content), retry=ONCE, **KINDS[kind])
    notes.install()
    for cause in (NO_DELETES, NO_RETRIES):
        notes.execute(cause)
    with caplog.at_level(logging.WARNING), running(notes.listener()):
        notes.write("a")
        wait_until(lambda: said() >= 2, DEADLINE, "the listener to say it twice")
        assert len(calls) <= 2
        notes.execute("DROP FUNCTION no_deletes CASCADE")
        wait_until(lambda: notes.left() == 0, 2 * DEADLINE, "it to be handled")
    assert "connection.lost" not in caplog.text
    assert len(calls) <= 3


def test_a_failure_that_broke_its_connection_waits_to_be_written_before_its_handler_is_called_again(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have committed what it did. The pauses grow here too, and the neighbour goes on."""
    calls: list[str] = []

    @after_insert(notes.Note, retry=RetryPolicy(initial=HOUR, jitter=False))
    def fails(new: Any, session: Session) -> None:
        calls.append(new.content)
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    @after_insert(notes.Note)
    def neighbour(new: Any, session: Session) -> None:
        session.add(notes.effect("neighbour", new.content))

    notes.install()
    notes.execute(NO_RETRIES)
    notes.write("a")
    with caplog.at_level(logging.WARNING), running(notes.listener(poll_interval=timedelta(milliseconds=20))):
        said = "outbox.refuses: 'fails'"
        wait_until(lambda: caplog.text.count(said) >= 2, DEADLINE, "the listener to say it twice")
        notes.write("b", "c")
        wait_until(lambda: notes.effects("neighbour") == ["a", "b", "c"], DEADLINE, "the neighbour to go on")
        assert calls == ["a"]
        assert caplog.text.count(said) < 8
        assert caplog.text.count("connection.lost") == 1
        notes.execute("DROP FUNCTION no_retries CASCADE")
        wait_until(lambda: notes.entries()[0].attempt == 1, 2 * DEADLINE, "the retry to be written")
    assert calls.count("a") == 1
