"""What a call of a handler asks of the transaction that it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sqlalchemy import Connection

from sqla_pubsub.deliver.handle.session import HandlerSession
from sqla_pubsub.deliver.io.guard import TransactionGuard


class EventTransaction(Protocol):
    """A transaction in which events are handled one after the other."""

    connection: Connection
    guard: TransactionGuard

    def watch(self, sent: Callable[[str], None], /) -> None:
        """Call *sent* with each statement of a handler."""

    def session(self) -> HandlerSession:
        """Return the session of the handlers."""

    def finish_event(self, entry_id: int, /) -> None:
        """Take over what a handler did."""

    def undo_event(self) -> None:
        """Undo what a handler did."""
