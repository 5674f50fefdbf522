"""Draining ends when nothing is due, and not before, whatever stands between."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_pubsub import RetryPolicy, after_insert
from tests.deliver.notes import Notes

ONCE = RetryPolicy(max_attempts=1)


def turn_slow(content: str, _: Session) -> None:
    """Longer than a transaction may last: what was claimed with it is let go."""
    if content == "3":
        threading.Event().wait(0.6)


def fail(content: str, _: Session) -> None:
    if content == "5":
        raise ValueError


def begin_to_write(content: str, session: Session) -> None:
    """With a savepoint each, of which a transaction has 50."""
    if content != "0":
        session.flush()


@pytest.mark.one_driver
@pytest.mark.parametrize("effects", ["any", "database"])
@pytest.mark.parametrize(("act", "every"), [(turn_slow, 0.5), (fail, 10), (begin_to_write, 10)])
def test_all_retries_that_are_due_are_drained(
    notes: Notes, act: Callable[[str, Session], None], every: float, effects: Any
) -> None:
    """Also those that a group claimed and did not come to."""

    @after_insert(notes.Note, retry=ONCE, effects=effects)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        act(new.content, session)

    notes.write(*map(str, range(60)))
    notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp() - interval '1 minute'")
    assert notes.drain(commit_every=timedelta(seconds=every)) == 60
    assert notes.entries() == []
