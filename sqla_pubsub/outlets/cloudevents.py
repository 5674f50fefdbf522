"""Events as CloudEvents 1.0, the form that most engines and their tools read.

Structured: all in one JSON text. Binary: the data alone, and what belongs to it in headers, which each protocol names with
a prefix of its own. HTTP and NATS (``ce-``) have headers of printable ASCII, with the rest in per cent; Kafka (``ce_``) and
AMQP (``cloudEvents_``) have texts.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, and the bindings and extensions beside it
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from sqla_pubsub.contract.names import MESSAGE
from sqla_pubsub.outlet import Formats, Outgoing

JSON_TYPE = "application/json"
STRUCTURED_TYPE = "application/cloudevents+json; charset=UTF-8"
_PAST = {"INSERT": "inserted", "UPDATE": "updated", "DELETE": "deleted", "TRUNCATE": "truncated"}
_TRACE = ("traceparent", "tracestate")
_ASCII_HEADERS = "ce-"
_NO_CHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NO_CHARACTERS}]")
"""What no attribute may have: control characters and what is no character at all."""
# All that can be seen in ASCII, without the double quote and the per cent.
_AS_IT_IS = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_PLAIN = re.compile("[!#$&-~]*")

_json = msgspec.json.Encoder().encode


def encode(message: Outgoing, form: Formats, prefix: str) -> tuple[dict[str, str], bytes]:
    """Return headers and body of *message*; ``content-type`` is among the headers.

    Args:
        message: The event.
        form: How it is written.
        prefix: What stands before the names of attributes in headers: that of the protocol.
    """
    if form == "structured":
        return {"content-type": STRUCTURED_TYPE}, structured(message)
    if form == "binary":
        written = _in_ascii if prefix == _ASCII_HEADERS else str
        headers = {prefix + name: written(value) for name, value in attributes(message).items()}
        headers["content-type"] = message.content_type
        return headers, message.data
    return {"content-type": message.content_type}, message.data


def attributes(message: Outgoing) -> dict[str, str]:
    """Return the attributes of a CloudEvent, without its data and the type of that."""
    found = {
        "specversion": "1.0",
        "id": str(message.id),
        "source": _source(message.database, message.source),
        "type": _type(message.source, message.operation),
        "time": f"{message.occurred_at.astimezone(UTC).isoformat()[:-6]}Z",
        # A text that sorts as the numbers do.
        "sequence": f"{message.number:019d}",
    }
    if message.key is not None:
        found["subject"] = found["partitionkey"] = _key(message.key)
    if message.context is not None and "traceparent" in message.context:
        found |= _trace(message.context)
    return found


def structured(message: Outgoing) -> bytes:
    """Return the event as one JSON text; JSON data stands in it as it was written."""
    found = attributes(message)
    found["datacontenttype"] = message.content_type
    head = _json(found)[:-1]
    if not message.data:
        return head + b"}"
    if message.content_type == JSON_TYPE:
        return b'%b,"data":%b}' % (head, message.data)
    return b'%b,"data_base64":"%b"}' % (head, b64encode(message.data))


@lru_cache
def _source(database: str, source: str) -> str:
    return f"/{quote(database, safe='')}/{quote(source, safe='.')}"


@lru_cache
def _type(source: str, operation: str) -> str:
    if operation != MESSAGE:
        source = f"{source.rpartition('.')[2]}.{_PAST[operation]}"
    return _FORBIDDEN.sub(lambda found: quote(found[0]), source)


def _key(key: str) -> str:
    """Return the JSON text of a key without what an attribute may not have: JSON can write that in another way, too."""
    if key.isascii() and key.isprintable():
        return key
    return _FORBIDDEN.sub(lambda found: _escaped(found[0]), key)


def _escaped(character: str) -> str:
    """Return a character as JSON may write it."""
    return re.sub("....", r"\\u\g<0>", character.encode("utf-16-be").hex())


def _trace(context: str) -> dict[str, str]:
    said: Any = msgspec.json.decode(context)
    found = {}
    for name in _TRACE:
        value = said.get(name) if isinstance(said, dict) else None
        # Without the first, the second means nothing; and what belongs into a header is ASCII.
        if not isinstance(value, str) or not value or not (value.isascii() and value.isprintable()):
            break
        found[name] = value
    return found


def _in_ascii(value: str) -> str:
    """Return a value as it may stand in a header: what is not printable ASCII is UTF-8 in per cent."""
    return value if _PLAIN.fullmatch(value) else quote(value, safe=_AS_IT_IS)
