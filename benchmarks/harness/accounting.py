"""What a run cost and what it did: processor time, records of handlers, quantiles."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.harness import handled
from benchmarks.harness.handled import Handled, delivery

_TICKS = os.sysconf("SC_CLK_TCK")
_ENOUGH = 100
"""Fewer values have no 99th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """Processor seconds so far, and how many events were handled then."""

    client: float
    server: float
    broker: float
    handled: int

    def per_event_since(self, before: Cpu | None) -> dict[str, float]:
        """Return microseconds per event."""
        if before is None or self.handled <= before.handled:
            return {}
        events = self.handled - before.handled
        return {
            "client_cpu_us_per_event": (self.client - before.client) / events * 1e6,
            "server_cpu_us_per_event": (self.server - before.server) / events * 1e6,
            "broker_cpu_us_per_event": (self.broker - before.broker) / events * 1e6,
        }


def cpu(folder: Path, *, sessions: Collection[int], postmaster: int, broker: int | None) -> Cpu:
    """Add up the processes of consumers, by their sessions, and all of the server's."""
    client = server = redis = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # It has ended meanwhile.
        pid, parent, session = int(path.parent.name), int(fields[1]), int(fields[3])
        own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        if pid == postmaster:
            server += own + reaped
        elif parent == postmaster:
            server += own
        elif pid == broker:
            redis += own
        elif session in sessions:
            client += own + reaped
    return Cpu(
        client=client / _TICKS, server=server / _TICKS, broker=redis / _TICKS, handled=handled.total(folder)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of some comments' events.

    Args:
        wanted: The deliveries that were to be.
        first_times: When each was handled first, by its number.
        times: All times, in order.
        per_process: How many each process handled, the most first.
    """

    wanted: frozenset[int]
    first_times: dict[int, float]
    times: tuple[float, ...]
    per_process: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether each was handled."""
        return len(self.first_times) >= len(self.wanted)

    def figures(self, *, broadcast_to: int = 1) -> dict[str, Any]:
        """Return what was expected and what was done."""
        expected_repeats = len(self.first_times) * (broadcast_to - 1)
        return {
            "expected": len(self.wanted),
            "handled": len(self.times),
            "duplicates": len(self.times) - len(self.first_times) - expected_repeats,
            "lost": len(self.wanted) - len(self.first_times),
            "per_process": self.per_process,
        }


def wanted(comment_ids: Sequence[int], listeners: int) -> frozenset[int]:
    """Return the deliveries that comments lead to."""
    return frozenset(delivery(each, listener) for each in comment_ids for listener in range(listeners))


def tally(records: Sequence[Handled], wanted: frozenset[int]) -> Tally:
    """Count the records of these deliveries."""
    ours = sorted((record for record in records if record.delivery in wanted), key=lambda record: record.at)
    first_times: dict[int, float] = {}
    for record in ours:
        first_times.setdefault(record.delivery, record.at)
    processes = Counter(record.process for record in ours)
    return Tally(
        wanted=wanted,
        first_times=first_times,
        times=tuple(record.at for record in ours),
        per_process=tuple(sorted(processes.values(), reverse=True)),
    )


def spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return quantiles in milliseconds."""
    if len(seconds) <= _ENOUGH:
        return {}
    cuts = quantiles([1000 * each for each in seconds], n=1000, method="inclusive")
    return {
        f"{name}_p50_ms": cuts[499], f"{name}_p95_ms": cuts[949], f"{name}_p99_ms": cuts[989],
        f"{name}_max_ms": 1000 * max(seconds),
    }  # fmt: skip
