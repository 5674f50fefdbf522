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


def test_all_are_looked_for_anew_when_what_was_seen_does_not_count_any_more(shared: Leadership) -> None:
    """Also who was called to lead, and is not among the followers at that moment."""
    everybody = members(3)
    for each in everybody:
        shared.join(each)
        shared.lead(each)
        each.wait(9.0, works=False)
    shared.resign()
    assert everybody[1].called is Call.LEAD
    shared.stir()
    assert [each.until for each in everybody] == [None] * 3


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
    """Whatever listeners do, somebody leads or is called to, and who waits has been looked for since all was stirred."""

    def __init__(self) -> None:
        super().__init__()
        self.members = members(3)
        self.shared = Leadership()
        for each in self.members:
            self.shared.join(each)
        self.leader: Member | None = None
        self.following: list[Member] = []
        self.unseen: set[Member] = set()
        """Whom nobody has looked for since it went to sleep, or since all was stirred."""
        self.looked = False
        """Whether the leader has, since it leads."""

    @rule(number=st.integers(0, 2))
    def rest(self, number: int) -> None:
        one = self.members[number]
        if one is not self.leader and one not in self.following:
            one.rest()
            self.unseen.add(one)
            self.sleep(one)

    def sleep(self, one: Member) -> None:
        if self.shared.lead(one):
            self.leader, self.looked = one, False
        else:
            self.following.append(one)

    @rule(ready=st.lists(st.integers(0, 2)))
    def look(self, ready: list[int]) -> None:
        if self.leader is None:
            return
        self.leader.bell.silence()
        asked = [one for one in self.shared.idle() if one.until is None]
        called = [self.members[number] for number in ready if self.members[number] in asked]
        for one in asked:
            one.wait(1.0, works=False)
        self.unseen.difference_update(asked)
        self.looked = True
        self.shared.call(called)
        if self.leader in called:
            self.resign()

    @rule()
    def hear(self) -> None:
        """A notification comes."""
        if self.leader is not None and self.looked:
            self.stir()
            self.shared.call(self.shared.idle())
            self.resign()

    @rule()
    def leave(self) -> None:
        if self.leader is not None:
            self.resign()

    def resign(self) -> None:
        self.shared.resign()
        self.leader = None

    def stir(self) -> None:
        self.shared.stir()
        self.unseen.update(self.members)

    @rule(number=st.integers(0, 2))
    def hand_over(self, number: int) -> None:
        one = self.members[number]
        if one not in self.following and self.shared.lead(one, or_follow=False):
            self.stir()
            self.shared.resign()

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
        waiting = {one for one in self.following if one not in called}
        if self.leader is None:
            assert not waiting or any(one.called is Call.LEAD for one in called)
        elif self.looked and not rung(self.leader):
            assert not self.unseen & (waiting | {self.leader})


def rung(one: Member) -> bool:
    """Whether the bell rings, which goes on."""
    if not one.bell.silence():
        return False
    one.bell.ring()
    return True


Histories.TestCase.settings = settings(max_examples=600, stateful_step_count=40, deadline=None)
TestHistories: Any = Histories.TestCase
