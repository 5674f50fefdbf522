"""How handlers are called on the connection of a test, which is needed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from sqlalchemy import Connection

from sqla_pubsub.deliver.colour import Colour, Synchronous
from sqla_pubsub.deliver.handle.deadline import call_within
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import ListenerSpec


class Colours:
    """How handlers are called on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._on_loop = connection.dialect.is_async
        self._awaited: Colour | None = None

    def of(self, spec: ListenerSpec) -> Colour:
        """Return how the handler of a listener is called.

        Raises:
            ConfigurationError: It is async def, and the connection is none of a loop.
        """
        if not spec.asynchronous:
            return _Unbounded() if self._on_loop else _Sparing()
        if not self._on_loop:
            raise ConfigurationError(
                f"listener {spec.name!r} is async def, and the session of this test is not. Write: await drain(session) "
                "with an AsyncSession, or leave it out with listeners=[...]."
            )
        if self._awaited is None:
            from sqla_pubsub.asyncio.handling import Asynchronous  # noqa: PLC0415

            self._awaited = Asynchronous()
        return self._awaited

    def watched(self) -> Any:
        """Watch what handlers leave behind on the loop."""
        if not self._on_loop:
            return nullcontext()
        from sqla_pubsub.asyncio.leftovers import watched  # noqa: PLC0415

        return watched(asyncio.get_running_loop())


class _Sparing(Synchronous):
    """Plain functions, whose time is bounded so that the connection of the test goes on."""

    def within(self, spec: ListenerSpec, connection: Connection, handle: Callable[[], None]) -> None:
        if spec.timeout is None:
            handle()
        else:
            call_within(spec.timeout, connection, spec.name, handle, spare=True)


class _Unbounded(Synchronous):
    """Plain functions on a loop, where no alarm may interrupt them: it would hit the loop."""

    def within(self, _spec: ListenerSpec, _connection: Connection, handle: Callable[[], None]) -> None:
        handle()
