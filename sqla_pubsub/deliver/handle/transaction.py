"""What a call of a handler asks of the transaction that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sqlalchemy import Connection

from sqla_pubsub.deliver.handle.session import HandlerSession


class EventTransaction(Protocol):
    """A transaction in which events are handled one after the other."""

    connection: Connection
    guarded: bool
    """True while a handler runs: nobody but the listener may commit then."""
    watch: Callable[[str], None] | None
    """Called with each statement of a handler."""

    def session(self) -> HandlerSession:
        """Return the session of the handlers."""

    def finish_event(self, entry_id: int, /) -> None:
        """Take over what a handler did."""

    def undo_event(self) -> None:
        """Undo what a handler did."""
