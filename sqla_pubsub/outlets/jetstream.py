"""Events into a stream of NATS JetStream.

By default each event has an id that the stream knows again for a while, its *duplicate window*. With ``strict=True``
each lane has a subject of its own, ``shop.comments.0`` and so on, whose last message says how far the lane has come: what
is there already is not sent again, however late, and a message is stored only if it follows the one that its sender knows
as the last. So a worker that was replaced without noticing can write nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import get_args

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Formats, Outlet, OutletSettings
from sqla_pubsub.outlets.jetstream_message import Target
from sqla_pubsub.outlets.jetstream_sender import JetStreamSender

# Without what NATS reads as more than a name: wildcards, and subjects of the server's own.
_SUBJECT = re.compile(r"(?!\$)[^\s.*>]+(\.[^\s.*>]+)*")


@dataclass(frozen=True)
class JetStream(Outlet):
    """A subject of NATS JetStream. Needs ``pip install 'sqla-pubsub[nats]'``; settings: ``[tool.sqla-pubsub.outlets.nats]``.

    Args:
        subject: Where events go, such as ``"shop.comments"``; with ``strict=True`` to ``shop.comments.LANE``, which a
            consumer reads as ``shop.comments.*``. A stream has to listen there.
        format: ``"structured"``, the event as one JSON text; ``"binary"``, the data with the rest in headers; ``"json"``,
            the data alone.
        strict: Whether an event stands in the stream once however long an outage was, not only within its duplicate window.

    .. versionadded:: 0.3.0
    """

    subject: str
    format: Formats = field(default="structured", kw_only=True)
    strict: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        Outlet.__post_init__(self)
        if type(self.subject) is not str or _SUBJECT.fullmatch(self.subject) is None:
            raise ConfigurationError(
                f"subject {self.subject!r} of JetStream is none. Give words with dots between them, such as 'shop.comments'."
            )
        if self.format not in get_args(Formats):
            raise ConfigurationError(
                f"format={self.format!r} of JetStream is unknown. Give one of {', '.join(get_args(Formats))}."
            )

    @property
    def engine(self) -> str:
        """The name of the settings."""
        return "nats"

    @property
    def contract(self) -> str:
        """What is promised."""
        if self.strict:
            return (
                "exactly once into the stream, in order per lane, as far as its acknowledgements are durable"
            )
        return (
            "in order per row, and exactly once into the stream while an outage is shorter than its duplicate window "
            "(2 minutes by default); after a longer one an event may stand there twice"
        )

    def sender(self, settings: OutletSettings, listener: str) -> JetStreamSender:
        """Return a sender for *listener*, not connected yet."""
        target = Target(self.subject, self.format, strict=self.strict, lanes=self.lanes, listener=listener)
        return JetStreamSender(target, settings)
