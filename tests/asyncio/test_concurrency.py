"""``concurrency=`` of a decorator: how many events of one listener a process has in hand."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import after_insert
from tests.asyncio.conftest import AsyncNotes
from tests.asyncio.test_outside import CONNECTIONS
from tests.deliver.notes import DEADLINE
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]


LISTENING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"


class Inside:
    """How many are in their handlers, and were at most, by listener."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.many = asyncio.Event()

    async def stay(self, listener: str, *, until: str, count: int) -> None:
        """Be inside until *count* of listener *until* have been inside at once."""
        self.now[listener] += 1
        self.most[listener] = max(self.most[listener], self.now[listener])
        if self.now[until] >= count:
            self.many.set()
        if listener == until:
            await self.many.wait()
        else:
            await asyncio.sleep(0)
        self.now[listener] -= 1


@pytest.mark.parametrize("transactional", [True, False])
def test_one_listener_has_no_more_in_hand_than_it_may_and_others_have_theirs(
    notes: AsyncNotes, transactional: bool
) -> None:
    inside = Inside()

    @after_insert(notes.Note, transactional=transactional, concurrency=2)
    async def partner(new: Any, session: AsyncSession) -> None:
        await session.execute(select(1))
        await inside.stay("partner", until="other", count=5)

    @after_insert(notes.Note, transactional=transactional)
    async def other(new: Any) -> None:
        await inside.stay("other", until="other", count=5)

    notes.write(*map(str, range(20)))
    assert asyncio.run(notes.drained(concurrency=7, claim_size=1)) == 40
    assert inside.most["partner"] <= 2
    assert inside.most["other"] >= 5
    assert notes.left() == 0


@pytest.mark.parametrize("transactional", [True, False])
def test_as_many_as_a_listener_may_have_are_in_hand_at_once(notes: AsyncNotes, transactional: bool) -> None:
    inside = Inside()

    @after_insert(notes.Note, transactional=transactional, concurrency=3)
    async def partner(new: Any) -> None:
        await inside.stay("partner", until="partner", count=3)

    notes.write(*map(str, range(12)))
    assert asyncio.run(notes.drained(concurrency=50, claim_size=1)) == 12
    assert inside.most["partner"] == 3


@pytest.mark.parametrize("transactional", [True, False])
def test_what_comes_while_another_event_is_in_hand_is_handled_at_once(
    notes: AsyncNotes, transactional: bool
) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    @after_insert(notes.Note, transactional=transactional)
    async def handle(new: Any) -> None:
        if new.content == "first":
            first.set()
            await second.wait()
        second.set()

    async def program() -> None:
        async with (
            notes.listening(concurrency=2, poll_interval=timedelta(hours=1)) as listener,
            listener.running(),
        ):
            await asyncio.to_thread(wait_until, lambda: notes.scalar(LISTENING) == 1, DEADLINE, "its sleep")
            await asyncio.to_thread(notes.write, "first")
            await asyncio.wait_for(first.wait(), DEADLINE)
            await asyncio.to_thread(notes.write, "second")
            await asyncio.wait_for(second.wait(), DEADLINE)
            await asyncio.to_thread(wait_until, lambda: notes.left() == 0, DEADLINE, "both to be settled")

    asyncio.run(program())


def test_all_the_handlers_of_a_loop_share_one_connection_that_listens(notes: AsyncNotes) -> None:
    handled: list[str] = []

    @after_insert(notes.Note)
    async def inside(new: Any) -> None:
        handled.append("inside")

    @after_insert(notes.Note, transactional=False)
    async def outside(new: Any) -> None:
        handled.append("outside")

    notes.be_named("here")

    async def program() -> int:
        async with notes.listening(concurrency=5) as listener, listener.running():
            await asyncio.to_thread(wait_until, lambda: notes.scalar(LISTENING) == 1, DEADLINE, "its sleep")
            await asyncio.to_thread(notes.write, "a")
            await asyncio.to_thread(wait_until, lambda: len(handled) == 2, DEADLINE, "both handlers")
            used: int = await asyncio.to_thread(notes.scalar, CONNECTIONS)
            return used

    # Five that work inside of transactions, one for all that is outside, and one that listens.
    assert asyncio.run(program()) == 7
    assert sorted(handled) == ["inside", "outside"]
