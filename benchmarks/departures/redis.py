"""A stream of Redis, and redis-py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import redis

from benchmarks.departures.departure import PLACE, Departure, age
from sqla_pubsub.outlets import RedisStream
from tests.outlets.engines.redis import PROGRAM, RedisEngine


class RedisPublisher:
    """redis-py: a thousand commands in one pipeline, with the parser in C."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        with self._client.pipeline(transaction=False) as pipeline:
            for body in bodies:
                pipeline.xadd(PLACE, {"data": body})
            pipeline.execute()

    def close(self) -> None:
        """Give up the connection."""
        self._client.close()


def _delays(engine: RedisEngine, number: int, seconds: float) -> list[float]:
    until, found, last = time.monotonic() + seconds, list[float](), b"0"
    with redis.Redis.from_url(engine.url) as client:
        while len(found) < number and time.monotonic() < until:
            for _, entries in cast(Any, client.xread({PLACE: last}, block=1_000)):
                for last, entry in entries:  # noqa: B007
                    found.append(age(entry[b"time"].decode()))
    return found


DEPARTURE = Departure(
    title="a Redis stream",
    missing=None if PROGRAM else "redis-server is not installed",
    engine=lambda: RedisEngine(lanes=1),
    outlet=RedisStream(PLACE),
    publisher=RedisPublisher,
    delays=_delays,
)
