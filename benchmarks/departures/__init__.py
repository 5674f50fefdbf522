"""The engines that events leave for: how each is started, what our outlet is, and how its client library publishes.

Another engine is another module with a `Departure`, and another entry of `ENGINES`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.departures import celery, kafka, nats, rabbit_queue, rabbit_stream, redis, webhook
from benchmarks.departures.departure import Departure

ENGINES: dict[str, Departure[Any]] = {
    each.DEPARTURE.outlet.settings_name: each.DEPARTURE
    for each in (kafka, nats, redis, rabbit_stream, rabbit_queue, celery, webhook)
}
"""By the name of the settings."""
