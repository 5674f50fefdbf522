"""When a sleeper looks again, decided without a server: every bound of the protocol holds in any history."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqla_pubsub.deliver.wake.idle_policy import (
    Crowd,
    CrowdLimits,
    Decision,
    Guard,
    IdlePolicy,
    PollLimits,
    Relisten,
    Return,
    Seen,
    Wait,
)

LONGEST = 5.0
LIMITS = PollLimits(first=0.005, writers=0.05, take_over=1.0, blind=0.5)
NOTHING = Seen(ready=False, due_in=None, listening=True)
READY = Seen(ready=True, due_in=None, listening=True)

seen = st.builds(
    Seen,
    ready=st.booleans(),
    due_in=st.none() | st.floats(-10, 100, allow_nan=False),
    listening=st.booleans(),
)
turns = st.lists(
    st.tuples(st.sampled_from(Guard), seen, st.floats(0, 10), st.sampled_from(["", "woken", "worked"]))
)


def history(
    policy: IdlePolicy, steps: list[tuple[Guard, Seen, float, str]]
) -> list[tuple[Guard, Seen, Decision]]:
    now, decided = 0.0, []
    for guard, look, passed, what in steps:
        now += passed
        if what == "woken":
            policy.woken()
        if what == "worked":
            policy.worked(now)
        decided.append((guard, look, policy.decide(guard, look, now)))
    return decided


@given(turns)
def test_no_sleep_is_longer_than_its_reason_allows(steps: list[tuple[Guard, Seen, float, str]]) -> None:
    for guard, look, decision in history(IdlePolicy(LONGEST, LIMITS, 0.0), steps):
        if not isinstance(decision, Wait):
            continue
        assert 0 < decision.seconds <= LONGEST
        assert decision.works == look.work
        if guard is Guard.WRITERS:
            assert decision.seconds <= LIMITS.writers
        if guard is Guard.BLIND:
            assert decision.seconds <= LIMITS.blind
        if look.work:
            assert decision.seconds <= LIMITS.take_over
        if look.due_in is not None and look.due_in > 0:
            assert decision.seconds <= look.due_in


@given(turns)
def test_work_that_others_have_in_hand_sends_a_sleeper_to_look_once_and_not_again(
    steps: list[tuple[Guard, Seen, float, str]],
) -> None:
    """Else it would spin: claim nothing, look, claim nothing."""
    before: object = None
    for (_, _, _, what), (_, _, decision) in zip(
        steps, history(IdlePolicy(LONGEST, LIMITS, 0.0), steps), strict=True
    ):
        if not what:
            assert not (isinstance(before, Return) and isinstance(decision, Return))
        before = decision


@given(turns)
def test_a_lost_registration_is_made_again_wherever_it_could_be_heard(
    steps: list[tuple[Guard, Seen, float, str]],
) -> None:
    for guard, look, decision in history(IdlePolicy(LONGEST, LIMITS, 0.0), steps):
        asleep = not isinstance(decision, Return)
        assert isinstance(decision, Relisten) == (asleep and guard is not Guard.BLIND and not look.listening)


@given(turns, st.lists(st.floats(0, 2), max_size=60))
def test_looks_that_take_long_are_far_apart_and_delay_nothing_that_is_known(
    steps: list[tuple[Guard, Seen, float, str]], took: list[float]
) -> None:
    slow = [
        (guard, replace(look, took=each), passed, what)
        for (guard, look, passed, what), each in zip(steps, took, strict=False)
    ]
    before = 0.0
    for guard, look, decision in history(IdlePolicy(LONGEST, LIMITS, 0.0), slow):
        quicker, before = min(look.took, before), look.took
        if not isinstance(decision, Wait):
            continue
        known = [LONGEST]
        if look.work:
            known.append(LIMITS.take_over)
        if look.due_in is not None and look.due_in > 0:
            known.append(look.due_in)
        assert min(9 * quicker - 1e-9, *known) <= decision.seconds <= min(known)
        if guard is Guard.WRITERS:
            assert decision.seconds <= max(LIMITS.writers, 9 * quicker + 1e-9)


@given(st.sampled_from([Guard.WRITERS, Guard.BLIND]), st.floats(0.001, 0.5), st.integers(20, 200))
def test_an_idle_worker_looks_at_most_a_tenth_of_the_time(guard: Guard, took: float, looks: int) -> None:
    policy, now = IdlePolicy(LONGEST, LIMITS, 0.0), 0.0
    for _ in range(looks):
        now += took
        decision = policy.decide(guard, replace(NOTHING, took=took), now)
        assert isinstance(decision, Wait)
        now += decision.seconds
    # The first two show how long one takes.
    assert looks * took <= 0.1 * now + 2 * took


def test_one_slow_look_delays_nothing() -> None:
    """The first one after a restart finds cold caches."""
    policy = IdlePolicy(LONGEST, LIMITS, 0.0)
    slow, quick = replace(NOTHING, took=3.0), replace(NOTHING, took=0.001)
    for look in (slow, quick, slow, quick):
        decision = policy.decide(Guard.WRITERS, look, 100.0)
        assert decision == Wait(LIMITS.writers, works=False)


def test_polls_grow_from_a_few_milliseconds_to_the_longest_sleep() -> None:
    policy, now, slept = IdlePolicy(LONGEST, LIMITS, 0.0), 0.0, list[float]()
    while not slept or slept[-1] < LONGEST:
        decision = policy.decide(Guard.HELD, NOTHING, now)
        assert isinstance(decision, Wait)
        slept.append(decision.seconds)
        now += decision.seconds
    assert slept[0] == LIMITS.first
    assert slept == sorted(slept)
    assert len(slept) < 15


@pytest.mark.parametrize("guard", [Guard.HELD, Guard.OTHERS])
def test_polls_begin_anew_when_the_sleep_lock_changes_hands(guard: Guard) -> None:
    """A writer that probed the lock before may commit after the last look."""
    policy = IdlePolicy(LONGEST, LIMITS, 0.0)
    policy.decide(Guard.OTHERS if guard is Guard.HELD else Guard.HELD, NOTHING, 0.0)
    assert policy.decide(guard, NOTHING, 100.0) == Wait(LIMITS.first, works=False)


def test_writers_between_two_guards_do_not_make_the_polls_begin_anew() -> None:
    policy = IdlePolicy(LONGEST, LIMITS, 0.0)
    policy.decide(Guard.OTHERS, NOTHING, 0.0)
    policy.decide(Guard.WRITERS, NOTHING, 50.0)
    assert policy.decide(Guard.OTHERS, NOTHING, 100.0) == Wait(LONGEST, works=False)


def test_new_work_after_a_notification_is_gone_for_at_once() -> None:
    policy = IdlePolicy(LONGEST, LIMITS, 0.0)
    assert policy.decide(Guard.HELD, READY, 0.0) == Return()
    assert isinstance(policy.decide(Guard.HELD, READY, 1.0), Wait)
    policy.woken()
    assert policy.decide(Guard.HELD, READY, 2.0) == Return()


CROWD = CrowdLimits(notifications=4, within=0.024, pauses=(0.002, 0.004))


def test_where_events_come_one_after_the_other_writers_are_not_made_to_notify() -> None:
    crowd = Crowd(CROWD)
    told = [crowd.notified(1, number * 0.001) for number in range(1, 9)]
    assert [number for number, each in enumerate(told, 1) if each] == [4, 8], "each time anew"


@pytest.mark.parametrize(
    ("pause", "said"), [(0.001, True), (0.008, True), (0.009, False)], ids=["often", "at the bound", "seldom"]
)
def test_a_few_notifications_are_no_crowd(pause: float, said: bool) -> None:
    crowd = Crowd(CROWD)
    assert any(crowd.notified(1, number * pause) for number in range(100)) == said


def test_what_comes_at_once_counts_one_by_one() -> None:
    crowd = Crowd(CROWD)
    assert not crowd.notified(2, 0.0)
    assert crowd.notified(2, 0.01)
    assert crowd.notified(1000, 0.02)


def test_after_a_crowd_claims_follow_each_other_until_they_find_nothing() -> None:
    crowd = Crowd(CROWD)
    assert crowd.pause(found=True) is None, "a single event is waited for by sleeping"
    assert not crowd.notified(3, 0.0)
    assert crowd.pause(found=True) is None
    assert crowd.notified(1, 0.01)
    found = [True, True, False, True, False, False, True]
    pauses = [crowd.pause(found=each) for each in found]
    assert pauses == [0.002, 0.002, 0.004, 0.002, 0.004, None, None]
    assert crowd.notified(4, 1.0), "it begins anew"
    assert [crowd.pause(found=False) for _ in range(3)] == [0.004, None, None]


def test_notifications_of_giving_it_up_alone_end() -> None:
    """Two workers, each of which hears what the other one sends when it gives the lock up, and nothing else."""
    crowds, holder, now = (Crowd(CROWD), Crowd(CROWD)), 0, 0.0
    sent = 0
    heard = 4
    while heard:
        now += 0.001
        heard = int(crowds[holder].notified(heard, now))
        sent += heard
        holder = 1 - holder
    assert sent == 1
