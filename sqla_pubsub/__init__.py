"""Row changes in PostgreSQL become typed Python events, exactly once per listener.

The listening side is imported when it is first named, so a process that only declares and publishes
loads none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqla_pubsub.context import set_context
from sqla_pubsub.contract.tables import DeadLetter, OutboxEntry
from sqla_pubsub.current import CurrentEvent, current_event
from sqla_pubsub.declare.decorators import (
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    on_message,
)
from sqla_pubsub.declare.install import check
from sqla_pubsub.declare.mixin import PubSub
from sqla_pubsub.errors import (
    ConfigurationError,
    DeliveryError,
    HandlerTimeout,
    PubSubError,
    Reject,
    RetryLater,
)
from sqla_pubsub.event import Delete, Event, Insert, MessageEvent, Truncate, Update
from sqla_pubsub.message import Message, publish
from sqla_pubsub.registry import Publish, configure, outbox
from sqla_pubsub.retry import RetryPolicy

if TYPE_CHECKING:
    from sqla_pubsub.deliver.config import ListenerConfig
    from sqla_pubsub.deliver.listener import Listener

__version__ = "0.2.0"

__all__ = [
    "ConfigurationError",
    "CurrentEvent",
    "DeadLetter",
    "Delete",
    "DeliveryError",
    "Event",
    "HandlerTimeout",
    "Insert",
    "Listener",
    "ListenerConfig",
    "Message",
    "MessageEvent",
    "OutboxEntry",
    "PubSub",
    "PubSubError",
    "Publish",
    "Reject",
    "RetryLater",
    "RetryPolicy",
    "Truncate",
    "Update",
    "after_delete",
    "after_insert",
    "after_truncate",
    "after_update",
    "check",
    "configure",
    "current_event",
    "on_message",
    "outbox",
    "publish",
    "set_context",
]

_LATER = {"Listener": "sqla_pubsub.deliver.listener", "ListenerConfig": "sqla_pubsub.deliver.config"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
