"""The totals that an observer keeps: a model of single events beside it, and a process that takes the place of another."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from multiprocessing.sharedctypes import RawArray

from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub.deliver.happenings import Lost, Replayed, Settled, Woken
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Outcome, Retry
from sqla_pubsub.operate.tally import MOST_ERROR_TYPES, OTHER, Tally, label_size, size
from sqla_pubsub.operate.totals import BOUNDS, Totals

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMES = ("mail", "index")

seconds = st.none() | st.floats(0, 400)
errors = st.sampled_from(["ValueError", "KeyError", "HandlerTimeout", "RetryLater"])
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(
        Acknowledge, id=st.integers(1, 9), seconds=seconds, occurred_at=st.none() | st.just(NOON - timedelta(seconds=2))
    ),
    st.builds(
        Retry, id=st.integers(1, 9), attempt=st.just(1), delay=st.just(timedelta(0)), error=st.just(""),
        error_type=errors, seconds=seconds,
    ),
    st.builds(
        DeadLetter, id=st.integers(1, 9), attempt=st.just(1), reason=st.just(""), traceback=st.none(),
        error_type=errors, seconds=seconds,
    ),
)  # fmt: skip
groups = st.lists(st.tuples(st.sampled_from(NAMES), st.lists(outcomes, max_size=8)), max_size=8)


def settled(listener: str, *settled_: Outcome) -> Settled:
    return Settled(listener=listener, outcomes=settled_, at=NOON)


@given(groups)
def test_each_event_is_counted_once_in_everything_that_it_belongs_to(
    told: list[tuple[str, list[Outcome]]],
) -> None:
    tally = Tally(NAMES)
    for listener, group in told:
        tally(settled(listener, *group))
    for name in NAMES:
        mine = [outcome for listener, group in told for outcome in group if listener == name]
        did = tally.totals().listeners[name]
        failed = [each for each in mine if not isinstance(each, Acknowledge)]
        timed = [each.seconds for each in mine if each.seconds is not None]
        first = [each for each in mine if isinstance(each, Acknowledge) and each.occurred_at is not None]
        assert did.acknowledged == len(mine) - len(failed)
        assert (did.retried, did.dead) == (
            sum(isinstance(each, Retry) for each in mine),
            sum(isinstance(each, DeadLetter) for each in mine),
        )
        # What asks to be tried again has not failed.
        assert did.failures == Counter(each.error_type for each in failed if each.error_type != "RetryLater")
        assert did.timeouts == sum(each.error_type == "HandlerTimeout" for each in failed)
        assert did.durations.count == len(timed)
        assert abs(did.durations.total - sum(timed)) < 1e-6
        for place, bound in enumerate(BOUNDS):
            assert sum(did.durations.counts[: place + 1]) == sum(each <= bound for each in timed)
        assert (did.latencies.count, did.latencies.total) == (len(first), 2.0 * len(first))


@given(groups, groups)
def test_the_sum_of_two_workers_is_what_one_would_have_counted(
    one: list[tuple[str, list[Outcome]]], other: list[tuple[str, list[Outcome]]]
) -> None:
    tallies = Tally(NAMES), Tally(NAMES)
    together = Tally(NAMES)
    for tally, told in zip(tallies, (one, other), strict=True):
        for listener, group in told:
            tally(settled(listener, *group))
            together(settled(listener, *group))
    added, counted = sum((tally.totals() for tally in tallies), Totals()), together.totals()
    for name in NAMES:
        assert added.listeners[name].failures == counted.listeners[name].failures
        assert added.listeners[name].durations.counts == counted.listeners[name].durations.counts
        assert added.listeners[name].acknowledged == counted.listeners[name].acknowledged


def failure(kind: str) -> Retry:
    return Retry(id=1, attempt=1, delay=timedelta(0), error="", error_type=kind)


def test_a_process_goes_on_where_the_one_before_it_ended() -> None:
    cells, labels = RawArray("d", size(NAMES)), RawArray("B", label_size(NAMES))
    for kinds in (["ValueError", "KeyError"], ["KeyError", "OSError"]):
        successor = Tally(NAMES, cells, labels)
        for kind in kinds:
            successor(settled("index", failure(kind)))
    supervisor = Tally(NAMES, cells, labels)
    assert supervisor.totals().listeners["index"].failures == {"ValueError": 1, "KeyError": 2, "OSError": 1}
    assert supervisor.totals().listeners["mail"].failures == {}


def test_more_types_of_errors_than_there_is_room_for_are_counted_as_others() -> None:
    tally = Tally(NAMES)
    for number in range(MOST_ERROR_TYPES + 5):
        tally(settled("mail", failure(f"Error{number}")))
    failures = tally.totals().listeners["mail"].failures
    assert len(failures) == MOST_ERROR_TYPES + 1
    assert failures[OTHER] == 5


def test_a_name_that_is_too_long_is_cut_and_still_one() -> None:
    tally = Tally(NAMES)
    for _ in range(2):
        tally(settled("mail", failure("É" * 100)))
    ((name, number),) = tally.totals().listeners["mail"].failures.items()
    assert number == 2
    assert name.startswith("É" * 31)


def test_what_happens_to_the_process_is_counted_by_its_reason() -> None:
    tally = Tally(NAMES)
    tally(Replayed(listener="mail", entries=(1,), cause=ValueError()))
    tally(Lost(error=OSError(), role="listen"))
    tally(Woken(reason="notification"))
    tally(Woken(reason="notification"))
    totals = tally.totals()
    assert totals.replays == {"conflict": 0, "database": 0, "handler": 1}
    assert totals.losses == {"work": 0, "listen": 1}
    assert totals.wakeups == {"notification": 2, "poll": 0, "retry": 0, "time": 0}


def test_a_listener_that_it_does_not_know_is_not_counted() -> None:
    tally = Tally(NAMES)
    tally(settled("new", failure("ValueError")))
    assert all(did.retried == 0 for did in tally.totals().listeners.values())
