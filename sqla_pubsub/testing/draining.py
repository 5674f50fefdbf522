"""Handling what the transaction of a test has published, inside of that transaction."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection, MetaData

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.event import Event
from sqla_pubsub.testing.colours import Application
from sqla_pubsub.testing.one_drain import (
    Drained,
    Listeners,
    OneDrain,
    failing_commits,
    named,
    order,
)
from sqla_pubsub.testing.one_drain import check_constraints as check
from sqla_pubsub.testing.transaction import Caller, in_transaction, outboxes

if TYPE_CHECKING:
    from sqla_pubsub.testing.transaction import AwaitedCaller

MAX_DEPTH = 20
"""Handlers that may have written, one after the other, what caused an event."""


@overload
def drain(
    session: Caller,
    *,
    listeners: Listeners = ...,
    raises: bool = ...,
    check_constraints: bool = ...,
    max_depth: int = ...,
    session_class: Any = ...,
    around: Any = ...,
    metadata: MetaData | None = ...,
) -> Drained: ...


@overload
def drain(
    session: AwaitedCaller,
    *,
    listeners: Listeners = ...,
    raises: bool = ...,
    check_constraints: bool = ...,
    max_depth: int = ...,
    session_class: Any = ...,
    around: Any = ...,
    metadata: MetaData | None = ...,
) -> Coroutine[Any, Any, Drained]: ...


def drain(
    session: Caller | AwaitedCaller,
    *,
    listeners: Listeners = None,
    raises: bool = True,
    check_constraints: bool = False,
    max_depth: int = MAX_DEPTH,
    session_class: Any = None,
    around: Any = None,
    metadata: MetaData | None = None,
) -> Drained | Coroutine[Any, Any, Drained]:
    """Handle what is due, inside the transaction of *session*: also what it has published and not committed.

    Each event is handled in a savepoint; the session of its handler is on the same connection. What handlers
    publish is handled too. Afterwards the objects of *session* show what handlers have written.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        listeners: Names or handlers of the listeners to run; None runs all.
        raises: Whether to end with the first error of a handler and raise it, when it is written down. Else errors
            are in what is returned.
        check_constraints: Whether deferred constraints are checked with each event, as a commit would.
        max_depth: Handlers that may have written, one after the other, what caused an event.
        session_class: The class of the sessions that handlers get, as that of `Listener` or `AsyncListener`.
        around: Contexts about each call of a handler, as there. What is not given stands in the project's settings.
        metadata: Whose listeners; None for those that are declared.

    Raises:
        EndlessLoop: Handlers go on calling each other; the message names them.
        ConfigurationError: The session is of the wrong kind for a handler, or nothing is declared or installed.
    """
    application = Application(session_class=session_class, around=around)

    def work(connection: Connection) -> Drained:
        check(connection, wanted=check_constraints)
        total = Drained()
        declared = outboxes(connection, metadata)
        while True:
            drained = [
                OneDrain(
                    connection,
                    each,
                    named(listeners, each.registry),
                    max_depth,
                    application=application,
                    checked=check_constraints,
                )
                for each in declared
            ]
            before = total
            for each in drained:
                total += each.drain(raises=raises)
            if len(declared) == 1 or total == before:
                return total

    return in_transaction(session, "drain", work, writes=True)


@overload
def deliver_twice(
    session: Caller,
    event: Event[Any],
    *,
    session_class: Any = ...,
    around: Any = ...,
    metadata: MetaData | None = ...,
) -> Drained: ...


@overload
def deliver_twice(
    session: AwaitedCaller,
    event: Event[Any],
    *,
    session_class: Any = ...,
    around: Any = ...,
    metadata: MetaData | None = ...,
) -> Coroutine[Any, Any, Drained]: ...


def deliver_twice(
    session: Caller | AwaitedCaller,
    event: Event[Any],
    *,
    session_class: Any = None,
    around: Any = None,
    metadata: MetaData | None = None,
) -> Drained | Coroutine[Any, Any, Drained]:
    """Handle one event twice, as after a crash that came between the handler and the commit.

    What the handler did in the database is undone in between, what it did outside is not. So this shows
    whether ``event.id`` serves as the idempotency key of a mail or a payment.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        event: One that `published` returned, and that is not handled yet.
        session_class: As for `drain`.
        around: As for `drain`.
        metadata: Whose listener; None for those that are declared.

    Raises:
        ConfigurationError: The event is handled already, or its listener is not declared.
    """
    application = Application(session_class=session_class, around=around)

    def work(connection: Connection) -> Drained:
        for each in outboxes(connection, metadata):
            if event.listener in each.registry.listeners:
                specs = [each.registry.listeners[event.listener]]
                return OneDrain(connection, each, specs, MAX_DEPTH, application=application).twice(event)
        raise ConfigurationError(f"listener {event.listener!r} of event {event.id} is not declared.")

    return in_transaction(session, "deliver_twice", work, writes=True)


@contextmanager
def fail_commit(times: int = 1) -> Iterator[None]:
    """Let the next commits fail that handlers in the block are acknowledged by: their events are handled again.

    Args:
        times: How many of them.
    """
    token = failing_commits.set([times])
    try:
        yield
    finally:
        failing_commits.reset(token)


@contextmanager
def in_any_order(seed: int) -> Iterator[None]:
    """Handle the events of the block one by one, in an order that depends on *seed*; ``ordered=True`` keeps its own.

    Without ``ordered=True`` nothing is promised about order, and workers on several hosts show it.
    """
    token = order.set(random.Random(seed))
    try:
        yield
    finally:
        order.reset(token)
