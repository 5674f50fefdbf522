"""Metrics for Prometheus: what listeners did, and what waits in the database.

``sqla-pubsub listen --metrics-port`` serves them. Who runs a listener inside of an application has a registry of his
own::

    metrics = collector(engine, Base.metadata)
    REGISTRY.register(metrics)
    Listener(engine, Base.metadata, observers=[metrics])

Needs the extra ``prometheus``.

.. versionadded:: 0.3.0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy import Engine, MetaData

from sqla_pubsub import __version__
from sqla_pubsub.contrib.database_gauges import DatabaseGauges, Found
from sqla_pubsub.deliver.happenings import Happening
from sqla_pubsub.operate.tally import Tally
from sqla_pubsub.operate.totals import BOUNDS, Histogram, ListenerTotals, Totals
from sqla_pubsub.registry import registry_of

__all__ = ["CONTENT_TYPE_LATEST", "DatabaseGauges", "Metrics", "ProcessFigures", "collector", "exposition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFigures:
    """What a supervisor knows of its workers at this moment.

    Attributes:
        workers: How many there are, by state: ``connected``, ``waiting`` or ``dead``.
        running: How many handlers run, by listener.
        slots: How many could, by listener.
        deaths: How many workers have died so far.
        up: Whether events are handled.
    """

    workers: Mapping[str, int] = field(default_factory=dict)
    running: Mapping[str, int] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)
    deaths: int = 0
    up: bool = True


class Metrics(Collector):
    """Collects the metrics of some listeners; an observer of theirs too, where it has a tally.

    Args:
        totals: What the listeners did.
        gauges: What waits in the database.
        figures: What the supervisor knows; None where there is none.
        tally: Counts what it is told as an observer.
    """

    def __init__(
        self,
        totals: Callable[[], Totals],
        gauges: DatabaseGauges,
        figures: Callable[[], ProcessFigures] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._totals = totals
        self._gauges = gauges
        self._figures = figures
        self._tally = tally

    def __call__(self, happening: Happening) -> None:
        """Count what happened."""
        if self._tally is not None:
            self._tally(happening)

    def describe(self) -> Iterator[Metric]:
        """Return nothing: a registry need not ask the database to know that names are free."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the metrics; what the database does not tell in time is left out."""
        yield InfoMetricFamily("sqla_pubsub_build", "The release.", value={"version": __version__})
        totals = self._totals()
        yield from _of_listeners(totals.listeners)
        yield from _of_delivery(totals)
        if self._figures is not None:
            yield from _of_processes(self._figures())
        found = self._gauges.found()
        yield _counter("scrape_errors", "Scrapes without figures of the database.", self._gauges.errors)
        if found is not None:
            yield from _of_database(found)


def collector(engine: Engine, metadata: MetaData) -> Metrics:
    """Return what to register, and to give to a `Listener` or an `AsyncListener` as an observer.

    Args:
        engine: An engine that works without an event loop, for the figures of the database.
        metadata: That of the listeners. Import their modules first.
    """
    tally = Tally(tuple(registry_of(metadata).listeners))
    return Metrics(tally.totals, DatabaseGauges(engine, metadata), tally=tally)


def exposition(metrics: Metrics) -> Callable[[], bytes]:
    """Return what makes the page that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return lambda: generate_latest(registry)


def _of_listeners(listeners: Mapping[str, ListenerTotals]) -> Iterator[Metric]:
    settled = CounterMetricFamily(
        "sqla_pubsub_events_settled",
        "Events settled, counted after the commit.",
        labels=["listener", "outcome"],
    )
    failures = CounterMetricFamily(
        "sqla_pubsub_handler_failures", "Tries of handlers that failed.", labels=["listener", "error_type"]
    )
    timeouts = CounterMetricFamily(
        "sqla_pubsub_handler_timeouts", "Handlers that outran their timeout.", labels=["listener"]
    )
    durations = HistogramMetricFamily(
        "sqla_pubsub_handler_duration_seconds", "Duration of the calls of a handler.", labels=["listener"]
    )
    latencies = HistogramMetricFamily(
        "sqla_pubsub_delivery_latency_seconds",
        "From when an event occurred to the commit of its handling, by the database's clock; first attempts.",
        labels=["listener"],
    )
    for name, did in listeners.items():
        for outcome in ("acknowledged", "retried", "dead"):
            settled.add_metric([name, outcome], getattr(did, outcome))
        for kind, number in did.failures.items():
            failures.add_metric([name, kind], number)
        timeouts.add_metric([name], did.timeouts)
        durations.add_metric([name], _buckets(did.durations), did.durations.total)
        latencies.add_metric([name], _buckets(did.latencies), did.latencies.total)
    yield from (settled, failures, timeouts, durations, latencies)


def _of_delivery(totals: Totals) -> Iterator[Metric]:
    yield _by("groups_replayed", "Groups undone and replayed.", "reason", totals.replays)
    yield _by("connection_losses", "Connections that broke.", "role", totals.losses)
    yield _by("wakeups", "Sleeps that ended.", "reason", totals.wakeups)


def _of_processes(figures: ProcessFigures) -> Iterator[Metric]:
    yield _counter("worker_deaths", "Worker processes that died.", figures.deaths)
    yield _gauges("workers", "Worker processes.", "state", figures.workers)
    yield _gauges("handlers_running", "Handlers that run.", "listener", figures.running)
    yield _gauges("slots", "Handlers that could run at once.", "listener", figures.slots)
    yield GaugeMetricFamily("sqla_pubsub_up", "Whether events are handled.", value=float(figures.up))


def _of_database(found: Found) -> Iterator[Metric]:
    backlog = GaugeMetricFamily(
        "sqla_pubsub_backlog_events",
        f"Entries that wait, {found.most} at most.",
        labels=["listener", "state"],
    )
    oldest = GaugeMetricFamily(
        "sqla_pubsub_oldest_ready_age_seconds", "Age of the first ready entry.", labels=["listener"]
    )
    letters = GaugeMetricFamily(
        "sqla_pubsub_dead_letters", f"Dead letters, {found.most} at most.", labels=["listener"]
    )
    for row in found.listeners:
        backlog.add_metric([row.listener, "ready"], row.ready)
        backlog.add_metric([row.listener, "retrying"], row.waiting)
        oldest.add_metric([row.listener], 0.0 if row.oldest is None else row.oldest.total_seconds())
        letters.add_metric([row.listener], row.dead)
    yield from (backlog, oldest, letters)
    yield _gauge("outbox_bytes", "Size of the outbox with its indexes.", found.system.outbox.bytes)
    yield _gauge(
        "outbox_dead_rows", "Rows of the outbox that vacuum has to remove.", found.system.outbox.dead
    )
    yield _gauge("xmin_age_seconds", "Age of the oldest transaction that keeps vacuum away.", found.xmin_age)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return how many were as long as each bound or shorter."""
    reached, buckets = 0, list[tuple[str, float]]()
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
        reached += number
        buckets.append((bound, reached))
    return buckets


def _by(name: str, words: str, label: str, numbers: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"sqla_pubsub_{name}", words, labels=[label])
    for value, number in numbers.items():
        family.add_metric([value], number)
    return family


def _gauges(name: str, words: str, label: str, numbers: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(f"sqla_pubsub_{name}", words, labels=[label])
    for value, number in numbers.items():
        family.add_metric([value], number)
    return family


def _counter(name: str, words: str, number: int) -> Metric:
    return CounterMetricFamily(f"sqla_pubsub_{name}", words, value=number)


def _gauge(name: str, words: str, number: float) -> Metric:
    return GaugeMetricFamily(f"sqla_pubsub_{name}", words, value=number)
