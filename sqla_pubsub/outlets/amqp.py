"""Events as RabbitMQ takes them: CloudEvents in the binding to AMQP, and the bytes of AMQP 1.0 that a stream keeps.

Attributes stand in application properties as they are, in UTF-8: AMQP needs no other encoding. The bytes are written
here because the encoder of the client library is for all that AMQP has, and takes longer than all the rest.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md,
https://docs.oasis-open.org/amqp/core/v1.0/os/amqp-core-messaging-v1.0-os.html
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sqla_pubsub.outlet import Formats, Outgoing
from sqla_pubsub.outlets.cloudevents import encode

PREFIX = "cloudEvents_"

_PROPERTIES, _APPLICATION_PROPERTIES, _DATA = b"\x00\x53\x73", b"\x00\x53\x74", b"\x00\x53\x75"
_NULL = b"\x40"
# Of each type that we use: what stands before a length of one byte, and before one of four.
_STRING, _SYMBOL, _BINARY = (0xA1, 0xB1), (0xA3, 0xB3), (0xA0, 0xB0)
_LIST, _MAP = (0xC0, 0xD0), (0xC1, 0xD1)


def parts(message: Outgoing, form: Formats) -> tuple[str, dict[str, str], bytes]:
    """Return the content type, the application properties and the body of *message*."""
    headers, body = encode(message, form, PREFIX)
    content_type = headers.pop("content-type")
    return content_type, headers, body


def stream_bytes(message: Outgoing, form: Formats) -> bytes:
    """Return *message* as a stream keeps it: one message of AMQP 1.0, whose id is that of the event."""
    content_type, properties, body = parts(message, form)
    fields = (
        _sized(_STRING, str(message.id).encode()),
        # user-id, to, subject, reply-to and correlation-id.
        *[_NULL] * 5,
        _sized(_SYMBOL, content_type.encode()),
    )
    head = _PROPERTIES + _compound(_LIST, fields)
    if properties:
        head += _APPLICATION_PROPERTIES + _map(properties)
    return head + _DATA + _sized(_BINARY, body)


def _map(properties: Mapping[str, str]) -> bytes:
    return _compound(_MAP, [_sized(_STRING, text.encode()) for pair in properties.items() for text in pair])


def _sized(codes: tuple[int, int], value: bytes) -> bytes:
    if len(value) < 256:
        return bytes((codes[0], len(value))) + value
    return struct.pack(">BI", codes[1], len(value)) + value


def _compound(codes: tuple[int, int], items: tuple[bytes, ...] | list[bytes]) -> bytes:
    """Return items with their number, whose own bytes count as theirs."""
    body = b"".join(items)
    if len(body) < 255 and len(items) < 256:
        return bytes((codes[0], len(body) + 1, len(items))) + body
    return struct.pack(">BII", codes[1], len(body) + 4, len(items)) + body
