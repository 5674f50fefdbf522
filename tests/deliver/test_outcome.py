"""What a failure leads to: decided without a clock and without a server."""

import random
from datetime import timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from sqla_pubsub import Reject, RetryLater, RetryPolicy
from sqla_pubsub.deliver.settle.outcome import (
    DeadLetter,
    FailureLimits,
    Retry,
    describe,
    is_denied,
    is_transient,
    judge,
)
from sqla_pubsub.errors import UnreadableEntry, UnreadablePayload
from sqla_pubsub.sqlstates import CONTENDED, GONE, TRANSIENT, is_lasting, is_of_values

RNG = random.Random(0)
texts = st.text(st.characters(codec=None), max_size=50)


def database_error(state: str, statement: str | None = "SELECT 1") -> DBAPIError:
    """What SQLAlchemy raises for an error of this code."""
    return DBAPIError(statement, {}, psycopg.errors.lookup(state)("no"))


@given(st.integers(1, 30), st.integers(1, 30))
def test_an_event_has_as_many_attempts_as_its_policy_gives(attempt: int, most: int) -> None:
    outcome = judge(7, ValueError("no"), attempt, RetryPolicy(max_attempts=most), RNG)
    assert isinstance(outcome, DeadLetter if attempt >= most else Retry)
    assert (outcome.id, outcome.attempt) == (7, attempt)


@given(st.integers(1, 30))
def test_a_delay_is_at_most_that_of_the_policy(attempt: int) -> None:
    policy = RetryPolicy(max_attempts=31, initial=timedelta(seconds=1), max_delay=timedelta(minutes=5))
    outcome = judge(7, ValueError("no"), attempt, policy, RNG)
    assert isinstance(outcome, Retry)
    assert timedelta(0) <= outcome.delay <= policy.max_delay


def test_a_handler_may_say_when_it_is_tried_again() -> None:
    after = timedelta(days=3)
    outcome = judge(7, RetryLater(after=after), 1, RetryPolicy(), RNG)
    assert isinstance(outcome, Retry)
    assert outcome.delay == after


def test_a_retry_that_is_asked_for_counts_as_an_attempt() -> None:
    outcome = judge(7, RetryLater(after=timedelta(days=3)), 2, RetryPolicy(max_attempts=2), RNG)
    assert isinstance(outcome, DeadLetter)


def test_a_delay_that_no_calendar_holds_is_cut() -> None:
    outcome = judge(7, RetryLater(after=timedelta.max), 1, RetryPolicy(), RNG)
    assert isinstance(outcome, Retry)
    assert outcome.delay < timedelta(days=40_000)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Reject("spam"), "spam"),
        (UnreadableEntry("outbox entry 7"), "outbox entry 7"),
        (UnreadablePayload("x"), "x"),
    ],
)
def test_what_no_retry_mends_is_a_dead_letter_at_once(error: Exception, reason: str) -> None:
    outcome = judge(7, error, 1, RetryPolicy(), RNG)
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == reason


@given(texts)
def test_whatever_an_error_says_can_be_stored(said: str) -> None:
    """Names of files may hold halves of characters."""
    for attempt in (1, 10):
        outcome = judge(7, ValueError(said), attempt, RetryPolicy(max_attempts=10), RNG)
        kept = outcome.error if isinstance(outcome, Retry) else outcome.reason
        assert kept.encode()


@given(texts)
def test_an_error_is_described_in_one_line_that_can_be_logged(said: str) -> None:
    line = describe(ValueError(said))
    assert line.startswith("ValueError")
    assert "\n" not in line
    assert line.encode()


def test_no_more_of_an_error_is_kept_than_the_limit() -> None:
    limits = FailureLimits(max_error=10)
    outcome = judge(7, ValueError("x" * 50 + "the end"), 1, RetryPolicy(), RNG, limits)
    assert isinstance(outcome, Retry)
    assert outcome.error == "xxthe end\n"
    assert describe(ValueError("y" * 50), limits) == "ValueError"


def test_an_error_whose_text_cannot_be_made_is_described_all_the_same() -> None:
    class Strange(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(Strange()) == "Strange: (its text cannot be made)"


@pytest.mark.parametrize("state", sorted(TRANSIENT))
def test_the_state_of_the_database_is_nobodys_fault(state: str) -> None:
    assert is_transient(database_error(state))


@pytest.mark.parametrize("state", ["23505", "22P02", "42501", "25P03", "XX000"])
def test_what_an_event_may_have_caused_is_not_transient(state: str) -> None:
    assert not is_transient(database_error(state))
    assert not is_transient(ValueError(state))


def test_a_right_is_lacking_where_a_statement_was_refused_and_not_where_a_commit_was() -> None:
    """A COMMIT runs triggers, which belong to somebody else."""
    assert is_denied(database_error("42501"))
    assert not is_denied(database_error("42501", statement=None))
    assert not is_denied(database_error("42P01"))


def test_the_sets_of_codes_say_the_same_of_each_other() -> None:
    assert CONTENDED < TRANSIENT
    assert all(is_lasting(state) for state in GONE)
    assert not any(is_lasting(state) or is_of_values(state) for state in TRANSIENT)
