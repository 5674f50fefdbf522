"""A broker of Celery: a Redis which writes each task to its disk before it answers."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

from tests.outlets.engines import Arrived
from tests.outlets.engines.redis import PROGRAM, RedisEngine

__all__ = ["PROGRAM", "CeleryEngine"]


class CeleryEngine(RedisEngine):
    """One ``redis-server``; what has arrived there are the tasks that no worker has taken."""

    exactly_once = False

    @property
    def outlet(self) -> str:
        """As Python writes it."""
        return 'CeleryTask("tests.outlets.celery_app.write_down", format="structured")'

    @property
    def port(self) -> int:
        """Of the server."""
        return self._port

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._process is not None
        return self._process.pid

    def prepare(self) -> None:
        """Begin with no tasks: a queue is made by its first one."""
        self.client.delete("celery")

    def read(self) -> list[Arrived]:
        """Return the tasks, first sent first."""
        return [_arrived(task) for task in self.tasks()]

    def tasks(self, queue: str = "celery") -> list[dict[str, Any]]:
        """Return the messages of a queue, with their bodies decoded."""
        messages = [json.loads(each) for each in reversed(self.client.lrange(queue, 0, -1))]
        return [message | {"body": json.loads(b64decode(message["body"]))} for message in messages]


def _arrived(task: dict[str, Any]) -> Arrived:
    event = task["body"][1]["event"]
    return Arrived(
        id=int(task["headers"]["id"].rpartition("_")[2]),
        key=event.get("subject"),
        data=json.dumps(event["data"]).encode(),
    )
