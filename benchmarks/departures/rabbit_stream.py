"""A stream of RabbitMQ, and rstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from rstream import AMQPMessage, ConfirmationStatus, Consumer, Producer, amqp_decoder

from benchmarks.departures.departure import CONFIRMING, PLACE, Departure, age
from sqla_pubsub.outlets import RabbitStream
from tests.outlets.engines.rabbitmq import SERVER, RabbitStreamEngine


class StreamPublisher:
    """rstream: batches of a thousand by ``send_batch``, as bytes, for which it encodes nothing."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._producer = Producer(**_server(url))
        self._loop.run_until_complete(self._producer.start())

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        self._loop.run_until_complete(asyncio.wait_for(self._publish(bodies), CONFIRMING))

    async def _publish(self, bodies: Sequence[bytes]) -> None:
        answers: list[ConfirmationStatus] = []
        answered = asyncio.Event()

        def take(status: ConfirmationStatus) -> None:
            answers.append(status)
            if len(answers) == len(bodies):
                answered.set()

        await self._producer.send_batch(PLACE, bodies, on_publish_confirm=take)
        await answered.wait()
        if not all(each.is_confirmed for each in answers):
            raise RuntimeError("the stream has not confirmed all")

    def close(self) -> None:
        """Give up the connection."""
        self._loop.run_until_complete(self._producer.close())
        self._loop.close()


def _delays(engine: RabbitStreamEngine, number: int, seconds: float) -> list[float]:
    found: list[float] = []

    async def read() -> None:
        arrived = asyncio.Event()

        def take(message: AMQPMessage, _: object) -> None:
            found.append(age(json.loads(bytes(message.body))["time"]))
            if len(found) == number:
                arrived.set()

        async with Consumer(**_server(engine.url)) as consumer:
            await consumer.subscribe(PLACE, take, decoder=amqp_decoder)
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), seconds)

    asyncio.run(read())
    return found


def _server(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "vhost": unquote(parts.path[1:]),
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }


DEPARTURE = Departure(
    title="a RabbitMQ stream",
    missing=None if SERVER else "rabbitmq-server is not installed",
    engine=RabbitStreamEngine,
    # The queue has the settings of this name too, with another address.
    outlet=RabbitStream(PLACE, outlet="rabbitmq_stream"),
    publisher=StreamPublisher,
    delays=_delays,
)
