"""Listeners in processes of their own, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from benchmarks.harness.adapter import ROOT
from benchmarks.shop import address
from tests.waiting import wait_until

DEADLINE = 60.0
_ASLEEP = text(
    "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
    " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'"
)
_BACKENDS = text(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What a group of worker processes did together."""

    settled: int
    seconds: float
    peak_megabytes: float

    @property
    def rate(self) -> float:
        """Events per second, from the first worker's start of work to the last one's end."""
        return self.settled / self.seconds


def drain(
    engine: Engine, declared: Sequence[str], run: Sequence[str], *, workers: int = 1, watched: bool = False
) -> Drain:
    """Handle what waits, in *workers* processes at once, *watched* with metrics and history."""
    command = [
        sys.executable, "-m", "benchmarks.worker", address(engine), ",".join(declared), ",".join(run),
        *(["watched"] if watched else []),
    ]  # fmt: skip
    return gathered(command, workers=workers)


def gathered(command: Sequence[str], *, workers: int) -> Drain:
    """Run *command* in *workers* processes at once, each of which prints a `benchmarks.worker.Drained`."""
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    said: list[dict[str, Any]] = []
    for process in started:
        output, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"a worker ended with {process.returncode}")
        said.append(json.loads(output))
    return Drain(
        settled=sum(each["settled"] for each in said),
        seconds=max(each["ended"] for each in said) - min(each["began"] for each in said),
        peak_megabytes=max(each["peak_megabytes"] for each in said),
    )


@contextmanager
def listening(engine: Engine) -> Iterator[subprocess.Popen[bytes]]:
    """``sqla-pubsub listen`` with one worker, from the moment when it sleeps for want of work."""
    command = [sys.executable, "-m", "sqla_pubsub", "listen", "benchmarks.shop", "--url", address(engine)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: asleep(engine) or process.poll() is not None, DEADLINE, "the listener to sleep")
        if process.returncode is not None:
            raise RuntimeError(f"sqla-pubsub listen ended with {process.returncode}")
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE)


def asleep(engine: Engine) -> bool:
    """Whether a listener has drained everything and waits for a notification."""
    with engine.connect() as connection:
        return bool(connection.scalar(_ASLEEP))


def backends(engine: Engine) -> list[int]:
    """Return the server's processes for all connections but the one that asks."""
    with engine.connect() as connection:
        return list(connection.scalars(_BACKENDS))


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(each for child in children for each in family(int(child)))]


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the processor time that processes have used so far, by the scheduler: ticks are too coarse for idleness."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    spent = [int((thread / "schedstat").read_text(encoding="ascii").split()[0]) for thread in threads]
    return sum(spent) / 1e9
