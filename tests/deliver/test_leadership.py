"""Who of a process's listeners waits at the connection: pure, without a server."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sqla_pubsub.deliver.wake.leadership import Leadership, Member


def member(*names: str) -> Member:
    return Member(lambda: dict.fromkeys(names, 7))


def rings(*members: Member) -> list[bool]:
    return [each.bell.silence() for each in members]


@pytest.fixture
def shared() -> Leadership:
    return Leadership()


def test_the_first_leads_and_the_others_follow(shared: Leadership) -> None:
    first, second = member("mail"), member("mail")
    assert shared.lead(first)
    assert not shared.lead(second)
    shared.resign(to_work=False)
    assert shared.lead(second)


def test_who_finds_work_calls_all_to_it(shared: Leadership) -> None:
    leader, *others = (member("mail") for _ in range(4))
    shared.lead(leader)
    for other in others:
        shared.lead(other)
    shared.resign(to_work=True, due_in=-0.5)
    assert rings(*others) == [True] * 3
    assert [(other.woken, other.due_in) for other in others] == [(True, -0.5)] * 3


def test_who_leaves_without_work_calls_one_to_lead(shared: Leadership) -> None:
    leader, *others = (member("mail") for _ in range(4))
    shared.lead(leader)
    for other in others:
        shared.lead(other)
    shared.resign(to_work=False)
    assert rings(*others) == [True, False, False]
    assert not others[0].woken
    assert shared.lead(others[0])


def test_who_does_not_wait_is_not_called(shared: Leadership) -> None:
    leader, gone, waiting = member("mail"), member("mail"), member("mail")
    shared.lead(leader)
    shared.lead(gone)
    shared.lead(waiting)
    shared.unfollow(gone)
    shared.resign(to_work=False)
    assert rings(gone, waiting) == [False, True]


def test_who_was_called_to_lead_and_does_something_else_passes_it_on(shared: Leadership) -> None:
    leader, called, other = member("mail"), member("mail"), member("mail")
    for each in (leader, called, other):
        shared.lead(each)
    shared.resign(to_work=False)
    assert rings(called, other) == [True, False]
    shared.unfollow(called)
    shared.pass_on()
    assert rings(other) == [True]


def test_nobody_is_called_while_one_leads(shared: Leadership) -> None:
    leader, gone, other = member("mail"), member("mail"), member("mail")
    for each in (leader, gone, other):
        shared.lead(each)
    shared.unfollow(gone)
    shared.pass_on()
    assert rings(other) == [False]


def test_the_leader_looks_for_all_that_wait_and_no_others(shared: Leadership) -> None:
    leader, other, busy = member("mail"), member("index"), member("partner")
    shared.lead(busy)
    shared.resign(to_work=True)
    shared.lead(leader)
    shared.lead(other)
    assert shared.low_waters() == {"mail": 7, "index": 7}


def test_the_leader_looks_again_where_one_comes_for_whom_it_has_not_looked(shared: Leadership) -> None:
    leader, same, another = member("mail", "index"), member("index"), member("partner")
    shared.lead(leader)
    shared.low_waters()
    shared.lead(same)
    assert rings(leader) == [False]
    shared.lead(another)
    assert rings(leader) == [True]


def test_a_leader_that_has_not_looked_yet_is_told_too(shared: Leadership) -> None:
    leader, same = member("mail"), member("mail")
    shared.lead(leader)
    shared.lead(same)
    assert rings(leader) == [True]


def test_what_is_only_done_at_the_connection_makes_nobody_a_follower(shared: Leadership) -> None:
    leader, other = member("mail"), member("mail")
    shared.lead(leader)
    assert not shared.lead(other, or_follow=False)
    shared.resign(to_work=True)
    assert rings(other) == [False]


def test_a_bell_that_is_full_rings_all_the_same(shared: Leadership) -> None:
    one = member()
    for _ in range(100_000):
        one.bell.ring()
    while one.bell.silence():
        pass
    one.bell.ring()
    assert rings(one) == [True]


class Histories(RuleBasedStateMachine):
    """Whatever listeners do, somebody waits at the connection, or is called and will."""

    def __init__(self) -> None:
        super().__init__()
        self.members = [member("mail"), member("mail", "index"), member("partner")]
        self.shared = Leadership()
        self.leader: Member | None = None
        self.following: list[Member] = []
        self.looked: set[str] | None = None
        """For whom the leader has looked, None where it is about to."""

    @rule(number=st.integers(0, 2))
    def rest(self, number: int) -> None:
        self.sleep(number)

    def sleep(self, number: int) -> None:
        one = self.members[number]
        if one is self.leader or one in self.following:
            return
        if self.shared.lead(one):
            self.leader, self.looked = one, None
        else:
            self.following.append(one)

    @rule()
    def look(self) -> None:
        if self.leader is not None:
            self.leader.bell.silence()
            self.looked = set(self.shared.low_waters())

    @rule(to_work=st.booleans())
    def leave(self, to_work: bool) -> None:
        if self.leader is not None:
            self.shared.resign(to_work=to_work)
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
            if not one.woken:
                self.sleep(number)

    @invariant()
    def somebody_watches(self) -> None:
        called = [one for one in self.following if rung(one)]
        if self.leader is None:
            assert called or not self.following
        elif self.looked is not None:
            waiting = {name for one in self.following if one not in called for name in one.low_waters()}
            assert rung(self.leader) or waiting <= self.looked


def rung(one: Member) -> bool:
    """Whether the bell rings, which goes on."""
    if not one.bell.silence():
        return False
    one.bell.ring()
    return True


Histories.TestCase.settings = settings(max_examples=1_000, stateful_step_count=20, deadline=None)
TestHistories: Any = Histories.TestCase
