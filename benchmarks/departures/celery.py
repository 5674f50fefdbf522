"""Tasks of Celery with Redis as their broker, and Celery itself."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, cast

import redis
from celery import Celery

from benchmarks.departures.departure import AT_ONCE, Departure, age
from sqla_pubsub.outlets import CeleryTask
from tests.outlets.engines.celery import PROGRAM, CeleryEngine

_TASK = "tests.outlets.celery_app.write_down"


class CeleryPublisher:
    """Celery: ``send_task`` with one producer, a thousand in one batch of kombu, which Redis answers together."""

    def __init__(self, url: str) -> None:
        self._app = Celery("shop", broker=url, set_as_current=False)
        self._connection = self._app.connection_for_write()
        self._producer = self._app.amqp.Producer(self._connection)

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        with self._producer.batch(len(bodies)):
            for body in bodies:
                self._app.send_task(_TASK, args=[body.decode()], producer=self._producer, ignore_result=True)

    def close(self) -> None:
        """Give up the connection."""
        self._connection.release()
        self._app.close()


def _delays(engine: CeleryEngine, number: int, seconds: float) -> list[float]:
    """Read the tasks as they come to the broker, many at once.

    A worker takes them one by one. This Redis writes to its disk each time that one is taken, so a worker would have
    less than a thousand a second, however soon they are there.
    """
    until, found = time.monotonic() + seconds, list[float]()
    with redis.Redis.from_url(engine.url) as client:
        while len(found) < number and time.monotonic() < until:
            taken = cast(Any, client.blmpop(1, 1, "celery", direction="RIGHT", count=AT_ONCE))
            found += [_age(task) for task in (taken[1] if taken else ())]
    return found


def _age(task: bytes) -> float:
    _, arguments, _ = json.loads(b64decode(json.loads(task)["body"]))
    return age(arguments["event"]["time"])


DEPARTURE = Departure(
    title="Celery's broker (Redis)",
    missing=None if PROGRAM else "redis-server is not installed",
    engine=CeleryEngine,
    # An event as a whole, for its time is read.
    outlet=CeleryTask(_TASK, format="structured"),
    publisher=CeleryPublisher,
    delays=_delays,
)
