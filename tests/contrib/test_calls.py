"""What became of calls of handlers, told to who keeps them."""

from datetime import timedelta
from typing import Any

from sqla_pubsub.contrib.calls import Calls, Ended
from sqla_pubsub.current import CurrentEvent
from sqla_pubsub.deliver.happenings import Replayed, Settled, Stopped
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Outcome, Retry


def of(*ids: int, listener: str = "a") -> CurrentEvent:
    return CurrentEvent(listener, ids[0], 1, "INSERT", "note", ids)


def settled(*outcomes: Outcome, listener: str = "a") -> Settled:
    return Settled(listener=listener, outcomes=outcomes)


def ends(ended: list[Ended[Any]]) -> list[tuple[Any, Any]]:
    return [(each.call, each.end) for each in ended]


def test_each_outcome_ends_the_call_of_its_event_and_no_other() -> None:
    calls = Calls[str]()
    for number in (1, 2, 3, 4):
        assert calls.returned(of(number), f"call {number}") == []
    calls.returned(of(1, listener="b"), "of another listener")
    retry = Retry(id=2, attempt=1, delay=timedelta(0), error="")
    dead = DeadLetter(id=3, attempt=1, reason="", traceback=None)
    assert ends(calls.told(settled(Acknowledge(id=1), retry, dead))) == [
        ("call 1", "acknowledged"),
        ("call 2", "retried"),
        ("call 3", "dead"),
    ]
    assert calls.told(settled(Acknowledge(id=1))) == []
    assert calls.told(Stopped()) == []
    assert ends(calls.left(["a"])) == [("call 4", None)]
    assert ends(calls.left(["a", "b"])) == [("of another listener", None)]


def test_a_batch_ends_once_with_all_of_its_events() -> None:
    calls = Calls[str]()
    calls.returned(of(1, 2, 3), "batch")
    told = calls.told(settled(*(Acknowledge(id=number) for number in (1, 2, 3))))
    assert ends(told) == [("batch", "acknowledged")]
    assert calls.left(["a"]) == []


def test_a_group_that_is_thrown_back_ends_its_calls_and_so_does_another_try() -> None:
    calls = Calls[str]()
    calls.returned(of(1), "first of the group")
    calls.returned(of(2), "second")
    told = calls.told(Replayed(listener="a", entries=[1, 2], cause=ValueError()))
    assert ends(told) == [("first of the group", "thrown_back"), ("second", "thrown_back")]
    calls.returned(of(1), "undone by a deadlock")
    assert ends(calls.returned(of(1), "again")) == [("undone by a deadlock", "thrown_back")]
    assert ends(calls.told(settled(Acknowledge(id=1)))) == [("again", "acknowledged")]
    calls.returned(of(1), "of a trace that is sampled")
    assert ends(calls.repeated(of(1))) == [("of a trace that is sampled", "thrown_back")]
    assert calls.repeated(of(1)) == []


def test_what_nobody_tells_of_is_kept_up_to_a_bound() -> None:
    calls = Calls[int](most=3)
    ended = [each for number in range(10) for each in calls.returned(of(number), number)]
    assert ends(ended) == [(number, None) for number in range(7)]
    assert ends(calls.returned(of(*range(20, 30)), 20)) == [(7, None), (8, None), (9, None)]
