"""A queue of RabbitMQ, and aio-pika."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from benchmarks.departures.departure import CONFIRMING, PLACE, Departure, age
from sqla_pubsub.outlets import RabbitQueue
from tests.outlets.engines.rabbitmq import SERVER, RabbitQueueEngine


class QueuePublisher:
    """aio-pika: a thousand persistent messages on a channel that confirms, all awaited together."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection, self._channel = self._loop.run_until_complete(_connected(url))

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        self._loop.run_until_complete(asyncio.wait_for(self._publish(bodies), CONFIRMING))

    async def _publish(self, bodies: Sequence[bytes]) -> None:
        exchange, persistent = self._channel.default_exchange, aio_pika.DeliveryMode.PERSISTENT
        await asyncio.gather(
            *[
                exchange.publish(aio_pika.Message(body, delivery_mode=persistent), routing_key=PLACE)
                for body in bodies
            ]
        )

    def close(self) -> None:
        """Give up the connection."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


async def _connected(url: str) -> tuple[AbstractConnection, AbstractChannel]:
    connection = await aio_pika.connect(url)
    return connection, await connection.channel(publisher_confirms=True)


def _delays(engine: RabbitQueueEngine, number: int, seconds: float) -> list[float]:
    found: list[float] = []

    async def read() -> None:
        arrived = asyncio.Event()

        async def take(message: AbstractIncomingMessage) -> None:
            found.append(age(json.loads(message.body)["time"]))
            if len(found) == number:
                arrived.set()

        async with await aio_pika.connect(engine.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(PLACE)
            await queue.consume(take, no_ack=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), seconds)

    asyncio.run(read())
    return found


DEPARTURE = Departure(
    title="a RabbitMQ queue",
    missing=None if SERVER else "rabbitmq-server is not installed",
    engine=RabbitQueueEngine,
    # The stream has the settings of this name too, with another address.
    outlet=RabbitQueue(PLACE, outlet="rabbitmq_queue"),
    publisher=QueuePublisher,
    delays=_delays,
)
