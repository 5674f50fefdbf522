"""A server that says nothing any more: a listener that is stopped, or cancelled, ends all the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import RetryPolicy, after_insert
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.asyncio.handling import HARD
from tests.asyncio.conftest import AsyncNotes
from tests.asyncio.test_connections import until
from tests.deliver.notes import DEADLINE
from tests.faults.test_network import Proxy, proxied

pytestmark = [pytest.mark.one_driver, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
GRACE = timedelta(seconds=1)
SHORT: dict[str, Any] = {"grace": GRACE, "commit_every": timedelta(milliseconds=100)}
IN_TIME = GRACE.total_seconds() + HARD + 3
"""Seconds: the grace, the deadline after it, and what a busy machine takes."""

HANDS: dict[str, dict[str, Any]] = {"inside": {}, "outside": {"transactional": False}}


@asynccontextmanager
async def behind_proxy(notes: AsyncNotes, **config: Any) -> AsyncIterator[tuple[AsyncListener, Proxy]]:
    """Give a listener whose server can be frozen."""
    with proxied(notes.url) as (proxy, through):
        notes.url = through
        async with notes.listening(concurrency=3, **config) as listener:
            try:
                yield listener, proxy
            finally:
                # What was given up can end now, and with it the loop.
                proxy.thaw()


async def ends_in_time(notes: AsyncNotes, in_hand: asyncio.Event, *, cancelled: bool) -> bool:
    """Freeze the server while a handler is in hand; return whether the listener ends in time."""
    async with behind_proxy(notes, **SHORT) as (listener, proxy):
        task = asyncio.create_task(listener.run())
        await asyncio.wait_for(in_hand.wait(), DEADLINE)
        proxy.freeze()
        if cancelled:
            task.cancel()
        else:
            listener.stop()
        ended, _ = await asyncio.wait({task}, timeout=IN_TIME)
    return bool(ended)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("kind", HANDS)
def test_a_listener_ends_in_time_while_a_handler_waits_for_a_frozen_server(
    notes: AsyncNotes, kind: str, cancelled: bool
) -> None:
    in_hand = asyncio.Event()

    @after_insert(notes.Note, retry=ONCE, **HANDS[kind])
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        in_hand.set()
        await session.execute(text("SELECT pg_sleep(600)"))

    notes.write("a")
    assert asyncio.run(ends_in_time(notes, in_hand, cancelled=cancelled))
    assert [(entry.id, entry.attempt) for entry in notes.entries()] == [(1, 0)]


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_listener_ends_in_time_while_its_handlers_wait_for_something_else(
    notes: AsyncNotes, cancelled: bool
) -> None:
    in_hand = asyncio.Event()

    @after_insert(notes.Note, retry=ONCE, transactional=False)
    async def handle(new: Any) -> None:
        in_hand.set()
        await asyncio.Event().wait()

    notes.write("a", "b", "c")
    assert asyncio.run(ends_in_time(notes, in_hand, cancelled=cancelled))
    assert {entry.attempt for entry in notes.entries()} == {0}


def test_a_listener_that_sleeps_before_a_frozen_server_ends_in_time(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any) -> None: ...

    notes.install()
    soon = asyncio.Event()
    soon.set()
    assert asyncio.run(ends_in_time(notes, soon, cancelled=False))


@pytest.mark.parametrize("kind", HANDS)
def test_a_timeout_holds_before_a_frozen_server(notes: AsyncNotes, kind: str) -> None:
    """Its failure is written down when there is a server again."""
    begun, ended = asyncio.Event(), asyncio.Event()

    @after_insert(notes.Note, retry=ONCE, timeout=timedelta(seconds=1), **HANDS[kind])
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        begun.set()
        try:
            await session.execute(text("SELECT pg_sleep(600)"))
        finally:
            ended.set()

    async def program() -> None:
        async with behind_proxy(notes, **SHORT) as (listener, proxy), listener.running():
            await asyncio.wait_for(begun.wait(), DEADLINE)
            proxy.freeze()
            await asyncio.wait({asyncio.create_task(ended.wait())}, timeout=1 + HARD)
            proxy.thaw()
            await until(notes.dead, "its failure to be written down")

    notes.write("a")
    asyncio.run(program())
    (letter,) = notes.dead()
    assert "ran longer than its timeout" in letter.reason
