"""Kafka as an outlet: the events of a lane and the highest of their numbers are committed in one transaction.

A lane has a producer of its own, whose ``transactional.id`` is the lane's: who takes the lane ends what the one before
left open, and fences that one off. The number is committed as the offset of a consumer group that nobody is in, so
that the next holder reads what the topic has. Consumers that read what is committed see each event once.

Sources: https://cwiki.apache.org/confluence/display/KAFKA/KIP-98,
https://github.com/confluentinc/librdkafka/blob/master/INTRODUCTION.md#transactional-producer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, get_args

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
    Unsettled,
)
from sqla_pubsub.outlets.cloudevents import encode
from sqla_pubsub.outlets.kafka_client import KafkaClient, Topic
from sqla_pubsub.outlets.kafka_lane import Commit, Lane

# What Kafka adds to a message, and to a header.
_PER_MESSAGE = 128
_PER_HEADER = 10
# More than attributes of an event have, beside its key.
_ATTRIBUTES = 8_192


@dataclass(frozen=True)
class Kafka(Outlet):
    """A topic of Kafka. It must exist.

    Events of one row have the row's key, and so are in one partition, in order.

    .. versionadded:: 0.3.0

    Args:
        topic: Name of the topic.
        format: How an event is written: a CloudEvent as one JSON text, its data with the attributes in headers
            (``ce_id``, ``ce_type``, ...), or only the data.
        transactional: Whether the events of a lane are committed together with their numbers. Without it, what a
            worker sent just before it crashed comes twice.
    """

    topic: str
    format: Formats = field(default="structured", kw_only=True)
    transactional: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        Outlet.__post_init__(self)
        if type(self.topic) is not str or not self.topic:
            raise ConfigurationError(f"topic={self.topic!r} of Kafka: give a name, such as 'orders'.")
        if self.format not in get_args(Formats):
            raise ConfigurationError(
                f"format={self.format!r} is unknown. Give 'structured', 'binary' or 'json'."
            )

    @property
    def engine(self) -> str:
        """``kafka``."""
        return "kafka"

    @property
    def contract(self) -> str:
        """What is promised, in one sentence."""
        if self.transactional:
            return "exactly once for consumers that are read_committed, as far as replicas keep what they confirm"
        return "at least once: what a worker sent just before a crash comes twice, with the same id"

    def sender(self, settings: OutletSettings, listener: str) -> Sender:
        """Return a sender, not connected yet."""
        client = KafkaClient(settings)
        if self.transactional:
            return _TransactionalSender(self, client, listener)
        return _IdempotentSender(self, client)


class _KafkaSender(Sender):
    def __init__(self, outlet: Kafka, client: KafkaClient) -> None:
        self._outlet = outlet
        self._client = client
        self._topic: Topic | None = None

    def open(self) -> Sequence[str]:
        self.close()
        self._topic = self._client.topic(self._outlet.topic)
        return self._topic.weak

    def refuses(self, message: Outgoing) -> str | None:
        if self._topic is None:
            return None
        if self._topic.keyed and message.key is None:
            return f"it has no key, and topic {self._outlet.topic!r} keeps the last of each key (cleanup.policy=compact)"
        if 2 * len(message.data) + 8 * len(message.key or "") + _ATTRIBUTES < self._topic.largest:
            return None
        headers, value = encode(message, self._outlet.format, "ce_")
        size = _PER_MESSAGE + len(value) + len((message.key or "").encode())
        size += sum(_PER_HEADER + len(name) + len(text) for name, text in headers.items())
        if size > self._topic.largest:
            return f"it has {size} bytes, and topic {self._outlet.topic!r} takes no more than {self._topic.largest}"
        return None

    def _settings(self) -> dict[str, Any]:
        """What all producers have."""
        largest = self._topic.largest if self._topic else 0
        return {
            "enable.idempotence": True,
            "acks": "all",
            "message.max.bytes": min(max(largest, 1_000), 1_000_000_000),
            "delivery.report.only.error": True,
        }

    def _produce(self, producer: Any, message: Outgoing) -> None:
        headers, value = encode(message, self._outlet.format, "ce_")
        key = None if message.key is None else message.key.encode()
        try:
            producer.produce(self._outlet.topic, value, key, headers=list(headers.items()))
        except BufferError:
            # Many large ones: those before it go first.
            if producer.flush(self._client.seconds):
                raise OutletUnavailable(f"Kafka takes nothing within {self._client.seconds:g} s") from None
            producer.produce(self._outlet.topic, value, key, headers=list(headers.items()))


class _TransactionalSender(_KafkaSender):
    def __init__(self, outlet: Kafka, client: KafkaClient, listener: str) -> None:
        super().__init__(outlet, client)
        self._name = f"{client.prefix}.{outlet.topic}.{listener}"
        self._lanes: dict[int, Lane] = {}

    def take(self, lane: int) -> int | None:
        self.leave(lane)
        settings = self._settings() | {
            "transactional.id": f"{self._name}.{lane}",
            "transaction.timeout.ms": int(self._client.seconds * 1_000),
        }
        with self._client.understood():
            taken = self._lanes[lane] = Lane(self._client, self._outlet.topic, settings)
        return taken.taken_at

    def has(self, message: Outgoing) -> bool:
        return self._lanes[message.lane].knows([message])

    def leave(self, lane: int) -> None:
        if (left := self._lanes.pop(lane, None)) is not None:
            left.close()

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        by_lane: dict[int, list[Outgoing]] = {}
        for message in messages:
            by_lane.setdefault(message.lane, []).append(message)
        commits = {lane: Commit(partial(self._commit, lane, some)) for lane, some in by_lane.items()}
        # Sending, the number, and to commit or to abort: each has its time.
        until = monotonic() + 3 * self._client.seconds
        for commit in commits.values():
            commit.start()
        for commit in commits.values():
            commit.join(max(0.0, until - monotonic()))
        fates = {lane: commit.fate() for lane, commit in commits.items()}
        return [fates[message.lane] for message in messages]

    def close(self) -> None:
        for lane in list(self._lanes):
            self.leave(lane)

    def _commit(self, lane: int, messages: Sequence[Outgoing]) -> Fate:
        holder = self._lanes[lane]
        if not holder.knows(messages):
            return Unsettled(
                reason=f"Kafka has events of {self._name}.{lane} up to {holder.taken_at}, and not {messages[0].number} to "
                f"{messages[-1].number}: another database has a listener of this name, or this database was set back to an "
                "earlier time. Give another prefix in the settings of the outlet; then resume.",
                pause=True,
            )
        new = [message for message in messages if message.number > holder.number]
        if new:
            with self._client.understood(OutletUnavailable), holder.transaction(new[-1]) as producer:
                for message in new:
                    self._produce(producer, message)
        return CONFIRMED


class _IdempotentSender(_KafkaSender):
    def __init__(self, outlet: Kafka, client: KafkaClient) -> None:
        super().__init__(outlet, client)
        self._producer: Any = None
        self._errors: list[Any] = []

    def open(self) -> Sequence[str]:
        weak = super().open()
        # Nothing is given up by itself, so that nothing passes what was.
        settings = {"enable.gapless.guarantee": True, "message.timeout.ms": 0, "on_delivery": self._failed}
        self._producer = self._client.producer(self._settings() | settings)
        return weak

    def take(self, lane: int) -> int | None:
        return None

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        self._errors.clear()
        with self._client.understood(OutletUnavailable):
            for message in messages:
                self._produce(self._producer, message)
            left = self._producer.flush(self._client.seconds)
            if self._errors:
                raise self._client.kafka.KafkaException(self._errors[0])
        if left:
            raise OutletUnavailable(f"Kafka did not confirm {left} events within {self._client.seconds:g} s")
        return [CONFIRMED] * len(messages)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()

    def _failed(self, error: Any, message: Any) -> None:
        self._errors.append(error)
