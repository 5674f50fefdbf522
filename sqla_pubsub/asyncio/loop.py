"""An AsyncListener for a thread that has no event loop: a worker process of ``sqla-pubsub listen``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from sqla_pubsub.asyncio.listener import AsyncListener
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.instrument import Observer
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.scoreboard import Scoreboard

T = TypeVar("T")


class LoopListener:
    """Has the face of a `Listener`; each call of it makes an event loop.

    Args:
        engine: Makes the engine, on the loop.
        metadata, config, listeners, concurrency: As for `AsyncListener`.
        scoreboards: Where to show what is being done.
        lifespans: What is awaited about the whole run.
        surroundings: More arguments of `AsyncListener`: ``session_class`` and ``around``.
        observers: Called with each happening.
    """

    def __init__(
        self,
        engine: Callable[[], AsyncEngine],
        metadata: MetaData,
        config: ListenerConfig,
        *,
        listeners: Collection[str],
        concurrency: int,
        scoreboards: Sequence[Scoreboard],
        lifespans: Sequence[AbstractAsyncContextManager[Any]] = (),
        surroundings: Mapping[str, Any] = MappingProxyType({}),
        observers: Sequence[Observer] = (),
    ) -> None:
        self._lifespans = lifespans
        self._surroundings = surroundings
        self._observers = observers
        self._engine = engine
        self._metadata = metadata
        self._config = config
        self._names = listeners
        self._concurrency = concurrency
        self._scoreboards = scoreboards
        self._stopped = StopSignal()
        self._listener: AsyncListener | None = None

    def stop(self) -> None:
        """End `run` or `drain` after the events in hand; safe in signal handlers and from other threads."""
        self._stopped.raise_()
        if self._listener is not None:
            self._listener.stop()

    def run(self) -> None:
        """Work until stopped, as `AsyncListener.run`."""
        asyncio.run(self._with_listener(AsyncListener.run))

    def drain(self) -> int:
        """Work until nothing is due, as `AsyncListener.drain`."""
        return asyncio.run(self._with_listener(AsyncListener.drain))

    async def _with_listener(self, work: Callable[[AsyncListener], Coroutine[Any, Any, T]]) -> T:
        engine = self._engine()
        try:
            self._listener = AsyncListener(
                engine, self._metadata, self._config, listeners=self._names,
                concurrency=self._concurrency, scoreboards=self._scoreboards,
                observers=self._observers, **self._surroundings,
            )  # fmt: skip
            if self._stopped():
                # It came before there was a listener to tell.
                self._listener.stop()
            async with AsyncExitStack() as stack:
                for lifespan in self._lifespans:
                    await stack.enter_async_context(lifespan)
                return await work(self._listener)
        finally:
            await engine.dispose()
