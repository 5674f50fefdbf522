"""Between the listener, which is plain code in a greenlet, and the event loop that it runs on.

In by ``AsyncSession.run_sync``, out by ``AdaptedConnection.run_async``: both are SQLAlchemy's public interface.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")


class _Loop(AdaptedConnection):
    """Adapts no connection: it only awaits."""

    __slots__ = ()

    def __init__(self) -> None:
        self._connection = None  # type: ignore[assignment]


_loop = _Loop()


def awaited(awaitable: Awaitable[T]) -> T:
    """Await, in a greenlet that `in_greenlet` has made, and return the result."""
    return _loop.run_async(lambda _: awaitable)


async def in_greenlet(function: Callable[[], T]) -> T:
    """Run plain code that may call `awaited`."""
    # A session that is never used: of SQLAlchemy's ways into a greenlet, the one that needs no connection.
    return await AsyncSession().run_sync(lambda _: function())


class Waiter:
    """Sleeps without blocking the loop, and can be woken from within the process."""

    def __init__(self) -> None:
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """End the sleep, or the next one where nobody sleeps."""
        self._nudged.set()

    def __call__(self, seconds: float, /, *descriptors: int) -> bool:
        """Return when a descriptor can be read, at the latest after *seconds*; True where `nudge` was called."""
        return awaited(self._wait(seconds, descriptors))

    async def _wait(self, seconds: float, descriptors: tuple[int, ...]) -> bool:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()

        def found() -> None:
            if not readable.done():
                readable.set_result(None)

        for descriptor in descriptors:
            loop.add_reader(descriptor, found)
        nudged = loop.create_task(self._nudged.wait())
        try:
            await asyncio.wait(
                {readable, nudged}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            nudged.cancel()
            for descriptor in descriptors:
                loop.remove_reader(descriptor)
        woken = self._nudged.is_set()
        self._nudged.clear()
        return woken


async def readable(descriptor: int) -> None:
    """Return when there is something to be read from *descriptor*."""
    loop = asyncio.get_running_loop()
    found = asyncio.Event()
    loop.add_reader(descriptor, found.set)
    try:
        await found.wait()
    finally:
        loop.remove_reader(descriptor)


async def end(task: asyncio.Task[Any], within: float) -> bool:
    """Cancel *task*, and return whether it ended: neither driver promises that cancelling returns."""
    task.cancel()
    await asyncio.wait({task}, timeout=within)
    if not task.done():
        return False
    with suppress(BaseException):
        task.result()
    return True


def spawned(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task on the running loop."""
    return asyncio.get_running_loop().create_task(coroutine)
