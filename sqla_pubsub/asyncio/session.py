"""What an ``async def`` handler gets as its session: it is of the handler's own for the time of the call."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

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
    """The session of one call of a handler, over the listener's own."""

    def __init__(self, session: Session) -> None:
        super().__init__(sync_session_class=lambda **_: session)  # type: ignore[arg-type]

    def end(self) -> None:
        """Take the listener's session away from the handler."""
        self.sync_session = self._proxied = _Over()  # type: ignore[assignment]
