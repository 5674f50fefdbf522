"""`publish` and `set_context` in the transaction of an ``AsyncSession`` or ``AsyncConnection``."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from sqla_pubsub import context, message
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.message import Message

Caller = AsyncSession | async_scoped_session[Any] | AsyncConnection


async def publish(session: Caller, message_: Message, /) -> None:
    """Publish a message to all its listeners, when the transaction of *session* commits.

    Args:
        session: An AsyncSession, async_scoped_session or AsyncConnection; a transaction begins if none is open.
        message_: The message.

    Raises:
        ConfigurationError: As for `sqla_pubsub.publish`, or *session* is something else.
    """
    await _of(session, "publish", "message").run_sync(message.publish, message_)


async def set_context(session: Caller, /, **values: Any) -> None:
    """Give the events of this transaction a context, such as tenant, trace id or user.

    Args:
        session: An AsyncSession, async_scoped_session or AsyncConnection; a transaction begins if none is open.
        values: JSON values by name.

    Raises:
        ConfigurationError: As for `sqla_pubsub.set_context`, or *session* is something else.
    """
    shown = ", ".join(f"{name}=..." for name in values) or "tenant=..."
    await _of(session, "set_context", shown).run_sync(lambda own: context.set_context(own, **values))


def _of(given: object, function: str, arguments: str) -> AsyncSession | AsyncConnection:
    if isinstance(given, async_scoped_session):
        return _of(given(), function, arguments)
    if isinstance(given, AsyncSession | AsyncConnection):
        return given
    kind = type(given).__name__
    raise ConfigurationError(
        f"await {function}() got {kind!r}. Give the AsyncSession or AsyncConnection whose transaction it belongs to; "
        f"for a Session or Connection write: sqla_pubsub.{function}(session, {arguments})"
    )
