"""The low-water mark against a model of ids and transactions: thousands of histories, and no server."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub.deliver.claim.cursor import ClaimCursor, CursorLimits, Survey
from tests.deliver.outbox_model import TRUSTING, Forgotten, History
from tests.lengths import length

HISTORIES = length(short=4_000, full=100_000)
MOMENTS = 250
NOTHING = Survey(lowest=None, waiting=None, oldest=1, transaction=None)


class DoesNotWait(ClaimCursor):
    """Broken: what was claimed raises the mark at once, whoever is older and still runs."""

    def surveyed(self, began: float, ended: float, survey: Survey) -> None:
        super().surveyed(began, ended, Survey(
            lowest=survey.lowest, waiting=survey.waiting, oldest=10**9, transaction=survey.transaction
        ))  # fmt: skip


class CountsItsOwnClaim(ClaimCursor):
    """Broken: what the transaction that is waited for has claimed itself raises the mark, too."""

    def claimed(self, entry_id: int) -> None:
        super().claimed(entry_id)
        if self._bound is not None:
            self._bound = self._seen, self._bound[1]


class PassesOverOthers(ClaimCursor):
    """Broken: the mark passes over what is there, because others have it in hand."""

    def surveyed(self, began: float, ended: float, survey: Survey) -> None:
        super().surveyed(began, ended, survey)
        self._low_water = self._ended


class BelievesThatIdsGrow(ClaimCursor):
    """Broken: the mark is never doubted."""

    def low_water(self, now: float) -> int:
        return self._low_water


def numbers(seed: int) -> Iterator[int]:
    """A history's choices."""
    source = random.Random(seed)
    return (source.randrange(1 << 20) for _ in range(MOMENTS))


def first_forgotten(
    kind: type[ClaimCursor], *, limits: CursorLimits = TRUSTING, odd: bool = False
) -> int | None:
    """Return the first history in which something is forgotten."""
    for seed in range(HISTORIES):
        try:
            History(kind(limits=limits), numbers(seed), odd=odd).run()
        except Forgotten:
            return seed
    return None


def test_no_history_brings_an_entry_below_the_mark() -> None:
    """Late commits, rollbacks, gaps, prepared transactions, retries, and others who give back what they had in hand."""
    assert first_forgotten(ClaimCursor) is None


def test_after_ids_were_set_back_or_taken_early_a_look_from_zero_finds_what_is_there() -> None:
    """Then the mark may be wrong, for a while and no longer."""
    assert first_forgotten(ClaimCursor, limits=CursorLimits(), odd=True) is None


@pytest.mark.parametrize("broken", [DoesNotWait, CountsItsOwnClaim, PassesOverOthers])
def test_a_rule_that_is_broken_on_purpose_is_caught(broken: type[ClaimCursor]) -> None:
    """Else the model would prove nothing."""
    assert first_forgotten(broken) is not None


def test_a_mark_that_is_never_doubted_is_caught_where_ids_are_set_back() -> None:
    assert first_forgotten(BelievesThatIdsGrow, limits=CursorLimits(), odd=True) is not None


@given(st.lists(st.integers(0, 1 << 20), max_size=200))
def test_no_history_that_hypothesis_thinks_of_brings_an_entry_below_the_mark(choices: list[int]) -> None:
    """It draws other ones, and tells the shortest that fails."""
    History(ClaimCursor(limits=TRUSTING), iter(choices)).run()


def test_histories_raise_the_mark_and_end_with_all_of_them_handled() -> None:
    """Else nothing would be tried by them."""
    raised = 0
    for seed in range(200):
        cursor = ClaimCursor(limits=TRUSTING)
        history = History(cursor, numbers(seed))
        history.run()
        raised += cursor.low_water(history.world.now) > 0
    assert raised > 100


def has_low_water(at: int) -> ClaimCursor:
    """Return a cursor that knows of nothing below an id, since second 1."""
    cursor = ClaimCursor()
    cursor.surveyed(0.0, 0.0, NOTHING)
    cursor.claimed(at - 1)
    cursor.surveyed(0.5, 0.5, Survey(lowest=None, waiting=None, oldest=7, transaction=8))
    cursor.surveyed(1.0, 1.0, Survey(lowest=None, waiting=None, oldest=9, transaction=None))
    assert cursor.low_water(1.0) == at
    return cursor


def test_the_mark_waits_for_the_transaction_that_was_named() -> None:
    cursor = ClaimCursor()
    cursor.surveyed(0.0, 0.0, NOTHING)
    cursor.claimed(99)
    cursor.surveyed(0.5, 0.5, Survey(lowest=None, waiting=None, oldest=7, transaction=8))
    # One is enough until it has ended.
    assert not cursor.is_unbound
    cursor.surveyed(1.0, 1.0, Survey(lowest=None, waiting=None, oldest=7, transaction=None))
    assert cursor.low_water(1.0) == 0
    cursor.surveyed(1.5, 1.5, Survey(lowest=None, waiting=None, oldest=8, transaction=None))
    assert cursor.low_water(1.5) == 100


def test_what_is_known_is_forgotten_where_ids_were_set_back() -> None:
    """All that the mark was raised by belongs to ids of before."""
    cursor = has_low_water(100)
    cursor.surveyed(6.0, 6.0, Survey(lowest=1, waiting=None, oldest=20, transaction=None))
    assert cursor.low_water(6.0) == 0
    for second in (7.0, 8.0):
        cursor.surveyed(second, second, Survey(lowest=None, waiting=None, oldest=30, transaction=None))
        assert cursor.low_water(second) == 0


def test_a_lane_that_adopts_entries_has_no_mark() -> None:
    """They may have any id."""
    cursor = ClaimCursor(has_low_water=False)
    cursor.surveyed(0.0, 0.0, NOTHING)
    cursor.claimed(99)
    assert not cursor.is_unbound


def test_a_retry_that_waits_holds_the_mark_of_rows_back_and_not_that_of_claims() -> None:
    cursor = has_low_water(100)
    cursor.surveyed(2.0, 2.0, Survey(lowest=None, waiting=40, oldest=9, transaction=None))
    assert (cursor.low_water(2.0), cursor.order_low_water(2.0)) == (100, 40)
    cursor.surveyed(3.0, 3.0, Survey(lowest=None, waiting=0, oldest=9, transaction=None))
    assert cursor.order_low_water(3.0) == 0


def test_a_claim_begins_where_the_last_one_ended_until_a_look_finds_something_lower() -> None:
    cursor = ClaimCursor()
    cursor.surveyed(0.0, 0.0, NOTHING)
    cursor.passed(9)
    assert cursor.start(0.1) == 10
    cursor.surveyed(0.5, 0.5, Survey(lowest=4, waiting=None, oldest=1, transaction=None))
    assert cursor.start(0.5) == 4
    assert cursor.start_over()
    assert cursor.start(0.5) == 0
    assert not cursor.start_over()


def test_a_sleeper_looks_from_zero_once_in_a_while() -> None:
    cursor = has_low_water(100)
    assert cursor.peek_low_water(1.0) == 100
    assert cursor.peek_low_water(6.0) == 0
    assert cursor.peek_low_water(6.1) == 100
    assert cursor.peek_low_water(12.0) == 0


def test_a_long_look_from_zero_does_not_put_off_the_next_one() -> None:
    """It is rare already; only the surveys between are to take a small part of the time."""
    limits = CursorLimits()
    cursor = ClaimCursor(limits=limits)
    cursor.surveyed(0.0, 1.0, NOTHING)
    assert cursor.is_survey_due(1.0 + limits.survey_every)
    cursor.surveyed(2.0, 3.0, NOTHING)
    assert not cursor.is_survey_due(3.0 + limits.survey_every)
    assert cursor.is_survey_due(3.0 + 1.0 / limits.share)


def test_a_survey_waits_for_a_claim_from_the_mark_and_not_for_long() -> None:
    limits = CursorLimits(survey_every=0.2)
    cursor = ClaimCursor(limits=limits)
    assert not cursor.may_survey_wait(1000.0), "the first one comes first"
    cursor.surveyed(1000.0, 1000.0, NOTHING)
    assert cursor.is_survey_due(1000.2)
    assert cursor.may_survey_wait(1000.3)
    assert not cursor.may_survey_wait(1000.5)
    cursor.passed(7)
    assert not cursor.may_survey_wait(1000.3), "something may be left below the start"
    cursor.start_over()
    assert cursor.may_survey_wait(1000.3)


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=20),
    st.floats(0.01, 1), st.floats(0.01, 1),
)  # fmt: skip
def test_looks_take_their_share_of_the_time_at_most(
    surveys: list[tuple[float, float]], share: float, survey_every: float
) -> None:
    """However long each of them is: those between surveys from zero, and those from zero."""
    cursor = ClaimCursor(limits=CursorLimits(share=share, survey_every=survey_every, from_zero=1e9))
    cursor.surveyed(0.0, 0.0, NOTHING)
    now = 0.0
    for pause, took in surveys:
        now += pause
        if cursor.is_survey_due(now):
            cursor.surveyed(now, now + took, NOTHING)
            now += took
            assert not cursor.is_survey_due(now + 0.99 * max(survey_every, took / share) - 1e-6)


def test_due_retries_are_looked_for_once_a_while_and_when_one_is_known_to_be_due() -> None:
    cursor = ClaimCursor(limits=CursorLimits(due_every=10.0))
    assert cursor.is_due(0.0)
    cursor.no_more_due(0.0)
    assert not cursor.is_due(9.9)
    assert cursor.is_due(10.0)
    cursor.no_more_due(10.0)
    cursor.due(12.0)
    cursor.due(15.0)
    assert not cursor.is_due(11.9)
    assert cursor.is_due(12.0)
