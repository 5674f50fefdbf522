"""Who is blamed for a failure, and how often it may be nobody: without a server."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from sqla_pubsub import RetryPolicy
from sqla_pubsub.deliver.board import Board
from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.outcome import Acknowledge, DeadLetter, FailureLimits, Outcome, Retry
from sqla_pubsub.deliver.verdict import Verdict
from sqla_pubsub.errors import UnreadableEntry, UnreadablePayload
from sqla_pubsub.subscription import ListenerSpec


def entry(id: int = 7, attempt: int = 0) -> Entry:  # noqa: A002
    return Entry(
        id=id, operation="INSERT", source="note", old=None, new="{}", context=None,
        occurred_at=datetime.now(UTC), format=1, attempt=attempt, crashes=0,
    )  # fmt: skip


def database_error(state: str) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, psycopg.errors.lookup(state)("no"))


def verdict(board: Board | None = None, limits: FailureLimits | None = None) -> Verdict:
    spec = ListenerSpec(
        name="record",
        handler=print,
        parameters=frozenset(),
        subscriptions=(),
        retry=RetryPolicy(max_attempts=3),
    )
    return Verdict(spec, board or Board(), random.Random(0), limits or FailureLimits())


@given(st.lists(st.integers(1, 4), max_size=60), st.integers(0, 6))
def test_each_entry_has_its_own_count_of_failures_that_are_nobodys_fault(ids: list[int], most: int) -> None:
    judged = verdict(limits=FailureLimits(max_transient=most))
    seen: dict[int, int] = {}
    for each in ids:
        seen[each] = seen.get(each, 0) + 1
        assert judged.uncounted(entry(each), database_error("40001")) == (seen[each] <= most)


def test_an_entry_that_is_settled_begins_to_count_anew() -> None:
    judged = verdict(limits=FailureLimits(max_transient=1))
    assert judged.uncounted(entry(), database_error("40P01"))
    assert not judged.uncounted(entry(), database_error("40P01"))
    judged.settled([judged.failed(entry(), database_error("40P01"))])
    assert judged.uncounted(entry(), database_error("40P01"))


def test_a_failure_of_the_event_itself_is_always_counted() -> None:
    assert not verdict().uncounted(entry(), ValueError("no"))


def test_the_attempt_that_failed_is_one_more_than_those_before() -> None:
    assert verdict().failed(entry(attempt=0), ValueError("no")).attempt == 1  # type: ignore[union-attr]
    assert isinstance(verdict().failed(entry(attempt=1), ValueError("no")), Retry)
    assert isinstance(verdict().failed(entry(attempt=2), ValueError("no")), DeadLetter)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnreadablePayload("LookupError: blue"), "LookupError: blue"),
        (database_error("22P02"), "DBAPIError: (psycopg.errors.InvalidTextRepresentation) no"),
        (database_error("42704"), "DBAPIError: (psycopg.errors.UndefinedObject) no"),
    ],
)
def test_an_entry_that_cannot_be_read_is_a_dead_letter_that_names_it(error: Exception, said: str) -> None:
    outcome = verdict().unreadable(entry(), error)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == f"outbox entry 7 for 'record' cannot be read: {said}"


@pytest.mark.parametrize("text", ["outbox entry 7 has format 9", "a sentence that begins in another way"])
def test_an_error_that_names_its_entry_is_kept_as_it_is_whatever_its_text(text: str) -> None:
    """Its type says so, not its first words."""
    outcome = verdict().unreadable(entry(), UnreadableEntry(text))
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == text


def test_values_whose_error_looks_like_a_sentence_of_ours_are_named_all_the_same() -> None:
    """A type of the user's may raise anything."""
    outcome = verdict().unreadable(entry(), UnreadablePayload("outbox entry of the user's own"))
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason.startswith("outbox entry 7 for 'record' cannot be read: ")


@pytest.mark.parametrize("state", ["40001", "57014", "53200", "XX000"])
def test_what_is_not_the_payloads_fault_is_tried_again(state: str) -> None:
    assert isinstance(verdict().unreadable(entry(), database_error(state)), Retry)


ends: list[Callable[[int], Outcome]] = [
    lambda number: Acknowledge(id=number),
    lambda number: Retry(id=number, attempt=1, delay=timedelta(seconds=number), error=""),
    lambda number: DeadLetter(id=number, attempt=1, reason="", traceback=None),
]


@given(st.lists(st.tuples(st.integers(1, 100), st.sampled_from(ends)), max_size=30))
def test_all_ends_are_counted_and_the_first_retry_is_known(
    settled: list[tuple[int, Callable[[int], Outcome]]],
) -> None:
    board = Board()
    outcomes = [end(each) for each, end in settled]
    first = verdict(board).settled(outcomes)
    kinds = [type(outcome) for outcome in outcomes]
    assert board.settled == (kinds.count(Acknowledge), kinds.count(Retry), kinds.count(DeadLetter))
    assert first == min((o.delay.total_seconds() for o in outcomes if isinstance(o, Retry)), default=None)
