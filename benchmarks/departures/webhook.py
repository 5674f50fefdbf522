"""Webhooks, and httpx."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import httpx

from benchmarks.departures.departure import CONFIRMING, Departure, age
from sqla_pubsub.outlets import Webhook
from tests.outlets.engines.webhook import WebhookEngine

_AT_ONCE = 10
"""Requests under way, as many as the outlet has: with more, httpx is slower, for it looks through all connections."""
_BETWEEN_LOOKS = 0.1


class WebhookPublisher:
    """httpx: one client whose connections are kept, and requests that are sent at the same time."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._url = url
        limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
        self._client = httpx.AsyncClient(limits=limits, timeout=CONFIRMING)

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""
        self._loop.run_until_complete(self._publish(bodies))

    async def _publish(self, bodies: Sequence[bytes]) -> None:
        left = iter(bodies)

        async def post() -> None:
            for body in left:
                answer = await self._client.post(
                    self._url, content=body, headers={"content-type": "application/json"}
                )
                answer.raise_for_status()

        await asyncio.gather(*[post() for _ in range(_AT_ONCE)])

    def close(self) -> None:
        """Give up the connections."""
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()


def _delays(engine: WebhookEngine, number: int, seconds: float) -> list[float]:
    until, parts, found = time.monotonic() + seconds, list[bytes](), 0
    with engine.file.open("rb") as file:
        while found < number and time.monotonic() < until:
            # No matter how late this looks: the endpoint writes down when each came.
            threading.Event().wait(_BETWEEN_LOOKS)
            parts.append(file.read())
            found += parts[-1].count(b"\n")
    return [_delay(json.loads(line)) for line in b"".join(parts).split(b"\n")[:-1]]


def _delay(request: dict[str, Any]) -> float:
    event = json.loads(b64decode(request["body"]))
    return age(event["time"], request["at"])


DEPARTURE = Departure(
    title="webhooks",
    missing=None,
    engine=WebhookEngine,
    outlet=Webhook(),
    options=WebhookEngine.options,
    publisher=WebhookPublisher,
    delays=_delays,
    share=0.1,
    limit="the endpoint is one process of uvicorn on the same processors",
)
