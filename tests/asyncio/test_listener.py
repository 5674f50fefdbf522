"""An AsyncListener: what an ``async def`` handler writes is committed together with its acknowledgement."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import RetryPolicy, after_insert
from tests.asyncio.conftest import AsyncNotes

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)


def test_what_a_handler_adds_is_written_and_its_event_settled(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert notes.effects("handle") == ["a", "b", "c"]
    assert notes.left() == 0


def test_what_a_handler_executes_is_seen_by_the_next_and_undone_with_its_event(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        seen = len((await session.scalars(select(notes.Effect))).all())
        await session.execute(insert(notes.Effect).values(listener="handle", what=f"{new.content}{seen}"))
        await session.flush()
        if new.content == "b":
            raise ValueError("no")

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert notes.effects("handle") == ["a0", "c1"]
    assert [letter.entry_id if hasattr(letter, "entry_id") else letter.id for letter in notes.dead()] == [2]


def test_a_batch_is_handled_in_one_call(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, batch=10)
    async def handle(events: Any, session: AsyncSession) -> None:
        await session.execute(
            insert(notes.Effect), [{"listener": "handle", "what": event.new.content} for event in events]
        )

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert notes.effects("handle") == ["a", "b", "c"]


def test_a_handler_that_outruns_its_timeout_is_ended_and_counted(notes: AsyncNotes) -> None:
    ended = []

    @after_insert(notes.Note, retry=ONCE, timeout=timedelta(milliseconds=100))
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        if new.content == "b":
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(new.content)

    notes.write("a", "b", "c")
    asyncio.run(notes.drained())
    assert ended == ["b"]
    assert notes.effects("handle") == ["a", "c"]
    assert "ran longer than its timeout" in notes.dead()[0].last_error
