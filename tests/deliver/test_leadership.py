"""Who of a process's listeners waits at the connection: pure, without a server."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sqla_pubsub.deliver.wake.idle_policy import IdlePolicy, PollLimits
from sqla_pubsub.deliver.wake.leadership import Call, Leadership, Member


def member() -> Member:
    return Member(policy=IdlePolicy(5.0, PollLimits(), 0.0), low_waters=lambda: {"mail": 7})


def members(number: int) -> list[Member]:
    return [member() for _ in range(number)]


def rings(*members: Member) -> list[bool]:
    return [each.bell.silence() for each in members]


@pytest.fixture
def shared() -> Leadership:
    return Leadership()


def test_the_first_leads_and_the_others_follow(shared: Leadership) -> None:
    first, second = members(2)
    assert shared.lead(first)
    assert not shared.lead(second)
    assert shared.idle() == [first, second]


def test_who_comes_later_is_looked_for_at_once(shared: Leadership) -> None:
    leader, other = members(2)
    shared.lead(leader)
    assert rings(leader) == [False]
    shared.lead(other)
    assert rings(leader) == [True]


def test_who_is_called_to_work_follows_no_more(shared: Leadership) -> None:
    leader, called, other = everybody = members(3)
    for each in everybody:
        shared.lead(each)
    shared.call([called])
    assert rings(called, other) == [True, False]
    assert called.called is Call.WORK
    assert shared.idle() == [leader, other]


def test_who_resigns_calls_one_to_lead(shared: Leadership) -> None:
    leader, *others = everybody = members(4)
    for each in everybody:
        shared.lead(each)
    rings(leader)
    shared.resign()
    assert rings(*everybody) == [False, True, False, False]
    assert others[0].called is Call.LEAD
    assert shared.lead(others[0])
    assert shared.idle() == others


def test_who_does_not_wait_is_not_called(shared: Leadership) -> None:
    leader, gone, waiting = members(3)
    for each in (leader, gone, waiting):
        shared.lead(each)
    shared.unfollow(gone)
    shared.resign()
    assert rings(gone, waiting) == [False, True]


def test_who_was_called_to_lead_and_does_something_else_passes_it_on(shared: Leadership) -> None:
    leader, called, other = members(3)
    for each in (leader, called, other):
        shared.lead(each)
    shared.resign()
    assert rings(called, other) == [True, False]
    shared.unfollow(called)
    shared.pass_on()
    assert rings(other) == [True]


def test_nobody_is_called_while_one_leads(shared: Leadership) -> None:
    leader, gone, other = members(3)
    for each in (leader, gone, other):
        shared.lead(each)
    shared.unfollow(gone)
    shared.pass_on()
    assert rings(other) == [False]


def test_what_is_only_done_at_the_connection_makes_nobody_a_follower(shared: Leadership) -> None:
    leader, other = members(2)
    shared.lead(leader)
    assert not shared.lead(other, or_follow=False)
    shared.call([other])
    shared.resign()
    assert rings(leader, other) == [False, False]


def test_the_last_to_leave_is_told_so(shared: Leadership) -> None:
    first, second = members(2)
    shared.join(first)
    shared.join(second)
    assert not shared.leave(first)
    assert shared.leave(second)


def test_a_bell_that_is_full_rings_all_the_same(shared: Leadership) -> None:
    one = member()
    for _ in range(100_000):
        one.bell.ring()
    while one.bell.silence():
        pass
    one.bell.ring()
    assert rings(one) == [True]


class Histories(RuleBasedStateMachine):
    """Whatever listeners do, somebody leads, or is called to; and a leader is told of whom it has not looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.members = members(3)
        self.shared = Leadership()
        self.leader: Member | None = None
        self.following: list[Member] = []
        self.looked: list[Member] | None = None
        """For whom the leader has looked, None where it is about to."""

    @rule(number=st.integers(0, 2))
    def rest(self, number: int) -> None:
        self.sleep(self.members[number])

    def sleep(self, one: Member) -> None:
        if one is self.leader or one in self.following:
            return
        if self.shared.lead(one):
            self.leader, self.looked = one, None
        else:
            self.following.append(one)

    @rule(ready=st.lists(st.integers(0, 2)))
    def look(self, ready: list[int]) -> None:
        if self.leader is None:
            return
        self.leader.bell.silence()
        self.looked = self.shared.idle()
        called = [self.members[number] for number in ready]
        self.shared.call(called)
        if self.leader in called:
            self.shared.resign()
            self.leader = None

    @rule()
    def leave(self) -> None:
        if self.leader is not None:
            self.shared.resign()
            self.leader = None

    @rule(number=st.integers(0, 2))
    def wake(self, number: int) -> None:
        one = self.members[number]
        if one in self.following:
            self.shared.unfollow(one)
            self.shared.pass_on()
            self.following.remove(one)

    @rule(number=st.integers(0, 2))
    def answer(self, number: int) -> None:
        """Who was called looks what for."""
        one = self.members[number]
        if one in self.following and rung(one):
            self.shared.unfollow(one)
            self.following.remove(one)
            if one.called is Call.LEAD:
                self.sleep(one)
            else:
                self.shared.pass_on()

    @invariant()
    def somebody_watches(self) -> None:
        called = [one for one in self.following if rung(one)]
        waiting = [one for one in self.following if one not in called]
        if self.leader is None:
            assert not waiting or any(one.called is Call.LEAD for one in called)
        elif self.looked is not None:
            assert rung(self.leader) or all(one in self.looked for one in waiting)


def rung(one: Member) -> bool:
    """Whether the bell rings, which goes on."""
    if not one.bell.silence():
        return False
    one.bell.ring()
    return True


Histories.TestCase.settings = settings(max_examples=400, stateful_step_count=20, deadline=None)
TestHistories: Any = Histories.TestCase
