"""Clients of Kafka for an outlet: how they are made, what is said about the topic, and errors in our words.

The client library writes what it finds to standard error, every few seconds while a broker is away. Here it goes to
the log at the level DEBUG; what matters of it is in the error that the outlet raises.

Source: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletSettings, OutletUnavailable
from sqla_pubsub.outlets.optional import imported

OPTIONS: dict[str, type | tuple[type, ...]] = {"client": dict, "prefix": str, "timeout": (int, float)}
_TIMEOUT = 10.0
logger = logging.getLogger(__name__)
# What the outlet itself sets, because its promises rest on it.
_OURS = {
    "acks",
    "bootstrap.servers",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "group.id",
    "isolation.level",
    "message.timeout.ms",
    "request.required.acks",
    "transaction.timeout.ms",
    "transactional.id",
}
# Who is refused so is refused the next time too.
_FOR_GOOD = {
    "CLUSTER_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "INVALID_TRANSACTION_TIMEOUT",
    "SASL_AUTHENTICATION_FAILED",
    "TOPIC_AUTHORIZATION_FAILED",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
    "UNSUPPORTED_SASL_MECHANISM",
    "UNSUPPORTED_VERSION",
    "_AUTHENTICATION",
    "_UNSUPPORTED_FEATURE",
}
_TAKEN = {"INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED", "_FENCED"}
# The client's own limit, where the topic does not say its.
_LARGEST = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What Kafka says about a topic.

    Attributes:
        largest: How many bytes a message may have.
        keyed: Whether each message needs a key, because only the last of each is kept.
        weak: Sentences about what is weaker than it should be.
    """

    largest: int
    keyed: bool
    weak: list[str]


class KafkaClient:
    """Makes producers and consumers, all with the same settings.

    Args:
        settings: Where Kafka is.

    Raises:
        ConfigurationError: The client library is missing, or a setting cannot be.
    """

    def __init__(self, settings: OutletSettings) -> None:
        settings.check(OPTIONS)
        self._place = f"[tool.sqla-pubsub.outlets.{settings.name}]"
        self.kafka = imported("confluent_kafka", "kafka")
        self._admin = imported("confluent_kafka.admin", "kafka")
        self.seconds = float(settings.options.get("timeout", _TIMEOUT))
        self.prefix = str(settings.options.get("prefix", "sqla-pubsub"))
        self._client = self._checked(settings.options.get("client", {}))
        self._settings = {"client.id": "sqla-pubsub", **self._address(settings.url), **self._client}
        self._heard = ""
        self._try_out()

    def producer(self, settings: Mapping[str, Any]) -> Any:
        """Return a producer with these settings besides."""
        # As Java's clients do it, so that their events of the same key are in the same partition.
        return self.kafka.Producer({"partitioner": "murmur2_random", **self._made(), **settings})

    def consumer(self, group: str) -> Any:
        """Return a consumer that sees what is committed, and commits nothing by itself."""
        settings = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_committed"}
        return self.kafka.Consumer({**self._made(), **settings})

    def topic(self, name: str) -> Topic:
        """Ask about a topic, without making it.

        Raises:
            ConfigurationError: There is no such topic.
        """
        with self.understood():
            admin = self._admin.AdminClient(self._made())
            try:
                copies = self._copies(admin, name)
                said = self._configuration(admin, name)
            finally:
                # Only now it tells what it heard.
                admin.poll(0)
        largest = int(said.get("max.message.bytes") or self._client.get("message.max.bytes") or _LARGEST)
        return Topic(
            # What the one lets pass, the other refuses.
            largest=min(largest, int(self._client.get("message.max.bytes") or largest)),
            keyed="compact" in said.get("cleanup.policy", ""),
            weak=weaknesses(name, copies, said),
        )

    @contextmanager
    def understood(
        self, refused: type[ConfigurationError | OutletUnavailable] = ConfigurationError
    ) -> Iterator[None]:
        """Say in our words what the client library raises."""
        self._heard = ""
        try:
            yield
        except self.kafka.KafkaException as error:
            found = error.args[0]
            if found.name() in _TAKEN:
                raise OutletUnavailable("another worker has taken the lane in Kafka") from error
            if found.name() in _FOR_GOOD or "_AUTHENTICATION" in self._heard:
                raise refused(
                    f"Kafka refuses this user or this setting: {self._heard or found.str()}"
                ) from error
            raise OutletUnavailable(
                f"Kafka is away or takes nothing: {found.str()}{'; ' if self._heard else ''}{self._heard}"
            ) from error
        except NotInTime as error:
            raise OutletUnavailable(f"Kafka does not answer within {self.seconds:g} s") from error

    def log(self, level: int, form: str, *values: object) -> None:
        """Take what the client library would write to standard error."""
        logger.debug("kafka.said", extra={"said": form % values, "severity": level})

    def _copies(self, admin: Any, name: str) -> int:
        topics = self.kafka.TopicCollection([name])
        [asked] = admin.describe_topics(topics, request_timeout=self.seconds).values()
        try:
            return min(len(partition.replicas) for partition in asked.result(self.seconds + 1).partitions)
        except self.kafka.KafkaException as error:
            if error.args[0].name() != "UNKNOWN_TOPIC_OR_PART":
                raise
            raise ConfigurationError(
                f"Kafka has no topic {name!r}. Create it: kafka-topics.sh --create --topic {name} --partitions 12 "
                "--replication-factor 3 --config min.insync.replicas=2"
            ) from error

    def _configuration(self, admin: Any, name: str) -> dict[str, str]:
        """Return the settings of a topic, or nothing where they may not be read."""
        resource = self._admin.ConfigResource(self._admin.ConfigResource.Type.TOPIC, name)
        [asked] = admin.describe_configs([resource], request_timeout=self.seconds).values()
        try:
            return {key: entry.value for key, entry in asked.result(self.seconds + 1).items()}
        except self.kafka.KafkaException as error:
            if error.args[0].name() != "TOPIC_AUTHORIZATION_FAILED":
                raise
            return {}

    def _made(self) -> dict[str, Any]:
        return {**self._settings, "logger": self, "error_cb": self._hear}

    def _hear(self, error: Any) -> None:
        self._heard = f"{error.name()} {error.str()}"

    def _address(self, url: str) -> dict[str, str]:
        scheme, found, rest = url.rpartition("://")
        user, _, hosts = rest.rstrip("/").rpartition("@")
        if not hosts or (scheme if found else "kafka") not in ("kafka", "kafka+ssl"):
            raise ConfigurationError(
                f"url of {self._place} is no address of Kafka. Give one such as kafka://one:9092,two:9092, "
                "kafka+ssl://... for TLS, with user:password@ before the hosts where that is needed."
            )
        secure = "SSL" if scheme == "kafka+ssl" else "PLAINTEXT"
        if not user:
            return {"bootstrap.servers": hosts, "security.protocol": secure}
        name, _, password = user.partition(":")
        return {
            "bootstrap.servers": hosts,
            "security.protocol": f"SASL_{secure}",
            "sasl.mechanism": "PLAIN",
            "sasl.username": unquote(name),
            "sasl.password": unquote(password),
        }

    def _checked(self, client: Mapping[str, Any]) -> Mapping[str, str]:
        for name, value in client.items():
            if name in _OURS:
                raise ConfigurationError(
                    f"{name!r} of client in {self._place} is set by the outlet. Leave it out."
                )
            if not isinstance(value, str):
                raise ConfigurationError(
                    f"{name!r} of client in {self._place} is a {type(value).__name__}. Write it as a text in quotes."
                )
        if client.get("partitioner") == "random":
            raise ConfigurationError(
                f"partitioner of client in {self._place}: events of one row have to be in one partition. "
                "Give murmur2_random, consistent_random or fnv1a_random."
            )
        return client

    def _try_out(self) -> None:
        """Make a producer that connects nowhere: a setting that cannot be is said before anything runs."""
        settings = {name: value for name, value in self._settings.items() if name != "bootstrap.servers"}
        try:
            self.kafka.Producer({**settings, "logger": self})
        except self.kafka.KafkaException as error:
            raise ConfigurationError(f"client in {self._place}: {error.args[0].str()}") from error


def weaknesses(name: str, copies: int, said: Mapping[str, str]) -> list[str]:
    """Return sentences about what is weaker than it should be.

    Args:
        name: Of the topic.
        copies: How many replicas the partition with the fewest has.
        said: Settings of the topic, as far as they are known.
    """
    found = []
    if copies == 1:
        found.append(
            f"topic {name!r} has one copy of each partition: it is lost with its broker. Give it 3 replicas and "
            "min.insync.replicas=2."
        )
    elif said.get("min.insync.replicas") == "1":
        found.append(
            f"Kafka confirms events of topic {name!r} when one replica has them (min.insync.replicas=1): they are lost "
            "with it. Set 2, with 3 replicas."
        )
    if said.get("unclean.leader.election.enable") == "true":
        found.append(
            f"topic {name!r} may be led by a replica that lacks what was confirmed. "
            "Set unclean.leader.election.enable=false."
        )
    if not said:
        found.append(f"Kafka does not say how topic {name!r} is set: whether it is durable is not known")
    return found
