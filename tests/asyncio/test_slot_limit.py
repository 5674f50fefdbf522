"""How many transactions are worked at once: as many as the loop has time for."""

import asyncio
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import after_insert
from sqla_pubsub.asyncio.slot_limit import WINDOW, SlotLimit, busy_time
from tests.asyncio.conftest import AsyncNotes
from tests.deliver.notes import DEADLINE

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]


class Times:
    """A clock, and how much of its time is computed."""

    def __init__(self) -> None:
        self.now = self.spent = 0.0

    def limit(self, most: int) -> SlotLimit:
        return SlotLimit(most, lambda: self.now, lambda: self.spent)

    def go_on(self, share: float) -> None:
        self.now += 2 * WINDOW
        self.spent += share * 2 * WINDOW


def test_a_busy_loop_works_fewer_at_once_and_an_idle_one_more() -> None:
    times = Times()
    limit = times.limit(10)
    seen = []
    for share in (1.0, 1.0, 1.0, 1.0, 0.8, 0.1, 0.1, 0.1, 0.1):
        times.go_on(share)
        limit.measure()
        seen.append(limit.allowed)
    assert seen == [5, 2, 1, 1, 1, 2, 4, 8, 10]


@given(st.integers(1, 64), st.lists(st.floats(0, 1), max_size=50))
def test_the_first_one_always_may_and_never_more_than_there_are(most: int, shares: list[float]) -> None:
    times = Times()
    limit = times.limit(most)
    for share in shares:
        times.go_on(share)
        limit.measure()
        assert 1 <= limit.allowed <= most


def test_who_waits_for_its_place_is_let_in_when_there_is_time_and_when_all_ends() -> None:
    async def program() -> None:
        times = Times()
        limit = times.limit(2)
        times.go_on(1.0)
        await limit.enter(1)
        second = asyncio.ensure_future(limit.enter(2))
        await asyncio.sleep(0)
        assert not second.done()
        times.go_on(0.0)
        await asyncio.wait_for(second, DEADLINE)
        times.go_on(1.0)
        third = asyncio.ensure_future(limit.enter(2))
        await asyncio.sleep(0)
        assert not third.done()
        limit.open()
        await asyncio.wait_for(third, DEADLINE)

    asyncio.run(program())


def test_handlers_that_wait_run_beside_each_other(notes: AsyncNotes) -> None:
    inside = 0
    together = asyncio.Event()

    @after_insert(notes.Note)
    async def handle(new: Any) -> None:
        nonlocal inside
        inside += 1
        if inside == 5:
            together.set()
        await asyncio.wait_for(together.wait(), DEADLINE)
        inside -= 1

    notes.write(*"abcdefghij")
    assert asyncio.run(notes.drained(concurrency=5)) == 10


def test_handlers_that_only_ask_the_database_are_all_handled(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))

    contents = [str(number) for number in range(300)]
    notes.write(*contents)
    assert asyncio.run(notes.drained(concurrency=10)) == 300
    assert sorted(map(str, notes.effects("handle")), key=int) == contents


def test_a_thread_that_computes_is_busy_and_one_that_waits_is_not() -> None:
    computed, busy = time.thread_time(), busy_time()
    while time.thread_time() - computed < 0.2:
        pass
    assert busy_time() - busy > 0.1
    began, busy = time.monotonic(), busy_time()
    subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
    assert busy_time() - busy < (time.monotonic() - began) / 2
