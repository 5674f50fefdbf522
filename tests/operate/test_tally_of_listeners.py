"""What real listeners tell a tally: counts after the commit, durations of calls, latencies by the database's clock."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, Reject, RetryLater, RetryPolicy, after_insert
from sqla_pubsub.operate.tally import Tally
from sqla_pubsub.operate.totals import ListenerTotals
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "database": {"effects": "database"},
    "ordered": {"ordered": True},
    "timeout": {"timeout": timedelta(seconds=20)},
    "outside": {"transactional": False},
}


@pytest.fixture
def notes(engine: Any) -> Notes:
    return Notes(engine)


def drained(notes: Notes, name: str = "handle") -> ListenerTotals:
    tally = Tally([name])
    Listener(notes.engine, notes.metadata, observers=[tally]).drain()
    return tally.totals().listeners[name]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_listener_tells_how_long_its_handler_and_its_events_took(
    notes: Notes, kind: str
) -> None:
    @after_insert(notes.Note, retry=ONCE, **KINDS[kind])
    def handle(new: Any) -> None:
        if new.content == "bad":
            raise ValueError

    notes.write("a", "bad", "c")
    # The clock of the events is the database's: an hour there is an hour here.
    with notes.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_outbox SET occurred_at = occurred_at - interval '1 hour'"))
    did = drained(notes)
    assert (did.acknowledged, did.retried, did.dead, did.failures) == (2, 0, 1, {"ValueError": 1})
    assert did.durations.count == 3
    assert 0 < did.durations.total < 3600
    # Of what was handled at its first attempt.
    assert did.latencies.count == 2
    assert 7200 <= did.latencies.total < 7300


def test_a_batch_is_one_call_with_the_latency_of_each_event(notes: Notes) -> None:
    @after_insert(notes.Note, batch=10)
    def handle(events: list[Any]) -> None: ...

    notes.write("a", "b", "c")
    did = drained(notes)
    assert (did.acknowledged, did.durations.count, did.latencies.count) == (3, 1, 3)


def test_a_group_that_is_undone_is_counted_once_when_its_events_are_committed(notes: Notes) -> None:
    @after_insert(notes.Note, batch=10, retry=ONCE)
    def handle(events: list[Any]) -> None:
        if any(event.new.content == "bad" for event in events):
            raise KeyError

    notes.write("a", "bad", "c")
    tally = Tally(["handle"])
    Listener(notes.engine, notes.metadata, observers=[tally]).drain()
    totals = tally.totals()
    did = totals.listeners["handle"]
    assert (did.acknowledged, did.dead, did.failures) == (2, 1, {"KeyError": 1})
    assert totals.replays == {"conflict": 0, "database": 0, "handler": 1}


def test_what_asks_for_another_try_has_not_failed_and_a_rejection_has(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        raise RetryLater(timedelta(hours=1)) if new.content == "later" else Reject("never")

    notes.write("later", "never")
    did = drained(notes)
    assert (did.retried, did.dead, did.failures) == (1, 1, {"Reject": 1})


def test_a_second_attempt_has_a_duration_and_no_latency(notes: Notes) -> None:
    tries: list[int] = []

    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(0), jitter=False))
    def handle(event: Any, session: Session) -> None:
        tries.append(event.attempt)
        if event.attempt == 1:
            raise ValueError

    notes.write("a")
    tally = Tally(["handle"])
    listener = Listener(notes.engine, notes.metadata, observers=[tally])
    while notes.left():
        listener.drain()
    did = tally.totals().listeners["handle"]
    assert tries == [1, 2]
    assert (did.retried, did.acknowledged, did.durations.count, did.latencies.count) == (1, 1, 2, 0)
