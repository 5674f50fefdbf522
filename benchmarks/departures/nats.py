"""NATS JetStream, and nats-py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import nats

from benchmarks.departures.departure import PLACE, Departure, age
from sqla_pubsub.outlets import JetStream
from tests.outlets.engines.nats import PROGRAM, Nats


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
        await asyncio.gather(*[await self._stream.publish_async(PLACE, body) for body in bodies])

    def close(self) -> None:
        """Give up the connection."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


def _delays(engine: Nats, number: int, seconds: float) -> list[float]:
    found: list[float] = []

    async def read() -> None:
        async with await nats.connect(engine.url) as client:
            reader = await client.jetstream().subscribe(PLACE, ordered_consumer=True)
            while len(found) < number:
                message = await reader.next_msg(timeout=seconds)
                found.append(age(json.loads(message.data)["time"]))

    # nats-py's own error is one of these.
    with suppress(TimeoutError):
        asyncio.run(asyncio.wait_for(read(), seconds))
    return found


DEPARTURE = Departure(
    title="NATS JetStream",
    missing=None if PROGRAM else "nats-server is not installed",
    engine=Nats,
    outlet=JetStream(PLACE),
    publisher=NatsPublisher,
    delays=_delays,
    rate=30_000,
)
