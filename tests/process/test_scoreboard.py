"""What a worker shows to its supervisor."""

from collections.abc import Callable
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub.deliver.happenings import Settled
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Outcome, Retry
from sqla_pubsub.process.scoreboard import Scoreboard

ends: list[Callable[[int], Outcome]] = [
    lambda number: Acknowledge(id=number),
    lambda number: Retry(id=number, attempt=1, delay=timedelta(seconds=number), error=""),
    lambda number: DeadLetter(id=number, attempt=1, reason="", traceback=None),
]


@given(st.lists(st.tuples(st.integers(1, 100), st.sampled_from(ends)), max_size=30))
def test_all_ends_are_counted(settled: list[tuple[int, Callable[[int], Outcome]]]) -> None:
    scoreboard = Scoreboard()
    outcomes = [end(each) for each, end in settled]
    scoreboard.observe(Settled(listener="record", outcomes=outcomes))
    kinds = [type(outcome) for outcome in outcomes]
    assert scoreboard.settled == (kinds.count(Acknowledge), kinds.count(Retry), kinds.count(DeadLetter))


def test_all_that_is_in_hand_is_shown() -> None:
    scoreboard = Scoreboard()
    scoreboard.take("record", [7, 8, 9])
    assert scoreboard.in_hand == [7, 8, 9]
    scoreboard.take("record", [10])
    assert scoreboard.in_hand == [10]
    scoreboard.put_down()
    assert scoreboard.in_hand == []
