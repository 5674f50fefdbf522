"""The engines that events leave for: how each is started, what our outlet is, and how its client library publishes.

Another engine is another entry of `ENGINES`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

import confluent_kafka
import nats
import redis

from sqla_pubsub.outlet import Outlet
from sqla_pubsub.outlets import JetStream, Kafka, RedisStream
from tests.outlets.engines import Engine
from tests.outlets.engines import kafka as kafka_engine
from tests.outlets.engines import nats as nats_engine
from tests.outlets.engines import redis as redis_engine

AT_ONCE = 1_000
"""Messages that the client library has under way."""


class Publisher(Protocol):
    """The client library of an engine, used as its documentation says that it is fast."""

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""

    def delays(self, number: int, seconds: float) -> list[float]:
        """Return of that many events that arrive from now on how many seconds ago each occurred."""

    def close(self) -> None:
        """Give up the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """One engine.

    Args:
        title: As a reader knows it.
        missing: Why it cannot be measured here, None where it can.
        engine: Makes the server.
        outlet: Where our events go.
        publisher: Connects the client library to an address.
    """

    title: str
    missing: str | None
    engine: Callable[[], Engine]
    outlet: Outlet
    publisher: Callable[[str], Publisher]


class NatsPublisher:
    """nats-py: up to a thousand futures at once."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(nats.connect(url))
        self._stream = self._client.jetstream()

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        self._loop.run_until_complete(self._publish(bodies))

    async def _publish(self, bodies: Sequence[bytes]) -> None:
        await asyncio.gather(*[await self._stream.publish_async("shop.comments", body) for body in bodies])

    def delays(self, number: int, seconds: float) -> list[float]:
        """Return of that many events that arrive from now on how many seconds ago each occurred."""
        return self._loop.run_until_complete(asyncio.wait_for(self._delays(number), seconds))

    async def _delays(self, number: int) -> list[float]:
        reader = await self._stream.subscribe("shop.comments", ordered_consumer=True)
        found = []
        for _ in range(number):
            message = await reader.next_msg(timeout=60)
            found.append(time.time() - datetime.fromisoformat(json.loads(message.data)["time"]).timestamp())
        await reader.unsubscribe()
        return found

    def close(self) -> None:
        """Give up the connection."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


class KafkaPublisher:
    """confluent-kafka: an idempotent producer that is flushed after each thousand."""

    _TOPIC = "shop.comments"

    def __init__(self, url: str) -> None:
        self._servers = {"bootstrap.servers": url.removeprefix("kafka://"), "log_level": 0}
        self._producer = confluent_kafka.Producer({**self._servers, "enable.idempotence": True})

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        failures: list[Any] = []
        for body in bodies:
            self._producer.produce(
                self._TOPIC, body, on_delivery=lambda error, _: failures.append(error) if error else None
            )
        if self._producer.flush(60) or failures:
            raise RuntimeError(f"not delivered: {failures[:1]}")

    def delays(self, number: int, seconds: float) -> list[float]:
        """Return of that many events that arrive from now on how many seconds ago each occurred."""
        reader = confluent_kafka.Consumer(
            {
                **self._servers,
                "group.id": "delays",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        partitions = reader.list_topics(self._TOPIC, timeout=60).topics[self._TOPIC].partitions
        reader.assign([confluent_kafka.TopicPartition(self._TOPIC, each, 0) for each in partitions])
        until, found = time.monotonic() + seconds, list[float]()
        while len(found) < number and time.monotonic() < until:
            if (message := reader.poll(1)) is not None and (value := message.value()) is not None:
                found.append(time.time() - datetime.fromisoformat(json.loads(value)["time"]).timestamp())
        reader.close()
        return found

    def close(self) -> None:
        """Give up the connection."""
        self._producer.flush(60)


class RedisPublisher:
    """redis-py: a thousand commands in one pipeline, with the parser in C."""

    _STREAM = "shop.comments"

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        with self._client.pipeline(transaction=False) as pipeline:
            for body in bodies:
                pipeline.xadd(self._STREAM, {"data": body})
            pipeline.execute()

    def delays(self, number: int, seconds: float) -> list[float]:
        """Return of that many events that arrive from now on how many seconds ago each occurred."""
        until, found, last = time.monotonic() + seconds, list[float](), b"0"
        while len(found) < number and time.monotonic() < until:
            for _, entries in cast(Any, self._client.xread({self._STREAM: last}, block=1_000)):
                for last, entry in entries:  # noqa: B007
                    found.append(time.time() - datetime.fromisoformat(entry[b"time"].decode()).timestamp())
        return found

    def close(self) -> None:
        """Give up the connection."""
        self._client.close()


ENGINES: dict[str, Departure] = {
    "kafka": Departure(
        title="Kafka",
        missing=None if kafka_engine.PROGRAM else "noida-db is not installed",
        engine=kafka_engine.KafkaEngine,
        outlet=Kafka("shop.comments"),
        publisher=KafkaPublisher,
    ),
    "nats": Departure(
        title="NATS JetStream",
        missing=None if nats_engine.PROGRAM else "nats-server is not installed",
        engine=nats_engine.Nats,
        outlet=JetStream("shop.comments"),
        publisher=NatsPublisher,
    ),
    "redis": Departure(
        title="a Redis stream",
        missing=None if redis_engine.PROGRAM else "redis-server is not installed",
        engine=lambda: redis_engine.RedisEngine(lanes=1),
        outlet=RedisStream("shop.comments"),
        publisher=RedisPublisher,
    ),
}
"""By the name of the settings."""


def handler_of(publisher: Publisher) -> Callable[[list[Any]], None]:
    """Return a handler of batches that publishes what they hold."""

    def publish(events: list[Any]) -> None:
        publisher.publish(
            [json.dumps({"id": each.new.id, "content": each.new.content}).encode() for each in events]
        )

    return publish
