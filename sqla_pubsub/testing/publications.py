"""Asking what the transaction of a test has published, and saying why something was not."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import Connection

from sqla_pubsub.event import Event
from sqla_pubsub.testing.transaction import Caller, in_transaction
from sqla_pubsub.testing.wanted import Changed, Context, wanted_of

if TYPE_CHECKING:
    from sqla_pubsub.testing.transaction import AwaitedCaller

M = TypeVar("M")
Awaited = Coroutine[Any, Any, M]


@overload
def published(
    session: Caller,
    model: type[M],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> list[Event[M]]: ...


@overload
def published(
    session: AwaitedCaller,
    model: type[M],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> Awaited[list[Event[M]]]: ...


def published(
    session: Caller | AwaitedCaller,
    model: type[M],
    /,
    *,
    op: str | None = None,
    context: Context = None,
    changed: Changed = None,
    listener: str | None = None,
    **attributes: Any,
) -> list[Event[M]] | Awaited[list[Event[M]]]:
    """Return the events of *model* that this transaction has published, handled or not, in order.

    An event that several listeners get is there once.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        model: A model, or a `Message` class.
        op: ``"insert"``, ``"update"``, ``"delete"`` or ``"truncate"``; None for any.
        context: What the context of the event must have, among other things.
        changed: Attributes that must have changed, among others.
        listener: Name of the listener that gets it; None for any.
        attributes: Values that ``new`` (of a delete ``old``) must have, among others.

    Raises:
        ConfigurationError: The class does not publish, or has no such attribute.
    """
    wanted = wanted_of("published", model, op, context, changed, listener, attributes)

    def work(connection: Connection) -> list[Event[M]]:
        return [each.event for each in wanted.found(connection)]

    return in_transaction(session, "published", work, writes=False)


@overload
def assert_published(
    session: Caller,
    model: type[M],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> Event[M]: ...


@overload
def assert_published(
    session: AwaitedCaller,
    model: type[M],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> Awaited[Event[M]]: ...


def assert_published(
    session: Caller | AwaitedCaller,
    model: type[M],
    /,
    *,
    op: str | None = None,
    context: Context = None,
    changed: Changed = None,
    listener: str | None = None,
    **attributes: Any,
) -> Event[M] | Awaited[Event[M]]:
    """Assert that such an event was published, and return the first one; arguments as for `published`.

    Raises:
        AssertionError: None was; the message says what was published, and why this was not.
    """
    wanted = wanted_of("assert_published", model, op, context, changed, listener, attributes)

    def work(connection: Connection) -> Event[M]:
        found = wanted.found(connection)
        if not found:
            wanted.fail(connection, f"no {wanted} was published")
        return found[0].event

    return in_transaction(session, "assert_published", work, writes=False)


@overload
def assert_published_once(
    session: Caller,
    model: type[M],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> Event[M]: ...


@overload
def assert_published_once(
    session: AwaitedCaller,
    model: type[M],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> Awaited[Event[M]]: ...


def assert_published_once(
    session: Caller | AwaitedCaller,
    model: type[M],
    /,
    *,
    op: str | None = None,
    context: Context = None,
    changed: Changed = None,
    listener: str | None = None,
    **attributes: Any,
) -> Event[M] | Awaited[Event[M]]:
    """Assert that exactly one such event was published, and return it; arguments as for `published`.

    Raises:
        AssertionError: None was, or several were.
    """
    wanted = wanted_of("assert_published_once", model, op, context, changed, listener, attributes)

    def work(connection: Connection) -> Event[M]:
        found = wanted.found(connection)
        if len(found) != 1:
            number = f"{len(found)} times" if found else "never"
            wanted.fail(connection, f"{wanted} was published {number}, not once", found)
        return found[0].event

    return in_transaction(session, "assert_published_once", work, writes=False)


@overload
def assert_not_published(
    session: Caller,
    model: type[Any],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> None: ...


@overload
def assert_not_published(
    session: AwaitedCaller,
    model: type[Any],
    /,
    *,
    op: str | None = ...,
    context: Context = ...,
    changed: Changed = ...,
    listener: str | None = ...,
    **attributes: Any,
) -> Awaited[None]: ...


def assert_not_published(
    session: Caller | AwaitedCaller,
    model: type[Any],
    /,
    *,
    op: str | None = None,
    context: Context = None,
    changed: Changed = None,
    listener: str | None = None,
    **attributes: Any,
) -> Awaited[None] | None:
    """Assert that no such event was published; arguments as for `published`.

    Raises:
        AssertionError: One was.
    """
    wanted = wanted_of("assert_not_published", model, op, context, changed, listener, attributes)

    def work(connection: Connection) -> None:
        if found := wanted.found(connection):
            wanted.fail(connection, f"{wanted} was published", found)

    return in_transaction(session, "assert_not_published", work, writes=False)
