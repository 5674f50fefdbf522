"""Events into a stream of RabbitMQ, exactly once into its log.

Each lane is a publisher with a name of its own, and an event's number in the lane is its publishing id. A stream keeps
the highest publishing id of each name: one that is not higher is confirmed and not stored. So what is sent again after
an unknown fate, or late by who held the lane before, is dropped there. Two consequences:

* Of a lane one frame is on its way at a time. Were an earlier one refused while a later one is stored, the earlier
  one would be dropped for ever when it is sent again.
* Publishers are at the node of the stream's leader. On any other node a message may be lost on the way to the leader,
  and a later one of the same lane arrive there.

Sources: https://www.rabbitmq.com/docs/streams and https://www.rabbitmq.com/blog/2021/07/28/rabbitmq-streams-message-deduplication
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Fate,
    Formats,
    Outgoing,
    Outlet,
    OutletSettings,
    OutletUnavailable,
    Sender,
)
from sqla_pubsub.outlets.amqp import stream_bytes
from sqla_pubsub.outlets.optional import imported
from sqla_pubsub.outlets.rabbit_address import Address, stream_address
from sqla_pubsub.outlets.rabbit_sender import RabbitSender
from sqla_pubsub.outlets.rabbit_stream_link import (
    ACCESS_REFUSED,
    NO_STREAM,
    OK,
    USUAL_FRAME,
    StreamLink,
    frame_size,
    meaning,
)

_MOST_LANES = 255
# Attributes of an event without its key and context, far less than this.
_ROOM_FOR_ATTRIBUTES = 16 * 1024
_TRIES_TO_FIND_LEADER = 20
_ADVERTISED = (
    "a node says it by its own settings stream.advertised_host and stream.advertised_port; where those cannot be reached "
    "from here, set stream_load_balancer = true."
)
# Numbers of lanes are those of publishers, and below this one.
_NO_LANE = 255


@dataclass(frozen=True)
class RabbitStream(Outlet):
    """A stream of RabbitMQ, which must exist. Needs ``pip install 'sqla-pubsub[rabbitmq]'``.

    Args:
        stream: Its name.
        format: How an event is written.
        publisher: What the names of publishers begin with; None for the listener's name. Listeners of the same name in
            several databases that write to one stream need different ones.

    .. versionadded:: 0.3.0
    """

    stream: str
    format: Formats = "structured"
    publisher: str | None = None

    def __post_init__(self) -> None:
        Outlet.__post_init__(self)
        if not 0 < len(str(self.stream).encode()) < 256:
            raise ConfigurationError(
                f"RabbitStream({self.stream!r}): a stream has a name of 1 to 255 bytes. Give one, such as 'shop.comments'."
            )
        if self.format not in ("structured", "binary", "json"):
            raise ConfigurationError(
                f"format={self.format!r} of RabbitStream is unknown. Give 'structured', 'binary' or 'json'."
            )
        if self.publisher is not None and not 0 < len(self.publisher.encode()) <= 200:
            raise ConfigurationError(
                f"publisher={self.publisher!r} of RabbitStream has not 1 to 200 bytes. Give a short name, such as 'shop'."
            )
        if self.lanes > _MOST_LANES:
            raise ConfigurationError(
                f"lanes={self.lanes} of RabbitStream: a stream remembers the numbers of {_MOST_LANES} publishers, and each "
                f"lane is one. Give at most {_MOST_LANES} for all outlets of one stream together."
            )

    @property
    def engine(self) -> str:
        """``rabbitmq``."""
        return "rabbitmq"

    @property
    def contract(self) -> str:
        """What is promised, in one sentence."""
        return (
            "Exactly once into the stream, in order per row, by publishing ids; as durable as its replicas, for "
            "RabbitMQ confirms what most of them have in memory."
        )

    def sender(self, settings: OutletSettings, listener: str) -> Sender:
        """Return a sender, not connected yet.

        Raises:
            ConfigurationError: The client library is missing, or a setting cannot be.
        """
        imported("rstream", "rabbitmq")
        address = stream_address(settings)
        balanced = bool(settings.options.get("stream_load_balancer"))
        return _StreamSender(self, address, self.publisher or listener, balanced=balanced)


class _StreamSender(RabbitSender[StreamLink]):
    """The publishers of the lanes that this worker holds."""

    def __init__(self, outlet: RabbitStream, address: Address, name: str, *, balanced: bool) -> None:
        RabbitSender.__init__(self, address, f"sqla-pubsub {name}")
        self._outlet = outlet
        self._publisher = name
        self._balanced = balanced
        self._declared: set[int] = set()
        self._frame_max = USUAL_FRAME

    def open(self) -> Sequence[str]:
        """Connect to the stream's leader."""
        self.close()
        self._declared.clear()
        return self._begin(self._open(), 10 * _TRIES_TO_FIND_LEADER)

    def take(self, lane: int) -> int:
        """Declare the lane's publisher, and return the highest number that the stream has of it for good."""
        try:
            return self._run(self._take(lane), 3)
        except ConfigurationError as error:
            # It has changed since the connection was opened; the next time that is done says the same, and stays with it.
            raise OutletUnavailable(str(error)) from error

    def refuses(self, message: Outgoing) -> str | None:
        """Return that it does not fit into a frame, or None."""
        texts = len(message.key or "") + len(message.context or "")
        if len(message.data) * 4 // 3 + 8 * texts + _ROOM_FOR_ATTRIBUTES < self._frame_max:
            return None
        size = frame_size([stream_bytes(message, self._outlet.format)])
        if size <= self._frame_max:
            return None
        return (
            f"it has {size} bytes, more than the {self._frame_max} of a frame (stream.frame_max of RabbitMQ)"
        )

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        """Send each lane frame by frame, all lanes at the same time."""
        lanes: dict[int, list[tuple[int, bytes]]] = {}
        for message in messages:
            lanes.setdefault(message.lane, []).append(
                (message.number, stream_bytes(message, self._outlet.format))
            )
        # Each waits for its confirmation, and in the worst case each message has a frame of its own.
        self._run(self._send(lanes), len(messages))
        return [CONFIRMED] * len(messages)

    async def _open(self) -> list[str]:
        address = self._address
        for _ in range(_TRIES_TO_FIND_LEADER):
            link = self._link = StreamLink(address, self._name)
            try:
                await link.open()
            except OutletUnavailable as error:
                if address is self._address:
                    raise
                raise OutletUnavailable(
                    f"{error}. There the leader of {self._outlet.stream!r} is, as {self._address} says: {_ADVERTISED}"
                ) from error
            leader, replicas = await self._leader(link)
            if link.advertised in (leader, None):
                self._frame_max = link.frame_max
                await self._check_permissions(link)
                return list(self._weaknesses(replicas))
            await link.close()
            if not self._balanced:
                address = dataclasses.replace(address, host=leader[0], port=leader[1])
        raise OutletUnavailable(
            f"{self._address}: after {_TRIES_TO_FIND_LEADER} tries no connection led to {leader[0]}:{leader[1]}, where the "
            f"leader of {self._outlet.stream!r} is: {_ADVERTISED}"
        )

    async def _leader(self, link: StreamLink) -> tuple[tuple[str, int], int]:
        answer = await link.ask("Metadata", "MetadataResponse", streams=[self._outlet.stream])
        (found,) = answer.metadata
        if found.response_code == NO_STREAM:
            raise self._missing()
        brokers = {each.reference: (each.host, each.port) for each in answer.brokers}
        if found.response_code != OK or found.leader_ref not in brokers:
            raise OutletUnavailable(f"{link.address}: {self._outlet.stream!r} has no leader at the moment")
        return brokers[found.leader_ref], len(found.replicas_refs)

    def _weaknesses(self, replicas: int) -> Iterator[str]:
        if not replicas:
            yield (
                f"stream {self._outlet.stream!r} has no replica: RabbitMQ confirms what its only node has in memory, and a "
                "loss of power loses what the system has not written. Give it replicas on two more nodes."
            )

    async def _check_permissions(self, link: StreamLink) -> None:
        stream = self._outlet.stream
        answer = await link.ask(
            "DeclarePublisher", "DeclarePublisherResponse", publisher_id=_NO_LANE, reference="", stream=stream
        )
        self._check(answer.response_code, "write to")
        await link.ask("DeletePublisher", "DeletePublisherResponse", publisher_id=_NO_LANE)
        await self._highest(link, 0)

    async def _take(self, lane: int) -> int:
        link = self._connected()
        if lane not in self._declared:
            answer = await link.ask(
                "DeclarePublisher",
                "DeclarePublisherResponse",
                publisher_id=lane,
                reference=self._reference(lane),
                stream=self._outlet.stream,
            )
            self._check(answer.response_code, "write to")
            self._declared.add(lane)
        highest = await self._highest(link, lane)
        if highest:
            # The leader may tell of what its replicas have not got yet, and would be lost with it. Of a number that it
            # has, nothing is stored, but the confirmation comes only after that of the highest.
            await link.publish(lane, [(highest, b"")])
        return highest

    async def _highest(self, link: StreamLink, lane: int) -> int:
        answer = await link.ask(
            "QueryPublisherSequence",
            "QueryPublisherSequenceResponse",
            publisher_ref=self._reference(lane),
            stream=self._outlet.stream,
        )
        self._check(answer.response_code, "read")
        return int(answer.sequence)

    async def _send(self, lanes: dict[int, list[tuple[int, bytes]]]) -> None:
        link = self._connected()
        await asyncio.gather(*(link.publish(lane, messages) for lane, messages in lanes.items()))

    def _reference(self, lane: int) -> str:
        return f"{self._publisher}-{lane}"

    def _check(self, code: int, doing: str) -> None:
        if code == NO_STREAM:
            raise self._missing()
        if code == ACCESS_REFUSED:
            raise ConfigurationError(
                f"{self._address}: the user of the outlet may not {doing} stream {self._outlet.stream!r}. It needs the "
                "permissions to write and to read it: see rabbitmqctl set_permissions."
            )
        if code != OK:
            raise OutletUnavailable(f"{self._address}: {meaning(code)}")

    def _missing(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self._address} has no stream {self._outlet.stream!r}. Create it, such as by: rabbitmqadmin declare queue "
            f'name={self._outlet.stream} durable=true arguments=\'{{"x-queue-type": "stream"}}\''
        )
