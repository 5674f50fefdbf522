"""What listeners did, as values: of one process, or the sum of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqla_pubsub.operate.history import Counts

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of a histogram, in seconds; one without a bound follows."""
BUCKETS = len(BOUNDS) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often a duration fell into each bucket.

    Attributes:
        counts: One for each of `BOUNDS`, and one for what is longer.
        total: The sum of all, in seconds.
    """

    counts: tuple[int, ...] = (0,) * BUCKETS
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(map(sum, zip(self.counts, other.counts, strict=True)))
        return Histogram(counts=counts, total=self.total + other.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTotals:
    """What one listener did.

    Attributes:
        acknowledged: Events that were handled.
        retried: Tries that failed and are made again.
        dead: Events that became dead letters.
        timeouts: Handlers that outran their ``timeout=``.
        durations: Of the calls of its handler.
        latencies: From when an event occurred to the commit of what its handler did, of first attempts.
        failures: How many tries failed, by the class of the error.
    """

    acknowledged: int = 0
    retried: int = 0
    dead: int = 0
    timeouts: int = 0
    durations: Histogram = Histogram()
    latencies: Histogram = Histogram()
    failures: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: ListenerTotals) -> ListenerTotals:
        return ListenerTotals(
            acknowledged=self.acknowledged + other.acknowledged,
            retried=self.retried + other.retried,
            dead=self.dead + other.dead,
            timeouts=self.timeouts + other.timeouts,
            durations=self.durations + other.durations,
            latencies=self.latencies + other.latencies,
            failures=_added(self.failures, other.failures),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the listeners of one process or of several did.

    Attributes:
        listeners: By name.
        replays: Groups that were undone and replayed, by reason.
        losses: Connections that broke, by what they were for.
        wakeups: Sleeps that ended, by reason.
    """

    listeners: Mapping[str, ListenerTotals] = field(default_factory=dict)
    replays: Mapping[str, int] = field(default_factory=dict)
    losses: Mapping[str, int] = field(default_factory=dict)
    wakeups: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, Counts]:
        """What of it the history keeps, by listener."""
        return {
            name: Counts(
                handled=did.acknowledged,
                retried=did.retried,
                dead=did.dead,
                handler_seconds=did.durations.total,
                latency_seconds=did.latencies.total,
                first_attempts=did.latencies.count,
            )
            for name, did in self.listeners.items()
        }

    def __add__(self, other: Totals) -> Totals:
        names = dict.fromkeys((*self.listeners, *other.listeners))
        nothing = ListenerTotals()
        return Totals(
            listeners={
                name: self.listeners.get(name, nothing) + other.listeners.get(name, nothing) for name in names
            },
            replays=_added(self.replays, other.replays),
            losses=_added(self.losses, other.losses),
            wakeups=_added(self.wakeups, other.wakeups),
        )


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in dict.fromkeys((*one, *other))}
