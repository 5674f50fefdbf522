"""The producer of systems whose enqueue call wants an AsyncSession.

The same statements in the same transactions as `benchmarks.harness.producers`, and one event loop that is run for each
call. The untracked rows pay for it too, so ``added_us_per_row`` compares better with others than the ratio does.
"""

from __future__ import annotations

import asyncio
import time

import uvloop
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.harness import schema
from benchmarks.harness.adapter import Producer
from benchmarks.harness.producers import Comment, CommentBase


class AsyncSqlaProducer(Producer):
    """Inserts through an AsyncSession; both callbacks are coroutines."""

    def __init__(self, context, driver, enqueue, enqueue_many, loop="uvloop"):
        self._run = (uvloop if loop == "uvloop" else asyncio).new_event_loop().run_until_complete
        self._engine = create_async_engine(context.url(driver))
        self._enqueue, self._enqueue_many = enqueue, enqueue_many

    def insert_one(self, number, base=False):
        return self._run(self._insert_one(number, base))

    def insert_bulk(self, start, rows, base=False):
        return self._run(self._insert_bulk(start, rows, base))

    def scalar(self, query):
        return self._run(self._scalar(query))

    async def _insert_one(self, number, base):
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            row = (CommentBase if base else Comment)(**schema.row(number))
            session.add(row)
            if not base:
                await session.flush()
                await self._enqueue(session, row.id)
            await session.commit()
            committed = time.time()
        return row.id, committed

    async def _insert_bulk(self, start, rows, base):
        model = CommentBase if base else Comment
        values = [schema.row(number) for number in range(start, start + rows)]
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            ids = list(await session.scalars(insert(model).returning(model.id), values))
            if not base:
                await self._enqueue_many(session, ids)
            await session.commit()
        return ids

    async def _scalar(self, query):
        async with self._engine.connect() as connection:
            return (await connection.execute(text(query))).scalar()
