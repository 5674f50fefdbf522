"""Outlets: where events go that leave the database, each a value for ``to=``.

Each name is imported when it is first asked for, and the client library of its engine when a sender is made.

.. versionadded:: 0.3.0
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqla_pubsub.outlets.celery import CeleryTask
    from sqla_pubsub.outlets.jetstream import JetStream
    from sqla_pubsub.outlets.kafka import Kafka
    from sqla_pubsub.outlets.rabbit_queue import RabbitQueue
    from sqla_pubsub.outlets.rabbit_stream import RabbitStream
    from sqla_pubsub.outlets.redis import RedisStream
    from sqla_pubsub.outlets.webhook import Webhook

__all__ = [
    "CeleryTask",
    "JetStream",
    "Kafka",
    "RabbitQueue",
    "RabbitStream",
    "RedisStream",
    "Webhook",
]

_PLACE = {
    "CeleryTask": "sqla_pubsub.outlets.celery",
    "JetStream": "sqla_pubsub.outlets.jetstream",
    "Kafka": "sqla_pubsub.outlets.kafka",
    "RabbitQueue": "sqla_pubsub.outlets.rabbit_queue",
    "RabbitStream": "sqla_pubsub.outlets.rabbit_stream",
    "RedisStream": "sqla_pubsub.outlets.redis",
    "Webhook": "sqla_pubsub.outlets.webhook",
}

if not TYPE_CHECKING:  # Else any name would do.

    def __getattr__(name: str) -> Any:
        if name not in _PLACE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_PLACE[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
