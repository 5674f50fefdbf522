"""``concurrency=`` of a decorator: how many events of one listener a process has in hand."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import after_insert
from tests.asyncio.conftest import AsyncNotes

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]


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
