"""Which event is being handled, for code that is not handed it: a logging filter, tracing."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

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
    """

    listener: str
    id: int
    attempt: int
    operation: str
    source: str
    ids: tuple[int, ...]
    context: Mapping[str, Any] = NO_CONTEXT


current_event: ContextVar[CurrentEvent | None] = ContextVar("sqla_pubsub.current_event", default=None)
"""Set while a handler runs and until what it left is written, ``def`` or ``async def``, in its thread or task; else None."""
