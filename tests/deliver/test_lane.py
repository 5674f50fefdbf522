"""What a lane does next, and what it makes of what was done: without a server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub import RetryPolicy
from sqla_pubsub.deliver.claim.batch_size import BatchSize
from sqla_pubsub.deliver.claim.cursor import ClaimCursor, CursorLimits
from sqla_pubsub.deliver.happenings import Happening, Replayed, Settled
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.lane import Lane
from sqla_pubsub.deliver.run.result import Result, Timing, Turn, Unrecorded
from sqla_pubsub.deliver.run.store import ConnectionLost
from sqla_pubsub.deliver.settle.failure_policy import FailurePolicy
from sqla_pubsub.deliver.settle.outcome import Acknowledge, Retry
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.registry import ListenerSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def retry(id: int, seconds: float = 60.0) -> Retry:  # noqa: A002
    return Retry(id=id, attempt=1, delay=timedelta(seconds=seconds), error="no")


def done(*ids: int) -> tuple[Acknowledge, ...]:
    return tuple(Acknowledge(id=each) for each in ids)


@dataclass
class Store:
    """Where groups would be worked."""

    said: list[str]
    lost: bool = False
    refuses: bool = False

    def now(self) -> datetime:
        return NOW

    def abandon(self) -> None:
        self.said.append("abandon")

    def rehearse(self, _: ListenerSpec, entry_id: int) -> None:
        self.said.append(f"rehearse {entry_id}")
        if self.refuses:
            raise NotSettled("no", [entry_id])

    def close(self) -> None:
        self.said.append("close")


@dataclass
class Runner:
    """Says what it was asked for, and returns the results that it was given."""

    said: list[str]
    results: list[Result | Exception] = field(default_factory=list)
    in_hand = 0

    def run(self, _store: Any, size: int, taken: Callable[[], None]) -> Result:
        self.said.append(f"claim {size}")
        taken()
        return self._next()

    def finish(self, _: Any) -> Result:
        self.said.append("finish")
        return self._next()

    def close(self) -> None:
        self.said.append("close runner")

    def abandon(self) -> None:
        self.said.append("abandon runner")

    def _next(self) -> Result:
        result = self.results.pop(0) if self.results else Result(exhausted=True)
        if isinstance(result, Exception):
            raise result
        return result


@dataclass
class Isolated:
    """Handles each entry, but for those of *again*, and writes down each failure."""

    said: list[str]
    again: list[int] = field(default_factory=list)

    def run(self, _store: Any, entry_id: int, taken: Callable[[], None]) -> Result:
        self.said.append(f"isolate {entry_id}")
        taken()
        if entry_id in self.again:
            self.again.remove(entry_id)
            return Result(isolate=(entry_id,), conflict=True)
        return Result(outcomes=done(entry_id))

    def judge(self, _: Any, failure: Unrecorded) -> Unrecorded:
        return failure

    def record(self, _: Any, outcomes: tuple[Any, ...]) -> Result:
        self.said.append(f"record {[each.id for each in outcomes]}")
        return Result(outcomes=outcomes)


class Gate:
    """Says who passes it."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    @contextmanager
    def passed(self, *, alone: bool) -> Iterator[None]:
        assert not alone
        self._said.append("gate")
        yield
        self._said.append("out")


class Trial:
    """A lane among such parts, with all that they said; *limits* of the cursor look back at no time by themselves."""

    def __init__(self, *results: Result | Exception, **options: Any) -> None:
        spec = ListenerSpec(
            name="record", handler=print, parameters=frozenset(), subscriptions=(), retry=RetryPolicy(), **options
        )  # fmt: skip
        self.said: list[str] = []
        self.told: list[Happening] = []
        self.time = 100.0
        self.cursor = ClaimCursor(limits=CursorLimits(survey_every=1e9))
        self.size = BatchSize(0.1, 500)
        self.store: Any = Store(self.said)
        self.runner = Runner(self.said, list(results))
        self.isolated = Isolated(self.said)
        self.lane = Lane(
            spec, self.runner, cast("Any", self.isolated),
            cursor=self.cursor, size=self.size, policy=FailurePolicy("record", spec.retry, Random(0)),
            gate=Gate(self.said), instrument=Instrument([self.told.append]),
            taken=lambda: self.said.append("taken"), clock=lambda: self.time,
        )  # fmt: skip

    def step(self) -> Turn:
        return self.lane.step(self.store)

    def did(self, *kinds: str) -> list[str]:
        """Return what was said of these kinds, all by default."""
        kinds = kinds or ("claim", "isolate", "record")
        return [each for each in self.said if each.startswith(kinds)]


def test_a_failure_that_is_not_written_down_goes_first_then_what_is_isolated_then_a_claim() -> None:
    trial = Trial(Result(isolate=(7, 8), unrecorded=(retry(3),)))
    turns = [trial.step() for _ in range(5)]
    assert trial.did() == ["claim 1", "record [3]", "isolate 7", "isolate 8", "claim 1"]
    assert [turn.settled for turn in turns] == [0, 1, 1, 1, 0]
    assert [turn.more for turn in turns] == [True, True, True, True, False]


def test_an_entry_that_waits_to_be_isolated_is_not_queued_once_more() -> None:
    trial = Trial(Result(isolate=(7, 8)), Result(isolate=(8, 9)))
    trial.step()
    trial.lane.finish(trial.store)
    for _ in range(4):
        trial.step()
    assert trial.did() == ["claim 1", "isolate 7", "isolate 8", "isolate 9", "claim 1"]


def test_an_entry_that_is_undone_in_isolation_goes_to_the_end_of_those_that_wait() -> None:
    trial = Trial(Result(isolate=(7, 8)))
    trial.isolated.again = [7]
    for _ in range(5):
        trial.step()
    assert trial.did() == ["claim 1", "isolate 7", "isolate 8", "isolate 7", "claim 1"]


@given(
    st.lists(st.tuples(st.sets(st.integers(1, 5)), st.sets(st.integers(6, 9)), st.booleans()), max_size=12)
)
def test_whatever_a_runner_returns_nothing_is_forgotten_and_nothing_overtakes(
    turns: list[tuple[set[int], set[int], bool]],
) -> None:
    """A model of the plan: what waits to be written down, and what waits to be isolated."""
    results = [
        Result(isolate=tuple(sorted(ids)), unrecorded=tuple(map(retry, sorted(failed))), exhausted=exhausted)
        for ids, failed, exhausted in turns
    ]
    trial = Trial(*results)
    isolate, unrecorded = list[int](), list[int]()
    for _ in range(40):
        if unrecorded:
            expected, unrecorded = f"record {unrecorded}", []
        elif isolate:
            expected = f"isolate {isolate.pop(0)}"
        else:
            expected = "claim 1"
            ids, failed, _ = turns.pop(0) if turns else (set(), set(), True)
            isolate, unrecorded = sorted(ids), sorted(failed)
        more = trial.step().more
        assert trial.did()[-1] == expected
        assert more or not isolate


def test_groups_grow_by_what_the_last_ones_took() -> None:
    trial = Trial(Result(timing=Timing(seconds=0.001, events=1, savepoints=False)))
    trial.step()
    trial.step()
    assert trial.did() == ["claim 1", "claim 100"]


def test_after_a_conflict_events_are_claimed_one_by_one() -> None:
    quick = Timing(seconds=0.001, events=1, savepoints=False)
    trial = Trial(Result(timing=quick), Result(conflict=True))
    for _ in range(3):
        trial.step()
    assert trial.did() == ["claim 1", "claim 100", "claim 1"]


def test_a_listener_of_batches_claims_as_many_as_it_takes() -> None:
    trial = Trial(batch=50)
    trial.step()
    assert trial.did() == ["claim 50"]


def test_no_more_are_claimed_than_twice_as_many_as_had_room() -> None:
    trial = Trial(Result(claimed=9, fit=3), Result(claimed=12), batch=50)
    for _ in range(3):
        trial.step()
    assert trial.did() == ["claim 50", "claim 6", "claim 50"]


def test_there_is_more_until_a_claim_from_the_low_water_mark_finds_nothing() -> None:
    """What committed late is below the start of the first claim."""
    trial = Trial(Result(outcomes=done(1, 2, 3), claimed=3, exhausted=True))
    assert trial.step() == Turn(settled=3, more=True)
    assert trial.cursor.passed_to == 0
    assert trial.step() == Turn(settled=0, more=False)


def test_there_is_more_where_a_claim_found_as_many_as_it_asked_for() -> None:
    trial = Trial(Result(outcomes=done(1, 2), claimed=2))
    assert trial.step().more
    assert trial.cursor.passed_to == 3


def test_there_is_more_where_claimed_entries_were_not_reached() -> None:
    """They are free again, and retries that are due may be among them."""
    trial = Trial(Result(outcomes=done(1), claimed=4, exhausted=True, left=True))
    trial.cursor.no_more_due(trial.time)
    assert trial.step().more
    assert trial.cursor.is_due(trial.time)
    assert trial.cursor.passed_to == 2


def test_what_was_isolated_says_nothing_of_the_entries_before_it() -> None:
    trial = Trial(Result(isolate=(900,)))
    trial.step()
    trial.step()
    assert trial.did()[-1] == "isolate 900"
    assert trial.cursor.passed_to == 0


def test_retries_are_looked_for_when_the_first_of_them_is_due() -> None:
    trial = Trial(Result(outcomes=(retry(1, 0.75), retry(2, 0.5))))
    trial.cursor.no_more_due(trial.time)
    trial.step()
    assert not trial.cursor.is_due(trial.time + 0.4)
    assert trial.cursor.is_due(trial.time + 0.5)


def test_what_was_handled_in_order_may_have_held_back_a_retry_that_is_due() -> None:
    trial = Trial(Result(outcomes=done(1)), ordered=True)
    trial.cursor.no_more_due(trial.time)
    trial.step()
    assert trial.cursor.is_due(trial.time)


def test_a_runner_may_ask_for_a_look_from_the_lowest_id() -> None:
    trial = Trial(Result(outcomes=done(1, 2)), Result(rewind=True))
    trial.cursor.no_more_due(trial.time)
    trial.step()
    trial.step()
    assert trial.cursor.passed_to == 0
    assert trial.cursor.is_due(trial.time)


def test_observers_are_told_of_the_replay_and_then_of_what_was_committed_by_the_clock_of_the_database() -> (
    None
):
    cause = RuntimeError("no")
    trial = Trial(Result(outcomes=done(1), isolate=(2, 3), replayed=cause), Result())
    trial.step()
    assert trial.told == [
        Replayed(listener="record", entries=(2, 3), cause=cause),
        Settled(listener="record", outcomes=done(1), at=NOW),
    ]


def test_a_turn_that_settled_nothing_tells_nothing() -> None:
    trial = Trial()
    trial.step()
    assert trial.told == []


def test_what_was_committed_before_an_error_is_absorbed_before_it_is_raised() -> None:
    trial = Trial(Result(outcomes=done(1), unrecorded=(retry(2),), error=RuntimeError("no")))
    with pytest.raises(RuntimeError):
        trial.step()
    assert [type(each) for each in trial.told] == [Settled]
    assert trial.cursor.passed_to == 2
    trial.step()
    assert trial.did()[-1] == "record [2]"


def test_an_error_on_a_broken_connection_is_its_loss() -> None:
    trial = Trial(RuntimeError("terminating connection"))
    trial.store.lost = True
    with pytest.raises(ConnectionLost, match="RuntimeError: terminating connection"):
        trial.step()


def test_no_handler_is_called_until_the_outbox_takes_what_it_refused() -> None:
    trial = Trial(NotSettled("swallowed", [7]), Result())
    with pytest.raises(NotSettled):
        trial.step()
    assert trial.step() == Turn()
    assert trial.said[-1] == "abandon"
    trial.time += 1.0
    trial.store.refuses = True
    with pytest.raises(NotSettled):
        trial.step()
    trial.store.refuses = False
    trial.time += 2.0
    trial.step()
    assert trial.did("claim", "abandon", "rehearse") == [
        "claim 1", "abandon", "rehearse 7", "abandon", "rehearse 7", "claim 1",
    ]  # fmt: skip


def test_failures_are_written_down_after_the_pause_while_the_outbox_refuses() -> None:
    """Writing them down calls no handler, so it need not be rehearsed."""
    trial = Trial(Result(unrecorded=(retry(3),), error=NotSettled("swallowed", [7])))
    with pytest.raises(NotSettled):
        trial.step()
    trial.step()
    assert trial.did() == ["claim 1"]
    trial.time += 1.0
    trial.step()
    assert trial.did() == ["claim 1", "record [3]"]


def test_a_transactional_claim_passes_the_gate_before_its_transaction_begins() -> None:
    trial = Trial()
    trial.step()
    assert trial.did("gate", "claim", "out") == ["gate", "claim 1", "out"]


def test_an_autonomous_runner_passes_the_gate_by_itself() -> None:
    trial = Trial(transactional=False)
    trial.step()
    assert trial.did("gate", "claim", "out") == ["claim 1"]


@pytest.mark.parametrize(
    ("seconds", "transactional", "wakes"), [(0.1, True, 1), (0.001, True, 0), (0.001, False, 1)]
)
def test_a_neighbour_is_woken_for_what_takes_longer_than_it_should_sleep(
    seconds: float, transactional: bool, wakes: int
) -> None:
    trial = Trial(transactional=transactional)
    trial.size.measure(seconds, 1, savepoints=False)
    trial.step()
    assert trial.said.count("taken") == wakes


def test_what_is_to_be_written_down_outlasts_the_end_of_handlers_that_go_on() -> None:
    trial = Trial(Result(unrecorded=(retry(1),)), Result(outcomes=done(5), unrecorded=(retry(2),)))
    trial.step()
    assert trial.lane.finish(trial.store) == 1
    trial.step()
    assert trial.did()[-1] == "record [1, 2]"


def test_a_lane_that_ends_writes_down_what_is_left_on_a_connection_of_its_own() -> None:
    trial = Trial(Result(unrecorded=(retry(1),)))
    trial.step()
    trial.lane.close(lambda: trial.store)
    assert trial.said[-3:] == ["close runner", "record [1]", "close"]
    trial.lane.close(pytest.fail)
