"""Kafka, and confluent-kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import confluent_kafka

from benchmarks.departures.departure import CONFIRMING, PLACE, Departure, age
from sqla_pubsub.outlets import Kafka
from tests.outlets.engines.kafka import PROGRAM, KafkaEngine


class KafkaPublisher:
    """confluent-kafka: an idempotent producer that is flushed after each thousand."""

    def __init__(self, url: str) -> None:
        self._producer = confluent_kafka.Producer({**_servers(url), "enable.idempotence": True})

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        failures: list[Any] = []
        for body in bodies:
            self._producer.produce(
                PLACE, body, on_delivery=lambda error, _: failures.append(error) if error else None
            )
        if self._producer.flush(CONFIRMING) or failures:
            raise RuntimeError(f"not delivered: {failures[:1]}")

    def close(self) -> None:
        """Give up the connection."""
        self._producer.flush(CONFIRMING)


def _delays(engine: KafkaEngine, number: int, seconds: float) -> list[float]:
    reader = confluent_kafka.Consumer(
        {
            **_servers(engine.url),
            "group.id": "delays",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    partitions = reader.list_topics(PLACE, timeout=60).topics[PLACE].partitions
    reader.assign([confluent_kafka.TopicPartition(PLACE, each, 0) for each in partitions])
    until, found = time.monotonic() + seconds, list[float]()
    while len(found) < number and time.monotonic() < until:
        if (message := reader.poll(1)) is not None and (value := message.value()) is not None:
            found.append(age(json.loads(value)["time"]))
    reader.close()
    return found


def _servers(url: str) -> dict[str, Any]:
    return {"bootstrap.servers": url.removeprefix("kafka://"), "log_level": 0}


DEPARTURE = Departure(
    title="Kafka",
    missing=None if PROGRAM else "noida-db is not installed",
    engine=KafkaEngine,
    outlet=Kafka(PLACE),
    publisher=KafkaPublisher,
    delays=_delays,
    rate=30_000,
)
