"""An entry on its way out: what is sent of it."""

from __future__ import annotations

from typing import Any

import msgspec

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.contract.names import MESSAGE
from sqla_pubsub.errors import NotSendable
from sqla_pubsub.outlet import Outgoing

BYTES = "application/octet-stream"
JSON = "application/json"


class Body(msgspec.Struct, frozen=True):
    """What is sent, and its content type."""

    data: bytes
    content_type: str = JSON


NOTHING = Body(b"")
"""Of a message that is asked about, and not sent."""


def row_of(entry: Entry) -> Body:
    """Return a row as it was stored, ``{"old": {...}, "new": {...}}`` with null for what there is not; a message itself."""
    if entry.operation == MESSAGE:
        return Body((entry.new or "null").encode())
    return Body(f'{{"old":{entry.old or "null"},"new":{entry.new or "null"}}}'.encode())


def encoded(value: Any, listener: str) -> Body:
    """Return what a handler returned as bytes.

    Raises:
        NotSendable: There is no JSON of it.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return Body(bytes(value), BYTES)
    try:
        return Body(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise NotSendable(
            f"the function of listener {listener!r} returned {type(value).__name__}, of which there is no JSON: {error}. "
            "Return dicts, lists, texts, numbers, dates, UUIDs, dataclasses of these, or bytes."
        ) from error


def outgoing(entry: Entry, key: str | None, lane: int, number: int, body: Body, database: str) -> Outgoing:
    """Return an event at its place in a lane."""
    return Outgoing(
        id=entry.id, lane=lane, number=number, key=key, operation=entry.operation, source=entry.source,
        occurred_at=entry.occurred_at, data=body.data, content_type=body.content_type, context=entry.context,
        database=database, attempt=entry.attempt,
    )  # fmt: skip
