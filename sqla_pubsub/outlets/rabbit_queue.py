"""Events into queues of RabbitMQ by AMQP 0.9.1: at least once, and in order per row for who drops what has come before.

A queue knows no numbers, so what is sent again after an unknown fate may be there twice, each time with the id of its
event. One channel is published to, and of one row one event is on its way at a time: a queue may reject one and take
the next.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Confirmed,
    Fate,
    Formats,
    Outgoing,
    Outlet,
    OutletSettings,
    OutletUnavailable,
    Refused,
    Sender,
    Unsettled,
)
from sqla_pubsub.outlets.amqp import parts
from sqla_pubsub.outlets.optional import imported
from sqla_pubsub.outlets.rabbit_address import Address, amqp_address
from sqla_pubsub.outlets.rabbit_queue_link import (
    ACCESS_REFUSED,
    NOT_FOUND,
    Answer,
    ChannelClosedError,
    Letter,
    QueueLink,
)
from sqla_pubsub.outlets.rabbit_sender import RabbitSender

_MEBIBYTE = 1024 * 1024
_LARGEST = 128 * _MEBIBYTE
_LARGEST_SINCE_4 = 16 * _MEBIBYTE
_TOO_LARGE = re.compile(r"max size (\d+)")
_MOST_AT_ONCE = 8 * _MEBIBYTE
_ROOM_IN_FRAME = 1024
_PAUSE_AFTER_NACK = timedelta(seconds=1)


@dataclass(frozen=True)
class RabbitQueue(Outlet):
    """A queue of RabbitMQ, or an exchange with a routing key; it must exist.

    Needs ``pip install 'sqla-pubsub[rabbitmq]'``.

    Args:
        queue: Name of the queue; None with *exchange*.
        exchange: Name of the exchange, which passes events on to the queues that are bound to it.
        routing_key: What the exchange is told besides.
        format: How an event is written.

    .. versionadded:: 0.3.0
    """

    queue: str | None = None
    exchange: str | None = field(default=None, kw_only=True)
    routing_key: str = field(default="", kw_only=True)
    format: Formats = "structured"

    def __post_init__(self) -> None:
        Outlet.__post_init__(self)
        if bool(self.queue) == bool(self.exchange):
            raise ConfigurationError(
                "RabbitQueue needs either the name of a queue, such as RabbitQueue('shop.comments'), or an exchange, such "
                "as RabbitQueue(exchange='shop', routing_key='comments')."
            )
        if self.queue and self.routing_key:
            raise ConfigurationError(
                f"RabbitQueue({self.queue!r}) has also routing_key={self.routing_key!r}, which belongs to an exchange. "
                "Leave one of them out."
            )
        for name in (self.queue, self.exchange, self.routing_key):
            if name and len(name.encode()) > 255:
                raise ConfigurationError(f"{name[:40]!r}... of RabbitQueue is longer than 255 bytes.")
        if self.format not in ("structured", "binary", "json"):
            raise ConfigurationError(
                f"format={self.format!r} of RabbitQueue is unknown. Give 'structured', 'binary' or 'json'."
            )

    @property
    def engine(self) -> str:
        """``rabbitmq``."""
        return "rabbitmq"

    @property
    def contract(self) -> str:
        """What is promised, in one sentence."""
        return (
            "At least once, with the id of the event as message id, which stays the same; in order per row for a consumer "
            "that drops ids it has seen; an event that no queue takes is an error."
        )

    def sender(self, settings: OutletSettings, listener: str) -> Sender:
        """Return a sender, not connected yet.

        Raises:
            ConfigurationError: The client library is missing, or a setting cannot be.
        """
        imported("pamqp.frame", "rabbitmq")
        return _QueueSender(self, amqp_address(settings), listener)


class _QueueSender(RabbitSender[QueueLink]):
    """One connection with one channel, for all lanes."""

    def __init__(self, outlet: RabbitQueue, address: Address, listener: str) -> None:
        RabbitSender.__init__(self, address, f"sqla-pubsub {listener}")
        self._outlet = outlet
        self._refused: ConfigurationError | None = None
        self._largest = _LARGEST
        self._largest_frame = 128 * 1024
        self._exchange = outlet.exchange or ""
        self._routing_key = outlet.queue or outlet.routing_key

    def open(self) -> Sequence[str]:
        """Connect, and look whether the queue or the exchange is there and takes anything."""
        self.close()
        # What the last connection has met, and does not pass by itself.
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused
        self._begin(self._open(), 12)
        return []

    def take(self, lane: int) -> None:
        """Queues know nothing of lanes."""

    def refuses(self, message: Outgoing) -> str | None:
        """Return that it is larger than the server takes, or None."""
        texts = len(message.key or "") + len(message.context or "")
        if len(message.data) * 2 + _MEBIBYTE < self._largest and texts < self._largest_frame // 32:
            return None
        _, headers, body = parts(message, self._outlet.format)
        if len(body) > self._largest:
            return f"it has {len(body)} bytes, more than {self._largest} (max_message_size of RabbitMQ)"
        size = sum(len(name) + len(value.encode()) + 8 for name, value in headers.items()) + _ROOM_IN_FRAME
        if size > self._largest_frame:
            return (
                f"its attributes have {size} bytes, more than {self._largest_frame} (frame_max of RabbitMQ)"
            )
        return None

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        """Publish at once what may be, and the next of a row when the one before it is confirmed."""
        link = self._connected()
        if link.blocked is not None:
            raise OutletUnavailable(f"{self._address}: it takes nothing at the moment: {link.blocked}")
        fates: list[Fate | None] = [None] * len(messages)
        for place, message in enumerate(messages):
            # Since it was looked at, the server may have said what is too large for it.
            reason = self.refuses(message)
            if reason is not None:
                fates[place] = Refused(reason=reason, final=True)
        self._run(self._send(link, messages, fates), len(messages))
        if link.lost is not None and not any(isinstance(fate, Confirmed) for fate in fates):
            raise OutletUnavailable(link.lost)
        rest = Unsettled(reason=link.lost or "an earlier one of its row was not confirmed")
        return [rest if fate is None else fate for fate in fates]

    async def _open(self) -> None:
        link = self._link = QueueLink(self._address, self._name)
        await link.open()
        self._largest_frame = link.frame_max
        # Until the server says what it is set to.
        self._largest = min(self._largest, _LARGEST if link.version < 4 else _LARGEST_SINCE_4)
        try:
            await link.look_for(queue=self._outlet.queue, exchange=self._outlet.exchange)
        except ChannelClosedError as error:
            if "inaccessible" in error.text:
                # It is there, on a node that is down: also said with the code of what is not there.
                raise
            if error.code == NOT_FOUND:
                raise self._nowhere() from error
            raise self._denied(error.text) from error
        if not await link.try_to_publish() and self._outlet.queue is not None:
            raise self._denied(
                "no permission to write to exchange 'amq.default', by which queues are reached"
            )

    async def _send(self, link: QueueLink, messages: Sequence[Outgoing], fates: list[Fate | None]) -> None:
        for places in _parts(_waves(messages, fates), messages):
            letters = [self._letter(messages[place]) for place in places]
            answers = await link.publish(letters, exchange=self._exchange, routing_key=self._routing_key)
            for place, answer in zip(places, answers, strict=True):
                if answer is not None:
                    fates[place] = self._fate(answer)
            if link.lost is not None:
                break
        if link.closed is not None:
            self._learn(link.closed)

    def _learn(self, closed: ChannelClosedError) -> None:
        found = _TOO_LARGE.search(closed.text)
        if found is not None:
            self._largest = int(found.group(1))
        if closed.code == ACCESS_REFUSED:
            self._refused = self._denied(closed.text)

    def _letter(self, message: Outgoing) -> Letter:
        content_type, headers, body = parts(message, self._outlet.format)
        return Letter(
            id=str(message.id),
            body=body,
            content_type=content_type,
            headers=headers,
            at=message.occurred_at,
        )

    def _fate(self, answer: Answer) -> Fate:
        match answer:
            case "ack":
                return CONFIRMED
            case "returned":
                return Refused(reason=f"unroutable: no queue takes what {self._place} is given")
            case "nack":
                return Unsettled(
                    reason=f"{self._place} did not take it: a queue is full or had an error",
                    after=_PAUSE_AFTER_NACK,
                )

    @property
    def _place(self) -> str:
        if self._outlet.exchange is not None:
            return f"exchange {self._outlet.exchange!r} with routing key {self._outlet.routing_key!r}"
        return f"queue {self._outlet.queue!r}"

    def _denied(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._address}: the user of the outlet may not publish to {self._place}: {reason}. It needs the "
            "permission to write there: see rabbitmqctl set_permissions."
        )

    def _nowhere(self) -> ConfigurationError:
        if self._outlet.exchange is not None:
            what, how = (
                f"exchange {self._outlet.exchange!r}",
                f"exchange type=topic name={self._outlet.exchange}",
            )
        else:
            what, how = f"queue {self._outlet.queue!r}", f"queue name={self._outlet.queue}"
        return ConfigurationError(
            f"{self._address} has no {what}. Create it, such as by: rabbitmqadmin declare {how} durable=true"
        )


def _waves(messages: Sequence[Outgoing], fates: Sequence[Fate | None]) -> Iterator[list[int]]:
    """Give the places of messages that may be on their way together, each time after those before have a fate.

    Of a row it is one message at a time, and none after one that was not confirmed.
    """
    waiting: dict[object, deque[int]] = {}
    for place, message in enumerate(messages):
        # What belongs to no row is in nobody's way.
        row: object = place if message.key is None else (message.source, message.key)
        waiting.setdefault(row, deque()).append(place)
    while True:
        wave = []
        for row, places in list(waiting.items()):
            while places and isinstance(fates[places[0]], Confirmed):
                places.popleft()
            if places and fates[places[0]] is None:
                wave.append(places[0])
            else:
                del waiting[row]
        if not wave:
            return
        yield sorted(wave)


def _parts(waves: Iterable[list[int]], messages: Sequence[Outgoing]) -> Iterator[list[int]]:
    """Cut waves where so much comes together that one time for all of it is too short."""
    for wave in waves:
        part: list[int] = []
        size = 0
        for place in wave:
            if part and size + len(messages[place].data) > _MOST_AT_ONCE:
                yield part
                part, size = [], 0
            part.append(place)
            size += len(messages[place].data)
        yield part
