"""One workload of one system, in a database where the system is installed."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import handled
from benchmarks.harness.accounting import Cpu, Tally, cpu, spread, tally, wanted
from benchmarks.harness.adapter import PeerBase
from benchmarks.harness.context import Context
from benchmarks.harness.processes import Call, Processes, RunError
from benchmarks.harness.redis import Redis
from benchmarks.harness.servers import Postgres
from benchmarks.harness.waiting import comes_true, pause
from benchmarks.workloads import Workload

STALL = 40.0
"""Seconds without an event handled after which the rest is not waited for."""
_SETTLING = 60.0
_STARTING = 60.0
_LSN = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
_INSERT = "insert into {table} (article_id, author, content) values (1, 'bob', repeat('x', 200));\n"
_WRITING_SECONDS, _WRITING_TURNS, _WRITERS = 5, 3, 32

Figures = dict[str, Any]


class Measurement:
    """Takes the figures of one run.

    Args:
        peer: The system.
        context: The run.
        server: Where its database is.
        redis: The broker, where the system needs one.
        processes: Starts what is needed, in the system's environment.
        programs: Folder of the interpreter and programs of the system's environment.
        rows: How many rows are inserted.
        rate: Rows a second, for the workload that keeps one.
        seconds: How long what is measured may take.
    """

    def __init__(
        self,
        *,
        peer: PeerBase,
        context: Context,
        server: Postgres,
        redis: Redis | None,
        processes: Processes,
        programs: Path,
        rows: int,
        rate: float,
        seconds: float,
    ) -> None:
        self._peer, self._context = peer, context
        self._server, self._redis = server, redis
        self._processes, self._programs = processes, programs
        self._rows, self._rate, self._seconds = rows, rate, seconds
        self._workload: Workload = context.workload
        self._started: Cpu | None = None
        self._marks: tuple[int, int] = (0, 0)

    def take(self) -> Figures:
        """Do the work, and return what it took.

        Raises:
            RunError: It cannot be finished.
        """
        match self._workload.kind:
            case "single" | "bulk" as kind:
                return self._ask(f"produce_{kind}", rows=self._rows)
            case "drain":
                return self._drain()
            case "live":
                return self._live(producers=2)
            case "latency":
                return self._live(producers=1, rate=self._rate)
            case "burst":
                return self._live(producers=1, command="produce_burst")
            case "writers":
                return self._writers()

    def _drain(self) -> Figures:
        comments = self._ask("backlog", rows=self._rows)["ids"]
        deliveries = wanted(comments, self._workload.listeners)
        # What autovacuum gives to any live system, given to all alike.
        self._sql("VACUUM ANALYZE")
        self._sql("CHECKPOINT")
        self._marks = self._read_marks()
        began = time.time()
        self._start()
        done = self._wait_handled(len(deliveries), deliveries)
        settled, left = self._settle(_SETTLING if done else 1.0)
        counted, spent = self._stop(deliveries)
        figures: Figures = {"complete": done, "pending_after": left, **counted.figures(), **spent}
        if len(counted.times) > 1:
            first, last, events = counted.times[0], counted.times[-1], len(counted.times) - 1
            figures |= {
                "events_per_s": events / max(last - first, 1e-6), "handling_s": last - first, "startup_s": first - began,
            }  # fmt: skip
            if settled is not None:
                figures["settled_events_per_s"] = events / max(max(settled, last) - first, 1e-6)
        if self._workload.writes:
            rows, different = self._sql("SELECT count(*), count(DISTINCT (comment_id, note)) FROM result")
            figures |= {"db_duplicates": rows - different, "db_lost": len(deliveries) - different}
        return figures

    def _live(self, *, producers: int, rate: float | None = None, command: str = "produce_live") -> Figures:
        self._sql("CHECKPOINT")
        self._start()
        warm = self._warm_up()
        produced = self._produce(producers, rate, command)
        comments = [each for one in produced for each in one["ids"]]
        began = min(one["began"][0] for one in produced)
        committed = max(one["committed"][-1] for one in produced)
        copies = self._context.processes if self._peer.broadcast else 1
        done = self._wait_handled(warm + len(comments) * copies, wanted(comments, 1), copies=copies)
        _, left = self._settle(_SETTLING if done else 1.0)
        counted, spent = self._stop(wanted(comments, 1))
        figures: Figures = {
            "complete": done, "pending_after": left, **counted.figures(broadcast_to=copies), **spent,
            "produce_rows_per_s": len(comments) / (committed - began),
        }  # fmt: skip
        if counted.times:
            last = counted.times[-1]
            figures |= {
                "wall_s": last - began, "events_per_s": len(counted.first_times) / (last - began),
                "lag_after_last_commit_s": last - committed,
            }  # fmt: skip
        times = counted.first_times
        for name, since in (("lat", "committed"), ("insert_to_handler", "began")):
            delays = [
                times[comment] - at
                for one in produced
                for comment, at in zip(one["ids"], one[since], strict=True)
                if comment in times
            ]
            figures |= spread(name, delays)
        return figures

    def _produce(self, producers: int, rate: float | None, command: str) -> list[Figures]:
        """Let producers begin together; return what each did."""
        folder = Path(self._context.folder)
        go, calls = folder / "go", list[Call]()
        ready = [folder / f"ready{number}" for number in range(producers)]
        for number, signal in enumerate(ready):
            share = self._rows // producers + (number < self._rows % producers)
            arguments = {
                "rows": share, "start": number * self._rows, "rate": rate, "go": str(go), "ready": str(signal),
            }  # fmt: skip
            calls.append(self._processes.call(command, arguments, tag=f"producer{number}"))

        def begun() -> bool:
            return all(signal.exists() for signal in ready) or any(call.process.poll() for call in calls)

        comes_true(begun, _STARTING)
        if not all(signal.exists() for signal in ready):
            raise RunError(f"producers are not ready\n{self._processes.said('producer0')}")
        self._marks, self._started = self._read_marks(), self._cpu()
        go.touch()
        return [self._processes.answer(call, 3 * self._seconds) for call in calls]

    def _writers(self) -> Figures:
        """Let pgbench write, on the tracked and on the untracked table in turn."""
        pgbench = self._server.binaries / "pgbench"
        if not pgbench.exists():
            return {"skipped": f"no pgbench in {self._server.binaries}"}
        self._sql("CHECKPOINT")
        self._start()
        self._warm_up()
        rates: dict[str, list[float]] = {"comment_base": [], "comment": []}
        for turn in range(_WRITING_TURNS):
            for table in sorted(rates, reverse=bool(turn % 2)):
                rates[table].append(self._write(pgbench, table))
        began = time.time()
        settled, left = self._settle(self._seconds)
        self._processes.stop_consumers()
        without, with_it = median(rates["comment_base"]), median(rates["comment"])
        return {
            "commits_per_s": with_it, "base_commits_per_s": without, "writers_ratio": with_it / without,
            "pending_after": left, "settled_after_s": (settled or time.time()) - began, "complete": not left,
        }  # fmt: skip

    def _write(self, pgbench: Path, table: str) -> float:
        script = Path(self._context.folder, f"{table}.sql")
        script.write_text(_INSERT.format(table=table), encoding="utf-8")
        place = ["-h", self._server.host, "-p", str(self._server.port), "-U", self._server.user]
        how = ["-n", "-f", str(script), "-c", str(_WRITERS), "-j", "1", "-M", "prepared"]
        command = [str(pgbench), *place, *how, "-T", str(_WRITING_SECONDS), self._context.database]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        if found is None:
            raise RunError(f"pgbench said: {done.stderr[-500:]}")
        return float(found[1])

    def _start(self) -> None:
        self._processes.start_consumers(self._peer.consumers(self._context, self._programs))

    def _stop(self, deliveries: frozenset[int]) -> tuple[Tally, Figures]:
        """Return what was handled, and what each event cost."""
        now = self._cpu()
        self._processes.stop_consumers()
        written, transactions = self._read_marks()
        counted = tally(handled.read(self._context.handled_folder), deliveries)
        events = max(len(counted.first_times), 1)
        return counted, {
            "wal_bytes_per_event": (written - self._marks[0]) / events,
            "commits_per_event": (transactions - self._marks[1]) / events,
            **now.per_event_since(self._started),
        }

    def _warm_up(self) -> int:
        """Wait until all processes handle events; return how many probes were handled."""
        if not self._ask("warmup", seconds=_STARTING)["ok"]:
            raise RunError(f"consumers are not ready\n{self._processes.said('consumer0')}")
        return handled.total(self._context.handled_folder)

    def _wait_handled(self, expected: int, deliveries: frozenset[int], *, copies: int = 1) -> bool:
        """Wait until all is handled; return whether it was, before time ran out or nothing came any more."""
        deadline = time.monotonic() + self._seconds
        folder, last, changed = self._context.handled_folder, -1, time.monotonic()
        while True:
            total, now = handled.total(folder), time.monotonic()
            if total and self._started is None:
                self._started = self._cpu()  # What starting takes is behind us.
            if total >= expected:
                counted = tally(handled.read(folder), deliveries)
                if counted.complete and len(counted.times) >= len(deliveries) * copies:
                    return True
            if total != last:
                last, changed = total, now
            if now > deadline or now - changed > STALL:
                return False
            self._processes.check_consumers()
            pause(0.02 if total < expected else 0.2)

    def _settle(self, seconds: float) -> tuple[float | None, int | None]:
        """Wait until nothing is left to acknowledge; return when that was, and what is left."""
        connection = self._server.connect(self._context.database)
        deadline = time.monotonic() + seconds
        try:
            with connection.cursor() as cursor:
                while (left := self._peer.pending(self._context, cursor)) and time.monotonic() < deadline:
                    pause(0.02)
        finally:
            connection.close()
        return (time.time() if left == 0 else None), left

    def _ask(self, command: str, **arguments: Any) -> Figures:
        return self._processes.answer(self._processes.call(command, arguments), 3 * self._seconds)

    def _sql(self, query: str) -> Any:
        return self._server.one(query, self._context.database)

    def _read_marks(self) -> tuple[int, int]:
        """Return how much was written ahead, and how many transactions committed."""
        (lsn,) = self._sql(_LSN)
        (commits,) = self._server.one(
            f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{self._context.database}'"
        )
        return int(lsn), int(commits)

    def _cpu(self) -> Cpu:
        return cpu(
            self._context.handled_folder,
            sessions={process.pid for process in self._processes.consumers},
            postmaster=self._server.pid,
            broker=None if self._redis is None else self._redis.pid,
        )
