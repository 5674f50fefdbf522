"""A listener that is cancelled anywhere: what it had in hand is handled again, and once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import after_insert
from tests.asyncio.conftest import AsyncNotes
from tests.lengths import length

pytestmark = pytest.mark.one_driver

AT_ONCE = timedelta(milliseconds=1)
SWITCHES = range(1, 400, length(short=13, full=1))


@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"ordered": True}, {"effects": "database"}], ids=str)
def test_wherever_a_listener_is_cancelled_each_event_is_handled_once(
    notes: AsyncNotes, options: dict[str, Any]
) -> None:
    parameter = "events" if "batch" in options else "new"

    async def handle(rows: list[Any], session: AsyncSession) -> None:
        for row in rows:
            await session.execute(insert(notes.Effect).values(listener="handle", what=row.content))
            await asyncio.sleep(0)
            session.add(notes.effect("added", row.content))

    if parameter == "events":

        @after_insert(notes.Note, name="handle", **options)
        async def of_batch(events: Any, session: AsyncSession) -> None:
            await handle([event.new for event in events], session)
    else:

        @after_insert(notes.Note, name="handle", **options)
        async def of_one(new: Any, session: AsyncSession) -> None:
            await handle([new], session)

    async def cancelled_after(switches: int) -> bool:
        async with notes.listening(grace=AT_ONCE, commit_every=AT_ONCE) as listener:
            task = asyncio.create_task(listener.drain())
            for _ in range(switches):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            return task.cancelled()

    interrupted, written = 0, list[str]()
    for switches in SWITCHES:
        mine = [f"{switches} {number}" for number in range(4)]
        notes.write(*mine)
        written += mine
        interrupted += asyncio.run(cancelled_after(switches))
    asyncio.run(notes.drained())
    assert interrupted > len(SWITCHES) / 2
    assert sorted(map(str, notes.effects("handle"))) == sorted(written)
    assert sorted(map(str, notes.effects("added"))) == sorted(written)
    assert notes.left() == 0
