"""Hands what one connection hears to all pages that are open in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, wait_exponential

FULL = 1_000
"""Changes that a page may be behind; one that is further behind is ended, and asks for everything when it is back."""


class Board:
    """Listens on a channel of PostgreSQL, on a connection of its own, and again whenever that ends.

    Args:
        engine: Where to connect; it must use asyncpg.
        channel: The channel.
    """

    def __init__(self, engine: AsyncEngine, channel: str) -> None:
        self._engine = engine
        self._channel = channel
        self._pages = set[asyncio.Queue[int | None]]()
        self._listening = asyncio.Event()

    async def __aenter__(self) -> Board:
        self._task = asyncio.create_task(self._listen())
        await self._listening.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_pages()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    @asynccontextmanager
    async def following(self) -> AsyncIterator[AsyncIterator[int]]:
        """Yield the ids that are heard from now on, until the connection ends or the page is too far behind."""
        page: asyncio.Queue[int | None] = asyncio.Queue(FULL)
        self._pages.add(page)
        try:
            yield _until_none(page)
        finally:
            self._pages.discard(page)

    async def _listen(self) -> None:
        async for attempt in AsyncRetrying(wait=wait_exponential(max=5)):
            with attempt:
                await self._listen_once()

    async def _listen_once(self) -> None:
        """Listen until the connection ends.

        Raises:
            ConnectionError: It has ended.
        """
        ended = asyncio.Event()
        connection = await self._connect()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(self._channel, self._hear)
            self._listening.set()
            await ended.wait()
        finally:
            self._end_pages()
            connection.terminate()
        raise ConnectionError("the connection that listens has ended")

    async def _connect(self) -> asyncpg.Connection[Any]:
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        return await asyncpg.connect(*arguments, **options)

    def _hear(self, _connection: object, _pid: int, _channel: str, order_id: str) -> None:
        for page in list(self._pages):
            try:
                page.put_nowait(int(order_id))
            except asyncio.QueueFull:
                self._end(page)

    def _end_pages(self) -> None:
        for page in list(self._pages):
            self._end(page)

    def _end(self, page: asyncio.Queue[int | None]) -> None:
        self._pages.discard(page)
        while not page.empty():
            page.get_nowait()
        page.put_nowait(None)


async def _until_none(page: asyncio.Queue[int | None]) -> AsyncIterator[int]:
    while (order_id := await page.get()) is not None:
        yield order_id
