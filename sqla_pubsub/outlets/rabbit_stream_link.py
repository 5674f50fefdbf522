"""A connection to a node of RabbitMQ in its protocol of streams.

Source: https://github.com/rabbitmq/rabbitmq-server/blob/v3.10.8/deps/rabbitmq_stream/docs/PROTOCOL.adoc
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqla_pubsub.outlet import OutletUnavailable
from sqla_pubsub.outlets.rabbit_address import Address
from sqla_pubsub.outlets.rabbit_link import RabbitLink

OK = 1
NO_STREAM = 2
ACCESS_REFUSED = 16
USUAL_FRAME = 1024 * 1024
_REFUSED_FOR_GOOD = {
    7: "it does not allow to log in with a password (mechanism PLAIN)",
    8: "user or password is wrong",
    11: "this user may log in only from the same machine",
    12: "there is no such virtual host, or this user has no permissions in it",
}
_MEANINGS = {
    NO_STREAM: "there is no such stream",
    6: "the stream has no leader at the moment",
    13: "it does not know such a frame",
    14: "a frame was too large",
    15: "it had an internal error",
    ACCESS_REFUSED: "access refused",
    17: "it takes no messages at the moment: an alarm of memory or disk",
    18: "the stream has another leader now",
}
_LARGEST_FRAME = 2**31 - 1
# Of a frame: length, key, version, publisher and count. Of a message in it: number and length.
_FRAME_HEAD, _MESSAGE_HEAD = 13, 12


def frame_size(messages: Sequence[bytes]) -> int:
    """Return how many bytes a frame with these messages has."""
    return _FRAME_HEAD + sum(_MESSAGE_HEAD + len(each) for each in messages)


def meaning(code: int) -> str:
    """Return what a code of an answer says."""
    return _MEANINGS.get(code, f"it answered with code {code}")


class StreamLink(RabbitLink):
    """One connection with its publishers."""

    def __init__(self, address: Address, name: str) -> None:
        RabbitLink.__init__(self, address, name)
        self.frame_max = _LARGEST_FRAME
        self.advertised: tuple[str, int] | None = None
        self._schema = importlib.import_module("rstream.schema")
        self._encoding = importlib.import_module("rstream.encoding")
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._tuned: asyncio.Future[Any] | None = None
        self._unconfirmed: dict[int, tuple[set[int], asyncio.Future[Any]]] = {}

    async def ask(self, question: str, answer: str, **fields: Any) -> Any:
        """Send the request of that name in the protocol, and return its answer, whatever code that has."""
        number = next(self._numbers)
        future = self._answers[number] = self._expect()
        frame = getattr(self._schema, question)(correlation_id=number, **fields)
        try:
            found = await self._wait(future, self._encoding.encode_frame(frame))
        finally:
            del self._answers[number]
        if not isinstance(found, getattr(self._schema, answer)):
            self.fail(f"the answer to {question} is another one")
            raise OutletUnavailable(self.lost)
        return found

    async def publish(self, publisher: int, messages: Sequence[tuple[int, bytes]]) -> None:
        """Send messages with their numbers, and return when all are confirmed.

        They go frame by frame, each when the one before is confirmed.
        """
        for frame in _frames(messages, min(self.frame_max, USUAL_FRAME)):
            done = self._expect()
            self._unconfirmed[publisher] = {number for number, _ in frame}, done
            said = self._schema.Publish(
                publisher_id=publisher,
                messages=[self._schema.Message(number, None, data) for number, data in frame],
            )
            try:
                await self._wait(done, self._encoding.encode_publish(said))
            finally:
                del self._unconfirmed[publisher]

    def _missing(self) -> str:
        number = sum(len(numbers) for numbers, _ in self._unconfirmed.values())
        if not number:
            return "no answer"
        return (
            f"{number} messages were not confirmed (an alarm of memory or disk, or too few replicas are up?)"
        )

    def _sign_of_life(self) -> bytes:
        return bytes(self._encoding.encode_frame(self._schema.Heartbeat()))

    async def _say_goodbye(self) -> None:
        await self.ask("Close", "CloseResponse", code=OK, reason="OK")

    async def _log_in(self) -> None:
        address, schema = self.address, self._schema
        said = {"product": "sqla-pubsub", "platform": "Python", "connection_name": self.name}
        properties = [schema.Property(*each) for each in said.items()]
        await self.ask("PeerProperties", "PeerPropertiesResponse", properties=properties)
        await self.ask("SaslHandshake", "SaslHandshakeResponse")
        self._tuned = self._expect()
        secret = f"\0{address.user}\0{address.password}".encode()
        answer = await self.ask(
            "SaslAuthenticate", "SaslAuthenticateResponse", mechanism="PLAIN", data=secret
        )
        self._check_welcome(answer.response_code)
        tune = await self._wait(self._tuned, b"")
        self.frame_max = tune.frame_max or _LARGEST_FRAME
        self.heartbeat = min(tune.heartbeat or self.heartbeat, self.heartbeat)
        agreed = schema.Tune(frame_max=tune.frame_max, heartbeat=self.heartbeat)
        await self._write(self._encoding.encode_frame(agreed))
        answer = await self.ask("Open", "OpenResponse", virtual_host=address.virtual_host)
        self._check_welcome(answer.response_code)
        found = {each.key: each.value for each in answer.properties}
        if "advertised_host" in found:
            self.advertised = found["advertised_host"], int(found["advertised_port"])

    def _check_welcome(self, code: int) -> None:
        if code in _REFUSED_FOR_GOOD:
            raise self._not_let_in(_REFUSED_FOR_GOOD[code])
        if code != OK:
            raise OutletUnavailable(f"{self.address} does not let us in: {meaning(code)}")

    async def _receive(self, reader: asyncio.StreamReader) -> Any:
        length = int.from_bytes(await reader.readexactly(4), "big")
        return self._encoding.decode_frame(await reader.readexactly(length))

    async def _take(self, frame: Any) -> None:
        schema = self._schema
        match frame:
            case schema.PublishConfirm():
                waiting = self._unconfirmed.get(frame.publisher_id)
                if waiting is not None:
                    missing, done = waiting
                    missing.difference_update(frame.publishing_ids)
                    if not missing and not done.done():
                        done.set_result(None)
            case schema.PublishError():
                self.fail(f"messages were not taken: {meaning(frame.errors[0].response_code)}")
            case schema.MetadataUpdate():
                self.fail(f"the stream {frame.metadata_info.stream!r} was deleted or has lost its leader")
            case schema.Close():
                goodbye = schema.CloseResponse(correlation_id=frame.correlation_id, response_code=OK)
                await self._write(self._encoding.encode_frame(goodbye))
                self.fail(f"it closed the connection: {frame.reason}")
            case schema.Heartbeat():
                self.heartbeats += 1
            case schema.Tune():
                if self._tuned is not None and not self._tuned.done():
                    self._tuned.set_result(frame)
            case _:
                future = self._answers.get(frame.corr_id)
                if future is not None and not future.done():
                    future.set_result(frame)


def _frames(messages: Iterable[tuple[int, bytes]], most: int) -> Iterator[list[tuple[int, bytes]]]:
    """Cut into frames of at most so many bytes; what is larger is alone in one."""
    frame: list[tuple[int, bytes]] = []
    size = _FRAME_HEAD
    for number, data in messages:
        if frame and size + _MESSAGE_HEAD + len(data) > most:
            yield frame
            frame, size = [], _FRAME_HEAD
        frame.append((number, data))
        size += _MESSAGE_HEAD + len(data)
    if frame:
        yield frame
