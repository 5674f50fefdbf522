"""One run: a new database, the system in it, the measurement, and everything gone again."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import schema
from benchmarks.harness.adapter import PeerBase
from benchmarks.harness.context import VARIABLE, Context
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.processes import Processes, RunError
from benchmarks.harness.redis import Redis
from benchmarks.harness.servers import Postgres
from benchmarks.workloads import Workload

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How runs are made.

    Args:
        rows: Rows of each run; None takes the workload's or the adapter's.
        scale: Factor of those.
        processes: How many processes handle.
        rate: Rows a second of ``latency``.
        duration: Seconds of it.
        seconds: How long what is measured may take.
        keep: Whether folders with logs are kept.
        options: Settings of adapters.
    """

    rows: int | None = None
    scale: float = 1.0
    processes: int = 2
    rate: float = 100.0
    duration: float = 20.0
    seconds: float = 180.0
    keep: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def rows_of(self, peer: PeerBase, workload: Workload) -> int:
        """Return how many rows a run inserts."""
        if workload.kind == "latency":
            return int(self.rate * self.duration)
        return self.rows or max(1, int(peer.rows.get(workload.name, workload.rows) * self.scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs workloads of one system."""

    peer: PeerBase
    programs: Path
    server: Postgres
    redis: Redis | None
    plan: Plan

    def run(self, workload: Workload) -> dict[str, Any]:
        """Run one workload; return its figures, or why there are none."""
        processes = 1 if workload.kind == "latency" or self.peer.broadcast else self.plan.processes
        rows = self.plan.rows_of(self.peer, workload)
        known: dict[str, Any] = {
            "peer": self.peer.name, "workload": workload.name, "n": rows, "processes": processes,
            "opts": dict(self.plan.options),
        }  # fmt: skip
        if reason := self.peer.lacks(workload):
            return known | {"skipped": reason}
        context = self._context(workload.name, processes)
        before, began = os.getloadavg()[0], time.monotonic()
        figures = self._in_database(context, rows)
        figures |= {"run_s": time.monotonic() - began, "load1_before": before}
        if self.plan.keep or "error" in figures or not figures.get("complete", True):
            figures["kept"] = context.folder
        else:
            shutil.rmtree(context.folder, ignore_errors=True)
        rounded = {
            key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()
        }
        return known | rounded

    def versions(self) -> dict[str, str]:
        """Return those of the system's packages."""
        context = self._context("drain", 1)
        context.save()
        processes = self._processes(context)
        try:
            return processes.answer(processes.call("versions"), self.plan.seconds)
        finally:
            shutil.rmtree(context.folder, ignore_errors=True)

    def _in_database(self, context: Context, rows: int) -> dict[str, Any]:
        context.save()
        processes = self._processes(context)
        self.server.one(f"CREATE DATABASE {context.database} TEMPLATE template0")
        if self.redis is not None:
            self.redis.ask("FLUSHALL")
        try:
            self.server.one(schema.SQL, context.database)
            processes.answer(processes.call("setup"), self.plan.seconds)
            self.server.one("CHECKPOINT", context.database)
            measurement = Measurement(
                peer=self.peer, context=context, server=self.server, redis=self.redis, processes=processes,
                programs=self.programs, rows=rows, rate=self.plan.rate, seconds=self.plan.seconds,
            )  # fmt: skip
            return measurement.take()
        except RunError as error:
            return {"error": str(error)}
        finally:
            processes.stop_consumers()
            self.server.one(f"DROP DATABASE IF EXISTS {context.database} WITH (FORCE)")

    def _context(self, workload: str, processes: int) -> Context:
        return Context(
            peer=self.peer.name, name=workload, folder=tempfile.mkdtemp(prefix="pubsub-run-"),
            host=self.server.host, port=self.server.port, user=self.server.user,
            database=f"run_{os.getpid()}_{next(_numbers)}",
            redis_port=self.redis.port if self.redis else 0, processes=processes, options=dict(self.plan.options),
        )  # fmt: skip

    def _processes(self, context: Context) -> Processes:
        path = os.pathsep.join(map(str, self.peer.python_path()))
        environment = {VARIABLE: str(context.path), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return Processes(Path(context.folder), environment, self.programs)
