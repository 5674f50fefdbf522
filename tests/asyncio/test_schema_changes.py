"""DDL beside a listener at work: statements that were prepared before it cost no attempt."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import Insert, RetryPolicy, after_insert
from tests.asyncio.conftest import AsyncNotes
from tests.asyncio.test_connections import until

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
ROUNDS = 2
OFTEN = 6
"""psycopg prepares what was sent five times."""

CHANGES = {
    "a column is added": ["ALTER TABLE note ADD COLUMN another{round} integer"],
    "a column gets another type": ["ALTER TABLE mood ALTER COLUMN size TYPE {type}"],
    "a type is made anew": [
        "ALTER TABLE mood ALTER COLUMN kind TYPE text",
        "DROP TYPE kind",
        "CREATE TYPE kind AS ENUM ('calm', 'of round {round}')",
        "ALTER TABLE mood ALTER COLUMN kind TYPE kind USING CAST(kind AS kind)",
    ],
    "a composite type gets another attribute": ["ALTER TYPE point_of ADD ATTRIBUTE z{round} integer"],
}
READS = {
    "a column is added": "SELECT * FROM note WHERE id = :id",
    "a column gets another type": "SELECT *, CAST(:id AS integer) FROM mood",
    "a type is made anew": "SELECT kind, CAST(:id AS integer) FROM mood WHERE kind = CAST('calm' AS kind)",
    "a composite type gets another attribute": "SELECT place, CAST(:id AS integer) FROM mood",
}


@asynccontextmanager
async def running(notes: AsyncNotes) -> AsyncIterator[None]:
    async with notes.listening() as listener, listener.running():
        yield


@pytest.mark.in_turn("options")
@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"transactional": False}, {"batch": 5}], ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_ddl_beside_a_handler_costs_no_attempt(
    notes: AsyncNotes, change: str, options: dict[str, Any]
) -> None:
    attempts: list[int] = []

    async def read(event: Insert[Any], session: AsyncSession) -> None:
        attempts.append(event.attempt)
        (await session.execute(text(READS[change]), {"id": event.new.id})).all()
        session.add(notes.effect("handle", event.new.content))

    if "batch" in options:

        @after_insert(notes.Note, retry=ONCE, name="handle", **options)
        async def together(events: list[Insert[Any]], session: AsyncSession) -> None:
            for event in events:
                await read(event, session)
    else:

        @after_insert(notes.Note, retry=ONCE, **options)
        async def handle(event: Insert[Any], session: AsyncSession) -> None:
            await read(event, session)

    notes.install()
    notes.execute("CREATE TYPE kind AS ENUM ('calm')")
    notes.execute("CREATE TYPE point_of AS (x integer, y integer)")
    notes.execute("CREATE TABLE mood (kind kind, size integer, place point_of)")
    notes.execute("INSERT INTO mood VALUES ('calm', 1, ROW(1, 2))")
    written: list[str] = []

    async def program() -> None:
        async with running(notes):
            for number in range(ROUNDS):
                for each in range(OFTEN):
                    written.append(f"{number} {each}")
                    await asyncio.to_thread(notes.write, written[-1])
                await until(lambda: not notes.entries(), "all to be handled")
                for statement in CHANGES[change]:
                    kind = ("bigint", "integer")[number % 2]
                    await asyncio.to_thread(notes.execute, statement.format(round=number, type=kind))

    asyncio.run(program())
    assert notes.dead() == []
    assert sorted(map(str, notes.effects("handle"))) == sorted(written)
    assert set(attempts) == {1}
