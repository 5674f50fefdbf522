"""Who is blamed for a failure, and how often it may be nobody: without a server."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from sqla_pubsub import Reject, RetryLater, RetryPolicy
from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.settle.failure_policy import FailurePolicy
from sqla_pubsub.deliver.settle.outcome import DeadLetter, FailureLimits, Retry
from sqla_pubsub.errors import HandlerTimeout, TransactionEnded, UnreadableEntry, UnreadablePayload


def entry(id: int = 7, attempt: int = 0) -> Entry:  # noqa: A002
    return Entry(
        id=id, operation="INSERT", source="note", old=None, new="{}", context=None,
        occurred_at=datetime.now(UTC), format=1, attempt=attempt, crashes=0,
    )  # fmt: skip


def database_error(state: str) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, psycopg.errors.lookup(state)("no"))


def policy(limits: FailureLimits | None = None) -> FailurePolicy:
    retry = RetryPolicy(max_attempts=3)
    return FailurePolicy("record", retry, random.Random(0), limits or FailureLimits())


@given(st.lists(st.integers(1, 4), max_size=60), st.integers(0, 6))
def test_each_entry_has_its_own_count_of_failures_that_are_nobodys_fault(ids: list[int], most: int) -> None:
    judged = policy(limits=FailureLimits(max_transient=most))
    seen: dict[int, int] = {}
    for each in ids:
        seen[each] = seen.get(each, 0) + 1
        assert judged.uncounted(entry(each), database_error("40001")) == (seen[each] <= most)


def test_an_entry_that_is_settled_begins_to_count_anew() -> None:
    judged = policy(limits=FailureLimits(max_transient=1))
    assert judged.uncounted(entry(), database_error("40P01"))
    assert not judged.uncounted(entry(), database_error("40P01"))
    judged.settled([judged.failed(entry(), ValueError("no"))])
    assert judged.uncounted(entry(), database_error("40P01"))


def test_a_failure_of_the_event_itself_is_always_counted() -> None:
    assert not policy().uncounted(entry(), ValueError("no"))


def test_the_attempt_that_failed_is_one_more_than_those_before() -> None:
    assert policy().failed(entry(attempt=0), ValueError("no")).attempt == 1
    assert isinstance(policy().failed(entry(attempt=1), ValueError("no")), Retry)
    assert isinstance(policy().failed(entry(attempt=2), ValueError("no")), DeadLetter)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnreadablePayload("LookupError: blue"), "LookupError: blue"),
        (database_error("22P02"), "DBAPIError: (psycopg.errors.InvalidTextRepresentation) no"),
        (database_error("42704"), "DBAPIError: (psycopg.errors.UndefinedObject) no"),
    ],
)
def test_an_entry_that_cannot_be_read_is_a_dead_letter_that_names_it(error: Exception, said: str) -> None:
    outcome = policy().unreadable(entry(), error)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == f"outbox entry 7 for 'record' cannot be read: {said}"


@pytest.mark.parametrize("text", ["outbox entry 7 has format 9", "a sentence that begins in another way"])
def test_an_error_that_names_its_entry_is_kept_as_it_is_whatever_its_text(text: str) -> None:
    """Its type says so, not its first words."""
    outcome = policy().unreadable(entry(), UnreadableEntry(text))
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == text


def test_values_whose_error_looks_like_a_sentence_of_ours_are_named_all_the_same() -> None:
    """A type of the user's may raise anything."""
    outcome = policy().unreadable(entry(), UnreadablePayload("outbox entry of the user's own"))
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason.startswith("outbox entry 7 for 'record' cannot be read: ")


@pytest.mark.parametrize("state", ["40001", "57014", "53200", "XX000"])
def test_what_is_not_the_payloads_fault_is_tried_again(state: str) -> None:
    assert isinstance(policy().unreadable(entry(), database_error(state)), Retry)


@given(st.integers(1, 12))
def test_a_full_disk_burns_no_attempt_however_long_it_is_full(times: int) -> None:
    judged, delays = policy(), []
    for _ in range(times):
        outcome = judged.failed(entry(attempt=2), database_error("53100"))
        assert isinstance(outcome, Retry)
        assert outcome.attempt == 2
        judged.settled([outcome])
        delays.append(outcome.delay)
    assert delays == sorted(delays)
    assert len(set(delays)) == min(times, 10)


def test_the_delays_of_what_is_nobodys_fault_begin_anew_after_another_end() -> None:
    judged = policy()
    first = judged.failed(entry(), database_error("53100"))
    judged.settled([first])
    judged.settled([judged.failed(entry(), ValueError("no"))])
    assert judged.failed(entry(), database_error("53100")) == first


def test_a_dead_letter_that_cannot_be_written_is_put_off_later_each_time() -> None:
    judged = policy(limits=FailureLimits(longest_put_off=timedelta(seconds=5)))
    letter = DeadLetter(id=7, attempt=3, reason="ValueError: no", traceback="its traceback")
    found = []
    for _ in range(5):
        later = judged.unwritten(letter, database_error("P0001"))
        judged.settled([later])
        found.append(later)
    assert [later.delay.total_seconds() for later in found] == [1, 2, 4, 5, 5]
    assert {(later.attempt, later.counted) for later in found} == {(3, False)}
    assert "its traceback" in found[0].error
    assert judged.unwritten(replace(letter, id=8), database_error("P0001")).delay == found[0].delay
    judged.settled([letter])
    assert judged.unwritten(letter, database_error("P0001")) == found[0]


def test_a_try_that_ended_with_its_server_is_put_off_later_each_time_and_counted_in_the_end() -> None:
    judged = policy(limits=FailureLimits(max_transient=3))
    lost = database_error("57P01")
    found = [judged.interrupted(entry(), lost, server_ended=True) for _ in range(3)]
    assert [outcome.attempt for outcome in found] == [0, 0, 0]
    delays = [outcome.delay for outcome in found if isinstance(outcome, Retry)]
    assert delays == [timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=4)]
    assert judged.interrupted(entry(), lost, server_ended=True).attempt == 1


def test_a_try_that_ended_with_its_connection_alone_is_counted() -> None:
    assert policy().interrupted(entry(), database_error("57P01"), server_ended=False).attempt == 1


@pytest.mark.parametrize("error", [Reject("no"), HandlerTimeout("slow"), TransactionEnded("ended")])
def test_what_an_event_did_or_decided_itself_is_counted_whatever_became_of_the_server(
    error: Exception,
) -> None:
    assert policy().interrupted(entry(), error, server_ended=True).attempt == 1


def test_a_try_that_ended_with_its_server_comes_no_earlier_than_the_handler_asked_for() -> None:
    outcome = policy().interrupted(entry(), RetryLater(after=timedelta(hours=1)), server_ended=True)
    assert isinstance(outcome, Retry)
    assert (outcome.delay, outcome.counted) == (timedelta(hours=1), False)


def test_another_server_that_cannot_be_reached_is_waited_for_up_to_a_limit() -> None:
    judged = policy(limits=FailureLimits(max_transient=2))
    found = [judged.failed(entry(), database_error("08006")) for _ in range(3)]
    assert [outcome.attempt for outcome in found] == [0, 0, 1]
