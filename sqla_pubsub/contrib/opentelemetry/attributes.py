"""Names of attributes and operations, as one version of the semantic conventions has them.

The conventions of messaging are in development, so the version is pinned, and told with each span.

Source: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue
from sqlalchemy import URL

from sqla_pubsub import __version__

SCHEMA_URL = "https://opentelemetry.io/schemas/1.38.0"

MESSAGE_ID = "messaging.message.id"
MESSAGE_COUNT = "messaging.batch.message_count"
CONSUMER_GROUP = "messaging.consumer.group.name"
ERROR_TYPE = "error.type"

SOURCE = "messaging.sqla_pubsub.source"
OPERATION = "messaging.sqla_pubsub.operation"
ATTEMPT = "messaging.sqla_pubsub.attempt"
OUTCOME = "messaging.sqla_pubsub.outcome"
LATENCY = "messaging.sqla_pubsub.latency"

MOST_LINKS = 128
"""What the SDK keeps of one span by default."""

DEFAULT_PORT = 5432

Attributes = dict[str, AttributeValue]


def tracer(provider: trace.TracerProvider | None) -> trace.Tracer:
    """Return ours; without *provider* that of the application's global one, whenever that is set."""
    return trace.get_tracer("sqla_pubsub", __version__, provider, SCHEMA_URL)


def of_operation(name: str, destination: str) -> Attributes:
    """Return what every span of ours has.

    Args:
        name: The operation: send, process or settle.
        destination: The listener, or the message that is sent.
    """
    return {
        "messaging.system": "sqla_pubsub",
        "messaging.operation.name": name,
        "messaging.operation.type": name,
        "messaging.destination.name": destination,
    }


def of_server(url: URL) -> Attributes:
    """Return where the database is, as far as the URL says it; of several hosts it may be any."""
    if url.host:
        return {"server.address": url.host, "server.port": url.port or DEFAULT_PORT}
    found = url.query.get("host")
    if not isinstance(found, str):
        return {}
    if found.startswith("/"):
        return {"server.address": found}
    host, _, port = found.partition(":")
    return {"server.address": host, "server.port": int(port) if port.isdigit() else DEFAULT_PORT}


def type_of(error: BaseException) -> str:
    """Return the full name of an error's class.

    >>> type_of(ValueError())
    'ValueError'
    """
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
