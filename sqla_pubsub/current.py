"""Which event is being handled, for code that is not handed it: a logging filter, tracing."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, cast

NO_CONTEXT: Mapping[str, Any] = MappingProxyType({})


class CurrentEvent(NamedTuple):
    """What a handler is called for.

    .. versionadded:: 0.2.0

    Attributes:
        listener: Durable name of the listener.
        id: Identity of the delivery, as `Event.id`; of a batch, that of its first event.
        attempt: This try, counted from 1; of a batch, that of its first event.
        operation: INSERT, UPDATE, DELETE, TRUNCATE or MESSAGE.
        source: Full name of the table, or the name of the message.
        ids: The identities of all events that are handled in this call.
        context: What `set_context` left in the transaction that wrote the event; of a batch, that of its first event.
        contexts: The different contexts of all events that are handled in this call, without empty ones.
        occurred_at: When the first event happened, on the database's clock.
        passed_on: Context of all that the handler writes through its session, empty at first: a function of ``around=``
            adds to it, ``event.passed_on["tenant"] = event.context["tenant"]``. JSON values, as for `set_context`.
    """

    listener: str
    id: int
    attempt: int
    operation: str
    source: str
    ids: tuple[int, ...]
    context: Mapping[str, Any] = NO_CONTEXT
    contexts: tuple[Mapping[str, Any], ...] = ()
    occurred_at: datetime | None = None
    passed_on: MutableMapping[str, Any] = cast("MutableMapping[str, Any]", NO_CONTEXT)


current_event: ContextVar[CurrentEvent | None] = ContextVar("sqla_pubsub.current_event", default=None)
"""Set while a handler runs and until what it left is written, ``def`` or ``async def``, in its thread or task; else None."""


def facts() -> dict[str, Any]:
    """Return what a line of a log says of the event in hand, nothing where there is none; named as in our own lines."""
    event = current_event.get()
    if event is None:
        return {}
    return {"listener": event.listener, "entry": event.id, "attempt": event.attempt}
