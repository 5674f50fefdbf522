"""Runs series on one server: prepares each system, and lets them take turns."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.adapter import PeerBase, known_peers, load
from benchmarks.harness.environments import Unavailable, programs
from benchmarks.harness.redis import Redis, redis
from benchmarks.harness.results import Results, Series
from benchmarks.harness.running import Plan, Runner
from benchmarks.harness.servers import Postgres
from benchmarks.workloads import BY_NAME

Emit = Callable[[dict[str, Any]], None]

_LOOP = 3_000_000
_COMMITTING_SECONDS = 1.5


class Refused(Exception):
    """What is asked for cannot be run; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A system that can run.

    Args:
        peer: Its adapter.
        programs: The folder of its programs.
    """

    peer: PeerBase
    programs: Path


def chosen(names: str, *, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of adapters that a list with commas means, ``all`` for all of them.

    Raises:
        Refused: One of them is unknown.
    """
    known = known_peers()
    wanted = known if names == "all" else tuple(filter(None, (name.strip() for name in names.split(","))))
    if unknown := sorted({*wanted} - {*known}):
        raise Refused(f"peer {unknown[0]!r} is unknown. Allowed are: all, {', '.join(known)}.")
    return tuple(dict.fromkeys((*extra, *wanted)))


def prepare(
    names: Sequence[str], *, redis_server: Callable[[], Redis], leave_out: bool
) -> tuple[list[Ready], list[str]]:
    """Make the environments that are missing.

    Args:
        names: Of adapters.
        redis_server: Starts the broker, for those that need it.
        leave_out: Whether a system that cannot run is left out.

    Returns:
        The systems, and in sentences why others are left out.

    Raises:
        Refused: One cannot run, and is not to be left out.
    """
    ready, reasons = [], []
    for name in names:
        peer = load(name)
        try:
            if why := peer.unavailable():
                raise Unavailable(why)
            if peer.needs_redis:
                redis_server()
            ready.append(Ready(peer=peer, programs=programs(peer)))
        except Unavailable as reason:
            sentence = f"{name}: {reason}"
            if not leave_out:
                raise Refused(sentence) from None
            print(f"{sentence}. Left out.", file=sys.stderr, flush=True)
            reasons.append(sentence)
    return ready, reasons


class Harness:
    """Runs systems on one server; a context manager, which stops the broker.

    Args:
        server: Where databases are made.
        names: The systems that may be run.
        leave_out: Whether those that cannot run are left out, instead of refused.

    Raises:
        Refused: One of them cannot run.
    """

    def __init__(self, server: Postgres, names: Sequence[str], *, leave_out: bool) -> None:
        self._server = server
        self._stack = ExitStack()
        self._redis: Redis | None = None
        self.ready, self.left_out = prepare(names, redis_server=self._broker, leave_out=leave_out)

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _broker(self) -> Redis:
        if self._redis is None:
            self._redis = self._stack.enter_context(redis())
        return self._redis

    def describe(self) -> dict[str, Any]:
        """Return the machine, the server, and the systems with their versions."""
        with _one_at_a_time():
            speed = _reference(self._server)
        peers = {
            each.peer.name: {
                "versions": self._runner(each, Plan()).versions(), "settings": dict(each.peer.settings),
                "delivery": each.peer.delivery,
            }
            for each in self.ready
        }  # fmt: skip
        return {
            "postgres": self._server.settings(), "redis": self._redis and self._redis.version(),
            "cpus": os.cpu_count(), "cpu": _processor(), "machine": platform.platform(),
            "load1": round(os.getloadavg()[0], 2), "reference": speed, "peers": peers,
        }  # fmt: skip

    def run(
        self, series: Series, plan: Plan, *, repeats: int, into: Results, emit: Emit = lambda run: None
    ) -> None:
        """Run a series: repeats outermost, so that what disturbs the machine hits all alike."""
        options = dict(option.split("=", 1) for option in series.option.split())
        plan = replace(plan, options={**plan.options, **options})
        systems = [each for name in series.peers for each in self.ready if each.peer.name == name]
        for _ in range(series.repeats or repeats):
            for workload in series.workloads:
                for each in systems:
                    with _one_at_a_time():
                        run = self._runner(each, plan).run(BY_NAME[workload])
                    emit(run)
                    into.add([run], series.option)

    def _runner(self, ready: Ready, plan: Plan) -> Runner:
        broker = self._redis if ready.peer.needs_redis else None
        return Runner(peer=ready.peer, programs=ready.programs, server=self._server, redis=broker, plan=plan)


def _one_at_a_time() -> AbstractContextManager[None]:
    """Two invocations on one machine take turns, run by run."""
    return _locked(Path(tempfile.gettempdir(), "sqla-pubsub-benchmarks.lock"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reference(server: Postgres) -> dict[str, float]:
    """Return the speed of the machine at this moment: durable commits a second, and a loop of Python."""
    connection = server.connect()
    commits, end = 0, time.perf_counter() + _COMMITTING_SECONDS
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE reference (id bigserial PRIMARY KEY, t text)")
        while time.perf_counter() < end:
            cursor.execute("INSERT INTO reference (t) VALUES ('x')")
            commits += 1
        cursor.execute("DROP TABLE reference")
    connection.close()
    began, sum_of_all = time.perf_counter(), 0
    for number in range(_LOOP):
        sum_of_all += number & 7
    took = round(time.perf_counter() - began, 3)
    return {"commits_per_s": round(commits / _COMMITTING_SECONDS), "python_loop_s": took}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
