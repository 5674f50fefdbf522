"""Row changes in PostgreSQL become typed Python events, exactly once per listener.

Each name is imported when it is first asked for: a process that only declares and publishes loads nothing of the
listening side, and pytest, which loads the plugin below in every project, nothing at all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from sqla_pubsub.declare.relaying import relay
    from sqla_pubsub.deliver.config import ListenerConfig
    from sqla_pubsub.deliver.listener import Listener
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
    from sqla_pubsub.operate.admin import Admin
    from sqla_pubsub.registry import Publish, configure, outbox
    from sqla_pubsub.retry import RetryPolicy

__version__ = "0.2.0"

__all__ = [
    "Admin",
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
    "relay",
    "set_context",
]

_PLACES = {
    "sqla_pubsub.context": ("set_context",),
    "sqla_pubsub.contract.tables": (
        "DeadLetter",
        "OutboxEntry",
    ),
    "sqla_pubsub.current": (
        "CurrentEvent",
        "current_event",
    ),
    "sqla_pubsub.declare.decorators": (
        "after_delete",
        "after_insert",
        "after_truncate",
        "after_update",
        "on_message",
    ),
    "sqla_pubsub.declare.install": ("check",),
    "sqla_pubsub.declare.mixin": ("PubSub",),
    "sqla_pubsub.declare.relaying": ("relay",),
    "sqla_pubsub.deliver.config": ("ListenerConfig",),
    "sqla_pubsub.deliver.listener": ("Listener",),
    "sqla_pubsub.errors": (
        "ConfigurationError",
        "DeliveryError",
        "HandlerTimeout",
        "PubSubError",
        "Reject",
        "RetryLater",
    ),
    "sqla_pubsub.event": (
        "Delete",
        "Event",
        "Insert",
        "MessageEvent",
        "Truncate",
        "Update",
    ),
    "sqla_pubsub.message": (
        "Message",
        "publish",
    ),
    "sqla_pubsub.operate.admin": ("Admin",),
    "sqla_pubsub.registry": (
        "Publish",
        "configure",
        "outbox",
    ),
    "sqla_pubsub.retry": ("RetryPolicy",),
}
_PLACE = {name: place for place, names in _PLACES.items() for name in names}

if not TYPE_CHECKING:  # Else any name would do.

    def __getattr__(name: str) -> Any:
        if name not in _PLACE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Whatever is declared, create_all is to carry its captures: this module attaches them to each metadata.
        import_module("sqla_pubsub.declare.install")
        found = globals()[name] = getattr(import_module(_PLACE[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
