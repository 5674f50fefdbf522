"""What is told of an engine that events leave for, so that both ways into it are measured, ours and its client library's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from sqla_pubsub.outlet import Outlet
from tests.outlets.engines import Engine

PLACE = "shop.comments"
"""The topic, stream or queue, as the engines of the proofs make it."""
AT_ONCE = 1_000
"""Messages that the client library has under way."""
CONFIRMING = 60.0
"""Seconds that a confirmation may take."""

E = TypeVar("E", bound=Engine)


class Publisher(Protocol):
    """The client library of an engine, used as its documentation says that it is fast."""

    def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish, and await a confirmation of each."""

    def close(self) -> None:
        """Give up the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure(Generic[E]):
    """One engine.

    Args:
        title: As a reader knows it.
        missing: Why it cannot be measured here, None where it can.
        engine: Makes the server.
        outlet: Where our events go. The name of its settings is the key in `benchmarks.departures.ENGINES`.
        options: What stands in these settings besides the address.
        publisher: Connects the client library to an address.
        delays: Reads that many events that arrive from now on, as a consumer does, and returns how many seconds after it
            occurred each was there; fewer when so many seconds have passed.
        rate: Events per second that are the goal, None where there is none.
        share: Which part of the usual number of events is measured, less than all where each takes long.
        limit: What limits the rate here besides who sends, as the row says it; "" where that is the engine itself.
    """

    title: str
    missing: str | None
    engine: Callable[[], E]
    outlet: Outlet
    options: Mapping[str, Any] = field(default_factory=dict)
    publisher: Callable[[str], Publisher]
    delays: Callable[[E, int, float], list[float]]
    rate: int | None = None
    share: float = 1.0
    limit: str = ""


def age(occurred: str, now: float | None = None) -> float:
    """Return how many seconds ago, or before *now*, an event occurred, as the ``time`` of its CloudEvent says it."""
    return (time.time() if now is None else now) - datetime.fromisoformat(occurred).timestamp()
