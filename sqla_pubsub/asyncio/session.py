"""What an ``async def`` handler gets as its session: it is of the handler's own for the time of the call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from sqla_pubsub.deliver.handle.surroundings import Around, SessionClass, Surroundings
from sqla_pubsub.errors import SessionOwnershipError

_OVER = (
    "the session of a handler was used after the handler had returned, by a task that it left running perhaps. "
    "Its event is settled by then: await all of its tasks in the handler."
)


class _Over:
    """Stands where the session was."""

    def __getattr__(self, name: str) -> Any:
        raise SessionOwnershipError(_OVER)


class HandlerAsyncSession(AsyncSession):
    """The session of one call of a handler, over the listener's own.

    Args:
        session: That one.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(sync_session_class=lambda **_: session)  # type: ignore[arg-type]

    def end(self) -> None:
        """Take the listener's session away from the handler."""
        self.sync_session = self._proxied = _Over()  # type: ignore[assignment]


AsyncSessionClass = type[AsyncSession] | async_sessionmaker[Any] | SessionClass
"""A subclass of AsyncSession, or what makes sessions of one; or the same of Session, for plain AsyncSessions over it."""


@dataclass(frozen=True, eq=False)
class AsyncSurroundings:
    """What the application puts around its ``async def`` handlers.

    Attributes:
        session_class: The class of their sessions.
        around: Contexts about each call, awaited or plain ones.

    Raises:
        ConfigurationError: As for `Surroundings`.
    """

    session_class: AsyncSessionClass = AsyncSession
    around: tuple[Around, ...] = ()

    @cached_property
    def plain(self) -> Surroundings:
        """Those of the sessions below."""
        given = self.session_class
        if isinstance(given, async_sessionmaker):
            below = given.kw.get("sync_session_class", given.class_.sync_session_class)
            options = {name: value for name, value in given.kw.items() if name != "sync_session_class"}
            return Surroundings(sessionmaker(class_=below, **options), self.around)
        if isinstance(given, type) and issubclass(given, AsyncSession):
            return Surroundings(given.sync_session_class, self.around)
        return Surroundings(given, self.around)

    @cached_property
    def handler_session(self) -> type[HandlerAsyncSession]:
        """The class of what handlers get."""
        given = self.session_class
        base = given.class_ if isinstance(given, async_sessionmaker) else given
        if not isinstance(base, type) or not issubclass(base, AsyncSession) or base is AsyncSession:
            return HandlerAsyncSession
        made = type(base.__name__, (HandlerAsyncSession, base), {"__module__": base.__module__})
        return cast("type[HandlerAsyncSession]", made)
