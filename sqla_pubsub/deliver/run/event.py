"""One event in a transaction: decoded, handed over, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.handle.invocation import Dispatcher
from sqla_pubsub.deliver.run.result import Again, Broken, Handled, Interrupted, ThrownBack, ids
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.scoreboard import Scoreboard
from sqla_pubsub.deliver.settle.failure_policy import FailurePolicy
from sqla_pubsub.deliver.settle.outcome import Acknowledge, Outcome, is_denied
from sqla_pubsub.errors import ENDED, HandlerTimeout, TransactionEnded, UnreadableEntry, is_stale
from sqla_pubsub.registry import ListenerSpec

_T = TypeVar("_T")

UNREADABLE = (UnreadableEntry, DBAPIError, UnicodeError, MemoryError)
"""What is raised for a payload that the server or the driver cannot send, show or hold."""


class EventRunner:
    """Calls the handler of one listener in the transaction of a store; every runner uses it.

    Args:
        spec: The listener.
        dispatcher: Calls its handler.
        policy: Decides on failures.
        scoreboard: Where the supervisor sees which entry is in hand.
        grace: How much longer than its ``timeout=`` a handler may run before its process is killed.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        dispatcher: Dispatcher,
        policy: FailurePolicy,
        scoreboard: Scoreboard,
        *,
        grace: timedelta,
    ) -> None:
        self.spec = spec
        self.dispatcher = dispatcher
        self.policy = policy
        limit = None if spec.timeout is None else spec.timeout + grace
        self.take: Callable[[Sequence[int]], None] = partial(scoreboard.take, spec.name, limit=limit)
        """Show the supervisor what is in hand: should the process die of it, it dies of one of these entries."""
        self.put_down = scoreboard.put_down
        """Show that nothing is in hand."""

    @property
    def savepoints(self) -> bool:
        """Whether each event has a savepoint, so that it can be undone by itself."""
        return self.spec.batch is None and self.spec.effects != "database"

    def handle(self, store: Store, entry: Entry, decoded: Decoded) -> Handled:
        """Call the handler for one event; what it raises is what became of the event.

        Raises:
            TransactionEnded: An earlier event of the group ended the transaction.
        """
        began = perf_counter()
        try:
            self.hand_over(store, [entry], decoded)
        except BaseException as error:
            if self.dispatcher.colour.is_stop(error):
                raise
            if store.spoilt:
                raise TransactionEnded(ENDED) from error
            if store.lost or isinstance(error, TransactionEnded):
                # Where it ended the transaction, nothing is known of the state of the connection.
                store.close()
                return interrupted(store, entry, error)
            if not self.savepoints or not store.intact:
                return ThrownBack(error, perf_counter() - began)
            return self.failed(entry, error, perf_counter() - began)
        return acknowledged(entry, began)

    def failed(self, entry: Entry, error: BaseException, seconds: float | None = None) -> Outcome | Again:
        """Return what an error means that undid nothing but the event, whose handler ran for *seconds*."""
        if self.policy.uncounted(entry, error):
            return Again()
        outcome = self.policy.failed(entry, error)
        return outcome if seconds is None else replace(outcome, seconds=seconds)

    def decode_one(self, store: Store, entry: Entry) -> tuple[Entry, Decoded] | Outcome | Broken:
        """Read and decode one entry inside the open transaction, which goes on also where that fails.

        Raises:
            DBAPIError: A right is missing.
        """
        self.take([entry.id])
        try:
            return self.dispatcher.entries.decode_alone(store.claims.payloads, entry)
        except UNREADABLE as error:
            if isinstance(error, MemoryError) or is_stale(error):
                # It came in the midst of what the driver had to say, or would come again.
                store.close()
            if store.lost:
                return interrupted(store, entry, error)
            if is_denied(error):
                raise
            return self.policy.unreadable(entry, error)
        finally:
            self.put_down()

    def hand_over(self, store: Store, entries: Sequence[Entry], decoded: Decoded) -> Any:
        """Call the handler within its time, and return what it returned; what it raises comes out.

        A handler that ran out of its time may have been interrupted anywhere, also between the driver and the
        server, so its connection is closed. So it is where statements are older than the schema.
        """
        self.take([entries[0].id] if len(entries) == 1 else ids(entries))
        try:
            return self.in_time(store.connection, partial(self.dispatcher.handle, entries, decoded, store))
        except BaseException as error:
            if isinstance(error, HandlerTimeout) or is_stale(error):
                store.close()
            raise
        finally:
            self.put_down()

    def in_time(self, connection: Connection, handle: Callable[[], _T]) -> _T:
        """Call *handle*, which works on *connection*, and return what it returned.

        Raises:
            HandlerTimeout: It ran longer than the ``timeout=`` of the listener.
        """
        if self.spec.timeout is None:
            return handle()
        return self.dispatcher.colour.within(self.spec.name, self.spec.timeout, connection, handle)


def acknowledged(entry: Entry, began: float | None) -> Acknowledge:
    """Return the outcome of a call of the handler at *began*, None for all but the first event of a batch."""
    first = entry.occurred_at if entry.attempt == 0 else None
    seconds = None if began is None else perf_counter() - began
    return Acknowledge(id=entry.id, occurred_at=first, seconds=seconds)


def interrupted(store: Store, entry: Entry, error: BaseException) -> Broken:
    """Return what is left of a try whose connection is gone: it may be the event that broke it, or the server."""
    return Broken(Interrupted(entry=entry, error=error, life=store.life), error)
