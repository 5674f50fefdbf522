"""Names that PostgreSQL accepts and leaves unchanged.

PostgreSQL cuts identifiers to 63 bytes with only a notice, and two long names that differ at the
end would become one. So names are bounded here, in bytes, with a hash of the whole name.

Source: https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
"""

from __future__ import annotations

import hashlib
import logging
from typing import Literal

Operation = Literal["INSERT", "UPDATE", "DELETE", "TRUNCATE"]
OPERATIONS: tuple[Operation, ...] = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
MESSAGE = "MESSAGE"
"""The operation of entries that `publish` wrote: it comes from no trigger."""
BACKFILL = "BACKFILL"
"""The operation of rows in the outbox that are no entries: what an open backfill remembers there."""

MAX_BYTES = 63
DEFAULT_PREFIX = "pubsub_"
CHANNEL_PREFIX = "sqla_pubsub_"
"""Of the notification channel; 16 hexadecimal digits of the outbox's lock key follow."""

CONTEXT_SETTING = "sqla_pubsub.context"
NOTIFY_SETTING = "sqla_pubsub.notify"
MESSAGE_OPTION = "sqla_pubsub_message"
"""Execution option of the statement that publishes: the name of the message, for who listens to events of SQLAlchemy."""

logger = logging.getLogger(__name__)


def bounded(name: str) -> str:
    """Return *name*, or its head and a hash of the whole where it exceeds 63 bytes.

    >>> bounded("pubsub_comment_insert")
    'pubsub_comment_insert'
    >>> len(bounded("é" * 60).encode())
    62
    """
    encoded = name.encode()
    if len(encoded) <= MAX_BYTES:
        return name
    head = encoded[: MAX_BYTES - 9].decode(errors="ignore")
    short = f"{head}_{_digest(name)}"
    logger.warning(
        "name.shortened: %r has %d bytes, PostgreSQL keeps %d; it is called %r instead",
        name, len(encoded), MAX_BYTES, short,
        extra={"found": name, "used": short},
    )  # fmt: skip
    return short


def capture_function(prefix: str, schema: str | None, table: str, operation: Operation) -> str:
    """Name the function that captures *operation* on one table.

    All functions of a prefix live in one schema, so the table's own schema takes part.

    >>> capture_function("pubsub_", None, "comment", "INSERT")
    'pubsub_comment_insert'
    """
    plain = f"{prefix}{table}_{operation.lower()}"
    if schema is None:
        return bounded(plain)
    return bounded(f"{prefix}{schema}_{table}_{operation.lower()}_{_digest(repr((schema, table)))}")


def capture_trigger(prefix: str, operation: Operation) -> str:
    """Name the trigger of *operation*: once per table, so the table takes no part."""
    return bounded(f"{prefix}{operation.lower()}")


def outbox_table(prefix: str) -> str:
    """Name the outbox: its entries are what all captures of a prefix write."""
    return bounded(f"{prefix}outbox")


def backfill_function(prefix: str, listener: str, table: str) -> str:
    """Name what marks new rows while a backfill is open, the function as well as its trigger."""
    return bounded(f"{prefix}backfill_{_digest(repr((listener, table)))}")


def publish_function(prefix: str) -> str:
    """Name the function that publishes messages: once per outbox."""
    return bounded(f"{prefix}publish")


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
