"""The producer of one lane of Kafka, and the transactions that it commits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqla_pubsub.outlet import Fate, Outgoing, OutletUnavailable
from sqla_pubsub.outlets.kafka_client import KafkaClient


class Commit(threading.Thread):
    """The transaction of one lane: most of its time it awaits answers, as those of other lanes do.

    A single one has a thread too, to be given up: send_offsets_to_transaction of the client library waits as long as the
    broker of the group is away, whatever time it is given (https://github.com/confluentinc/librdkafka/issues/5456). One
    that was given up goes on when the broker is back. By then it is fenced off, or commits before the lane is taken.
    """

    def __init__(self, commit: Callable[[], Fate]) -> None:
        super().__init__(name="sqla-pubsub-kafka", daemon=True)
        self._commit = commit
        self._fate: Fate | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Commit."""
        try:
            self._fate = self._commit()
        except Exception as error:
            self._error = error

    def fate(self) -> Fate:
        """Return what became of the events; raise what the commit raised."""
        if self._error is not None:
            raise self._error
        if self._fate is None:
            raise OutletUnavailable(
                "Kafka does not answer in time: it is not known what became of the last events"
            )
        return self._fate


class Lane:
    """The producer of a lane, from when the lane is taken. Whoever had it before is fenced off."""

    def __init__(self, client: KafkaClient, topic: str, settings: dict[str, Any]) -> None:
        self._client = client
        self._topic = topic
        self._producer = client.producer(settings)
        self._producer.init_transactions(client.seconds)
        consumer = client.consumer(settings["transactional.id"])
        try:
            # Any partition will do, and there is always this one.
            [found] = consumer.committed([self._place()], timeout=client.seconds)
            self._group = consumer.consumer_group_metadata()
        finally:
            consumer.close()
        if found.error is not None:
            raise client.kafka.KafkaException(found.error)
        # Offsets that are not used for long are forgotten.
        self.taken_at = found.offset if found.offset >= 0 else None
        self.number = self.taken_at or 0
        self._note = found.metadata

    def knows(self, messages: Sequence[Outgoing]) -> bool:
        """Return whether those that the topic is said to have are the same events: the last of them was noted."""
        old = [message for message in messages if message.number <= (self.taken_at or 0)]
        return not old or (old[-1].number == self.taken_at and _noted(old[-1]) == self._note)

    @contextmanager
    def transaction(self, last: Outgoing) -> Iterator[Any]:
        """Commit what is produced meanwhile, and the number of the last one."""
        producer = self._producer
        try:
            producer.begin_transaction()
            yield producer
            place = self._place(last.number, _noted(last))
            producer.send_offsets_to_transaction([place], self._group, self._client.seconds)
            producer.commit_transaction(self._client.seconds)
        except self._client.kafka.KafkaException as error:
            # Says why, to who listens.
            producer.poll(0)
            if error.args[0].txn_requires_abort():
                with suppress(self._client.kafka.KafkaException):
                    producer.abort_transaction(self._client.seconds)
            raise
        self.number = last.number

    def close(self) -> None:
        """Give up what is not delivered. An open transaction is ended by who takes the lane next."""
        self._producer.purge()

    def _place(self, *offset: int | str) -> Any:
        return self._client.kafka.TopicPartition(self._topic, 0, *offset)


def _noted(message: Outgoing) -> str:
    return f"{message.id} {message.occurred_at.timestamp()}"
