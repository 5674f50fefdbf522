"""Neighbours share a process by time, and new events share a listener with its retries."""

import itertools
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import RetryLater, RetryPolicy, after_insert
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

AGAIN = RetryPolicy(max_attempts=10**6)
AT_ONCE = RetryPolicy(max_attempts=10**6, initial=timedelta(0))
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "single": {"timeout": timedelta(seconds=30)},
    "ordered": {"ordered": True},
    "outside": {"transactional": False},
    "outside with a time": {"transactional": False, "timeout": timedelta(seconds=30)},
    "outside in order": {"transactional": False, "ordered": True},
}

pytestmark = pytest.mark.one_driver


def longest_run(names: list[str], name: str) -> int:
    return max((len(list(run)) for each, run in itertools.groupby(names) if each == name), default=0)


@pytest.mark.parametrize("options", [{"timeout": timedelta(seconds=30)}, {"batch": 1}])
def test_a_listener_with_a_transaction_for_each_event_has_many_of_them_in_its_turn(
    notes: Notes, options: dict[str, Any]
) -> None:
    """Else each of its events would wait for a whole group of every neighbour."""
    handled: list[str] = []

    @after_insert(notes.Note)
    def busy() -> None:
        handled.append("busy")

    def single() -> None:
        handled.append("single")

    def batched(events: list[Any]) -> None:
        handled.extend("single" for _ in events)

    after_insert(notes.Note, **options)(batched if "batch" in options else single)
    notes.write(*map(str, range(60)))
    notes.drain(commit_every=timedelta(seconds=5))
    assert handled.count("single") == handled.count("busy") == 60
    assert longest_run(handled, "single") > 20


def test_a_lane_that_breaks_the_connection_each_time_does_not_keep_others_from_working(notes: Notes) -> None:
    """Its turn ends with the connection, so the next round has to begin at another lane."""
    handled: list[str] = []

    @after_insert(notes.Note, retry=AT_ONCE)
    def a_breaks(session: Session) -> None:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    @after_insert(notes.Note)
    def works() -> None:
        handled.append("works")

    notes.write(*map(str, range(3)))
    with running(notes.listener()):
        wait_until(lambda: len(handled) == 3, DEADLINE, "the other listener")


@pytest.mark.parametrize("kind", KINDS)
def test_a_storm_of_retries_leaves_new_events_their_share(notes: Notes, kind: str) -> None:
    """Forty events that ask again at once, for ever, and twenty new ones."""
    handled: set[str] = set()

    @after_insert(notes.Note, retry=AGAIN, **KINDS[kind])
    def handle(new: Any) -> None:
        if new.content.startswith("storm"):
            raise RetryLater(after=timedelta(0))
        handled.add(new.content)

    notes.write(*(f"storm {number}" for number in range(40)))
    with running(notes.listener(claim_size=10)):
        wait_until(
            lambda: notes.scalar("SELECT count(*) FROM pubsub_outbox WHERE attempt > 0") == 40,
            DEADLINE,
            "the storm",
        )
        notes.write(*(str(number) for number in range(20)))
        wait_until(lambda: len(handled) == 20, DEADLINE, "the new events")


@pytest.mark.parametrize("ordered", [False, True])
def test_a_flood_of_new_events_leaves_retries_their_share(notes: Notes, ordered: bool) -> None:
    """Each new event writes the next one, so there is always one; what failed once is handled again nevertheless."""
    failed, handled = threading.Event(), threading.Event()

    @after_insert(notes.Note, retry=AT_ONCE, transactional=False, ordered=ordered)
    def handle(new: Any, session: Session) -> None:
        if new.content != "retry":
            session.add(notes.Note(content=new.content))
        elif failed.is_set():
            handled.set()
        else:
            failed.set()
            raise ValueError("no")

    notes.write(*(str(number) for number in range(60)), "retry")
    with running(notes.listener()):
        assert handled.wait(DEADLINE), "the retry"
