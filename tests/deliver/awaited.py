"""The tests of delivery on an event loop: the same handlers, awaited, and the same listener over an async driver."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Engine, MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_pubsub import Listener, ListenerConfig
from sqla_pubsub.asyncio.bridge import in_greenlet
from sqla_pubsub.asyncio.handling import Asynchronous
from sqla_pubsub.deliver.instrument import Observer
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.limits import DEFAULTS, Limits
from sqla_pubsub.registry import ListenerSpec, registry_of

T = TypeVar("T")


class AwaitedListener:
    """Has the face of a `Listener`; each call makes a loop and an engine of *driver* on it."""

    def __init__(
        self,
        driver: str,
        engine: Engine,
        metadata: MetaData,
        config: ListenerConfig | None = None,
        *,
        listeners: Collection[str] | None = None,
        observers: Iterable[Observer] = (),
        limits: Limits = DEFAULTS,
    ) -> None:
        declared = registry_of(metadata).listeners
        declared.update({name: _awaited(spec) for name, spec in declared.items()})
        self._url = engine.url.set(drivername=f"postgresql+{driver}")
        self._options = engine.get_execution_options()
        self._make = partial(
            Listener,
            metadata=metadata,
            config=config,
            listeners=listeners,
            observers=observers,
            limits=limits,
        )
        self._stopped = StopSignal()
        self._running: list[Listener] = []

    def stop(self) -> None:
        self._stopped.raise_()
        for listener in self._running:
            listener.stop()

    def run(self) -> None:
        asyncio.run(self._on_loop(lambda listener: listener.run()))

    def drain(self, progress: Callable[[int], None] | None = None) -> int:
        return asyncio.run(self._on_loop(lambda listener: listener.drain(progress)))

    async def _on_loop(self, work: Callable[[Listener], T]) -> T:
        engine = create_async_engine(self._url, execution_options=dict(self._options))
        try:
            listener = self._make(engine.sync_engine, colour=Asynchronous())
            self._running.append(listener)
            if self._stopped():
                listener.stop()
            return await in_greenlet(partial(work, listener))
        finally:
            await engine.dispose()


def _awaited(spec: ListenerSpec) -> ListenerSpec:
    """Return the listener with a handler that is awaited, and calls the plain one where statements may be sent."""
    if spec.asynchronous:
        return spec

    async def handle(**arguments: Any) -> None:
        session = arguments.get("session")
        if session is None:
            spec.handler(**arguments)
        else:
            await session.run_sync(lambda own: spec.handler(**{**arguments, "session": own}))

    return replace(spec, handler=handle, asynchronous=True)
