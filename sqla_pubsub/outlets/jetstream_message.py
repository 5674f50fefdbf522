"""An event as a message of NATS: its subject, its headers, and how many bytes that makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from sqla_pubsub.outlet import Formats, Outgoing
from sqla_pubsub.outlets.cloudevents import encode

ID = "Nats-Msg-Id"
STRICT_ID = "Sqla-Pubsub-Id"
NUMBER = "Sqla-Pubsub-Number"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_MAX_HEADERS = 65_535
_ROOM = 512
"""Bytes for what is not counted one by one."""


class Message(NamedTuple):
    """What is published: the bytes, and where to."""

    subject: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Last:
    """The last message of a lane's subject: its place in the stream, which event it is, and the place of the one before."""

    seq: int = 0
    number: int = 0
    id: str = ""
    before: int = 0

    @classmethod
    def read(cls, seq: int, headers: Mapping[str, str]) -> Last:
        """Return what the headers of a message say; number 0 if it is none of ours."""
        number, before = headers.get(NUMBER, ""), headers.get(_EXPECTED, "")
        return cls(
            seq,
            int(number) if number.isdecimal() else 0,
            headers.get(STRICT_ID, ""),
            int(before) if before.isdecimal() else 0,
        )

    @property
    def origin(self) -> str:
        """Which database and which listener it is from."""
        return self.id.rsplit("/", 2)[0]


@dataclass(frozen=True, slots=True)
class Target:
    """What an outlet says of where the events of a listener go, and how."""

    subject: str
    format: Formats
    strict: bool = field(kw_only=True)
    lanes: int = field(kw_only=True)
    listener: str = field(kw_only=True)

    def subject_of(self, lane: int) -> str:
        """Return the subject of a lane."""
        return f"{self.subject}.{lane}" if self.strict else self.subject

    def subjects(self) -> Sequence[str]:
        """Return the first and the last subject."""
        return list(dict.fromkeys([self.subject_of(0), self.subject_of(self.lanes - 1)]))

    def id(self, message: Outgoing) -> str:
        """Return what no other event in the stream has, not of another listener, nor of another database of that name.

        The stream would drop the second one, and confirm it.
        """
        occurred = int(message.occurred_at.timestamp() * 1_000_000)
        return f"{_origin(message.database, self.listener)}/{message.id}/{occurred}"

    def origin(self, message: Outgoing) -> str:
        """Return which database and which listener it is from."""
        return _origin(message.database, self.listener)

    def message(self, message: Outgoing, last: Last | None = None) -> Message:
        """Return what is published; where strict, so that it is stored only after *last*."""
        headers, body = encode(message, self.format, "ce-")
        if self.format == "binary":
            headers["ce-datacontenttype"] = message.content_type
        if not self.strict:
            headers[ID] = self.id(message)
        else:
            headers[STRICT_ID] = self.id(message)
            headers[NUMBER] = str(message.number)
            headers[_EXPECTED] = str(last.seq if last is not None else 0)
        return Message(self.subject_of(message.lane), headers, body)

    def too_large(self, message: Outgoing, limit: int) -> str | None:
        """Return why *message* has more bytes than NATS takes, or None.

        Args:
            message: The event.
            limit: How many bytes headers and body may have together.
        """
        texts = len(message.key or "") + len(message.source) + len(message.database)
        # At most: data in base64; each character of a text four bytes, each of these three in a header, the key in two.
        if 2 * len(message.data) + 24 * texts + 2 * _ROOM < min(limit, _MAX_HEADERS):
            return None
        ready = self.message(message)
        heads = _ROOM + sum(len(name) + len(value.encode()) + 4 for name, value in ready.headers.items())
        if heads + len(ready.body) > limit:
            return (
                f"it has {heads + len(ready.body)} bytes with its headers, and NATS takes {limit} "
                "(max_payload of the server, max_msg_size of the stream)"
            )
        if heads > _MAX_HEADERS:
            return f"its headers have {heads} bytes, and NATS takes {_MAX_HEADERS}. Give format='structured'"
        return None


@lru_cache
def _origin(database: str, listener: str) -> str:
    return f"{quote(database, safe='')}/{quote(listener, safe='')}"
