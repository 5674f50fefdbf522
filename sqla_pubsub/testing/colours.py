"""How handlers are called on the connection of a test, which is needed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from sqla_pubsub.deliver.handle.colour import Colour, Synchronous
from sqla_pubsub.deliver.handle.deadline import call_within
from sqla_pubsub.deliver.handle.surroundings import Surroundings, contexts
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.named import Names, names_of
from sqla_pubsub.registry import ListenerSpec
from sqla_pubsub.settings import load_settings

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What an application puts around its handlers; what is None stands in the settings of the project."""

    session_class: Any = None
    around: Any = None

    def surroundings(self, *, asynchronous: bool) -> dict[str, Any]:
        """Return the arguments of a listener that are about it."""
        names = _named(Path.cwd())
        found = names.async_surroundings() if asynchronous else names.surroundings()
        given = {"session_class": self.session_class, "around": self.around}
        return found | {name: value for name, value in given.items() if value is not None}


class Colours:
    """How handlers are called on one connection.

    Args:
        connection: That of the test.
        application: What is put around them.
    """

    def __init__(self, connection: Connection, application: Application) -> None:
        self._application = application
        self._on_loop = connection.dialect.is_async
        self._plain: Colour | None = None
        self._awaited: Colour | None = None

    def of(self, spec: ListenerSpec) -> Colour:
        """Return how the handler of a listener is called.

        Raises:
            ConfigurationError: It is async def, and the connection is none of a loop.
        """
        if not spec.asynchronous:
            if self._plain is None:
                given = self._application.surroundings(asynchronous=False)
                around = Surroundings(given.get("session_class", Session), contexts(given["around"]))
                self._plain = _Unbounded(around) if self._on_loop else _Sparing(around)
            return self._plain
        if not self._on_loop:
            raise ConfigurationError(
                f"listener {spec.name!r} is async def, and the session of this test is not. Write: await drain(session) "
                "with an AsyncSession, or leave it out with listeners=[...]."
            )
        if self._awaited is None:
            from sqla_pubsub.asyncio.handling import Asynchronous  # noqa: PLC0415
            from sqla_pubsub.asyncio.session import AsyncSurroundings  # noqa: PLC0415

            given = self._application.surroundings(asynchronous=True)
            self._awaited = Asynchronous(AsyncSurroundings(**given | {"around": contexts(given["around"])}))
        return self._awaited

    def watched(self) -> Any:
        """Watch what handlers leave behind on the loop."""
        if not self._on_loop:
            return nullcontext()
        from sqla_pubsub.asyncio.leftovers import watched  # noqa: PLC0415

        return watched(asyncio.get_running_loop())


class _Sparing(Synchronous):
    """Plain functions, whose time is bounded so that the connection of the test goes on."""

    def within(self, name: str, timeout: timedelta, connection: Connection, handle: Callable[[], _T]) -> _T:
        return call_within(timeout, connection, name, handle, spare=True)


class _Unbounded(Synchronous):
    """Plain functions on a loop, where no alarm may interrupt them: it would hit the loop."""

    def within(
        self, _name: str, _timeout: timedelta, _connection: Connection, handle: Callable[[], _T]
    ) -> _T:
        return handle()


@lru_cache(maxsize=8)
def _named(folder: Path) -> Names:
    """Return the names in the settings of the project in *folder*."""
    return names_of(load_settings(folder).listen)
