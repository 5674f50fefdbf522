"""Failures that the database does not take: counted and put off, and no reason to throw a connection away."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_pubsub import RetryPolicy, after_insert
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.settle.outcome import FailureLimits
from tests.deliver.notes import Notes

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
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "ordered": {"ordered": True},
    "database": {"effects": "database"},
    "autonomous": {"transactional": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cause", [TAKEN, RAISES], ids=["its id is taken", "a trigger raises"])
def test_an_event_whose_dead_letter_cannot_be_written_is_put_off(notes: Notes, kind: str, cause: str) -> None:
    """Else its handler is called again and again, and no neighbour has a connection for long."""
    calls: list[str] = []

    @after_insert(notes.Note, retry=ONCE, **KINDS[kind])
    def fails(new: Any) -> None:
        calls.append(new.content)
        if new.content == "bad":
            raise ValueError("never")

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
