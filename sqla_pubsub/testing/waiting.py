"""Time in the tests of retries: on the database's clock, which nobody can set, so what waits is moved instead."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection, Interval, MetaData, bindparam, func, select, update

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing.transaction import Caller, in_transaction, outboxes

if TYPE_CHECKING:
    from sqla_pubsub.testing.transaction import AwaitedCaller


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRetry:
    """An event that failed, and waits for its next try.

    Attributes:
        id: Its identity.
        listener: Whose it is.
        attempt: How many tries failed.
        due_in: How long it still waits; not positive when it is due.
        error: What the last one raised, with its traceback.
    """

    id: int
    listener: str
    attempt: int
    due_in: timedelta
    error: str


@overload
def retries(
    session: Caller, listener: str | None = ..., *, metadata: MetaData | None = ...
) -> list[WaitingRetry]: ...


@overload
def retries(
    session: AwaitedCaller, listener: str | None = ..., *, metadata: MetaData | None = ...
) -> Coroutine[Any, Any, list[WaitingRetry]]: ...


def retries(
    session: Caller | AwaitedCaller, listener: str | None = None, *, metadata: MetaData | None = None
) -> list[WaitingRetry] | Coroutine[Any, Any, list[WaitingRetry]]:
    """Return the events that wait for another try, in the order in which they will be due.

    `drain` draws no jitter: each delay is the whole one of the retry policy.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        listener: Name of the listener; None for all.
        metadata: Whose listeners; None for those that are declared.
    """

    def work(connection: Connection) -> list[WaitingRetry]:
        return sorted(
            (
                each
                for outbox in outboxes(connection, metadata)
                for each in _of(connection, outbox.place.entry, listener)
            ),
            key=lambda each: each.due_in,
        )

    return in_transaction(session, "retries", work, writes=False)


@overload
def advance(session: Caller, *, metadata: MetaData | None = ..., **duration: float) -> None: ...


@overload
def advance(
    session: AwaitedCaller, *, metadata: MetaData | None = ..., **duration: float
) -> Coroutine[Any, Any, None]: ...


def advance(
    session: Caller | AwaitedCaller, *, metadata: MetaData | None = None, **duration: float
) -> Coroutine[Any, Any, None] | None:
    """Let time pass for what waits: every retry is due so much earlier. `drain` handles those that are due then.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        metadata: Whose listeners; None for those that are declared.
        duration: As for `datetime.timedelta`, such as ``hours=1``.

    Raises:
        ConfigurationError: That is no duration, or a negative one.
    """
    try:
        by = timedelta(**duration)
    except TypeError as error:
        raise ConfigurationError(
            f"advance(): {error}. Give what timedelta takes, such as hours=1."
        ) from error
    if by <= timedelta(0):
        raise ConfigurationError(
            f"advance() by {by}: time only passes. Give what timedelta takes, such as hours=1."
        )

    def work(connection: Connection) -> None:
        for outbox in outboxes(connection, metadata):
            entry = outbox.place.entry
            waiting = update(entry).where(entry.c.due_at.is_not(None))
            connection.execute(
                waiting.values(due_at=entry.c.due_at - bindparam("by", type_=Interval)), {"by": by}
            )

    return in_transaction(session, "advance", work, writes=False)


def _of(connection: Connection, entry: Any, listener: str | None) -> list[WaitingRetry]:
    c = entry.c
    due_in = (c.due_at - func.clock_timestamp()).label("due_in")
    waiting = select(c.id, c.listener, c.attempt, due_in, c.last_error).where(c.due_at.is_not(None))
    if listener is not None:
        waiting = waiting.where(c.listener == listener)
    return [
        WaitingRetry(
            id=row.id,
            listener=row.listener,
            attempt=row.attempt,
            due_in=row.due_in,
            error=row.last_error or "",
        )
        for row in connection.execute(waiting)
    ]
