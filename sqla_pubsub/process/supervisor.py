"""The parent of the workers: starts them, replaces the dead, stops them all.

It handles no event. When a worker dies with an entry in hand, the entry's crash is counted here, in a
transaction of its own; an entry that keeps killing its worker becomes a dead letter.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from types import FrameType
from typing import Any

from sqla_pubsub.deliver.config import MOST_SLOTS
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.process.probes import Health, State, WorkerHealth
from sqla_pubsub.process.scoreboard import SLOTS, scoreboards
from sqla_pubsub.process.worker import EXIT_LOST, EXIT_REFUSED, Plan, work
from sqla_pubsub.retry import RetryPolicy

logger = logging.getLogger(__name__)

MAX_START_FAILURES = 5
"""Deaths of one worker in a row, each before it was connected, after which the supervisor gives up."""
STEADY = 5.0
"""Seconds after which a worker counts as having been well."""
TICK = 0.2
STUCK = 300.0
"""Seconds without a turn of the supervisor's loop after which it is stuck; a turn takes some tenths of one,
or as long as it takes to fail to count crashes in a database that does not answer."""
CRASHING = 3
"""Deaths in a row, each soon after the start, from which on a new process is no sign of health."""
COUNT_AGAIN = 1.0
"""Seconds until a crash that could not be counted is tried to be counted again."""

Counts = tuple[int, int, int]
"""Acknowledged, put off for a retry, given up as dead letters."""
CrashCounter = Callable[[int], bool]
"""Takes the id of an entry; returns False where it has to be called again later."""

_backoff = RetryPolicy(
    max_attempts=10**9, initial=timedelta(milliseconds=100), max_delay=timedelta(seconds=15), jitter=False
)


class _Slot:
    """The place of one worker, kept while the processes in it come and go."""

    def __init__(self, number: int, threads: int) -> None:
        self.number = number
        self.slots: Any = RawArray("q", SLOTS * threads)
        self.scoreboards = scoreboards(self.slots)
        self.process: BaseProcess | None = None
        self.started = 0.0
        self.start_at = 0.0
        self.deaths = 0
        self.start_failures = 0
        self.overdue: list[int] = []
        """The entries for which its process was killed."""

    @property
    def alive(self) -> bool:
        return self.process is not None

    @property
    def health(self) -> WorkerHealth:
        answers = [scoreboard.unanswered for scoreboard in self.scoreboards]
        answered = min((seconds for seconds in answers if seconds is not None), default=None)
        return WorkerHealth(
            worker=self.number,
            alive=self.alive,
            connected=self.alive and any(scoreboard.is_connected for scoreboard in self.scoreboards),
            busy=any(scoreboard.in_hand for scoreboard in self.scoreboards),
            deaths=self.deaths,
            answered=None if answered is None else round(answered, 3),
        )

    @property
    def crashing(self) -> bool:
        """Whether its processes die one after the other."""
        return self.deaths >= CRASHING and not (self.alive and time.monotonic() - self.started > STEADY)

    @property
    def settled(self) -> Counts:
        done, retried, dead = (
            sum(column) for column in zip(*(b.settled for b in self.scoreboards), strict=True)
        )
        return done, retried, dead


class Supervisor:
    """Runs *processes* workers of one plan until it is stopped, or until they have drained everything.

    Args:
        plan: What each worker does.
        processes: How many.
        count_crash: Called with the id of the entry that a dead worker had in hand, until it succeeds.
        on_progress: Called now and then with what was settled so far, per worker.
    """

    def __init__(
        self,
        plan: Plan,
        processes: int,
        *,
        count_crash: CrashCounter,
        on_progress: Callable[[Sequence[Counts]], None] | None = None,
    ) -> None:
        self._plan = plan
        self._context = multiprocessing.get_context("spawn")
        # The main thread, those for plain listeners that work outside of a transaction, and those of the loop.
        parts = 1 + plan.concurrency + 1 + min(plan.concurrency, MOST_SLOTS)
        self._slots = [_Slot(number, parts) for number in range(processes)]
        self._count_crash = count_crash
        self._uncounted: list[int] = []
        self._count_at = 0.0
        self._on_progress = on_progress
        self._signals = 0
        self._stop = StopSignal()
        self._exit_code = 0
        self._turned = time.monotonic()

    def health(self) -> Health:
        """Return what a probe may know; called from another thread."""
        workers = [slot.health for slot in self._slots]
        working = any(w.connected and not slot.crashing for w, slot in zip(workers, self._slots, strict=True))
        state: State = "waiting"
        if self._signals or self._exit_code:
            state = "stopping"
        elif time.monotonic() - self._turned > STUCK:
            state = "stuck"
        elif working:
            state = "working"
        elif any(slot.crashing for slot in self._slots):
            state = "crashing"
        return Health(state=state, workers=workers)

    @property
    def counts(self) -> list[Counts]:
        """What was settled so far, per worker."""
        return [slot.settled for slot in self._slots]

    def run(self) -> int:
        """Return the exit code: 0 when done or stopped, 1 when the workers could not be kept alive, 2 refused."""
        # Not given back at the end: a signal that comes then has been obeyed.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while not self._signals and self._exit_code == 0:
            self._turned = time.monotonic()
            self._start_due()
            self._wait()
            self._reap()
            self._count_crashes()
            if self._on_progress is not None:
                self._on_progress(self.counts)
            if self._plan.drain and all(slot.start_at == float("inf") for slot in self._slots):
                break
        self._shut_down()
        return self._exit_code

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._stop.raise_()

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if not slot.alive and now >= slot.start_at:
                process = self._context.Process(
                    target=work, args=(self._plan, slot.slots, list(sys.path)), name=f"worker-{slot.number}"
                )
                _start(process)
                slot.process, slot.started = process, now

    def _wait(self) -> None:
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process is not None]
        wait([*sentinels, self._stop.descriptor], timeout=TICK)
        for slot in self._slots:
            overdue = [scoreboard for scoreboard in slot.scoreboards if scoreboard.overdue]
            if slot.process is not None and overdue and not slot.overdue:
                logger.error(
                    "worker.overdue: worker %s outran the timeout of its handler; killed", slot.process.pid
                )
                # Nobody else in the process is to be charged with it.
                slot.overdue = [entry_id for scoreboard in overdue for entry_id in scoreboard.in_hand]
                slot.process.kill()

    def _reap(self) -> None:
        for slot in self._slots:
            process = slot.process
            if process is None or process.is_alive():
                continue
            process.join()
            slot.process = None
            if process.exitcode == 0 and self._plan.drain:
                slot.start_at = float("inf")
            elif process.exitcode == EXIT_REFUSED:
                self._exit_code = EXIT_REFUSED
            elif not self._signals:
                self._replace(slot, process)

    def _replace(self, slot: _Slot, process: BaseProcess) -> None:
        """Plan the successor of a dead worker, later the more often it died."""
        now = time.monotonic()
        in_hand = slot.overdue or [entry_id for board in slot.scoreboards for entry_id in board.in_hand]
        slot.overdue, lived = [], now - slot.started
        slot.deaths = 1 if lived > STEADY else slot.deaths + 1
        ready = any(scoreboard.is_ready for scoreboard in slot.scoreboards)
        slot.start_failures = 0 if ready else slot.start_failures + 1
        delay = _backoff.delay(slot.deaths, _NO_JITTER)
        assert delay is not None
        slot.start_at = now + delay.total_seconds()
        logger.warning(
            "worker.died: worker %s, exit code %s, after %.1f s%s; next in %.1f s",
            process.pid, process.exitcode, lived, f", entry {_listed(in_hand)} in hand" if in_hand else "",
            delay.total_seconds(),
            extra={"worker": process.pid, "exit_code": process.exitcode, "entries": in_hand},
        )  # fmt: skip
        for scoreboard in slot.scoreboards:
            scoreboard.clear()
        self._uncounted += in_hand
        self._count_at = now
        if slot.start_failures >= MAX_START_FAILURES:
            logger.error(
                "supervisor.gave_up: worker %s died %s times before it could work",
                slot.number,
                slot.start_failures,
            )
            self._exit_code = EXIT_LOST

    def _count_crashes(self) -> None:
        """Count at once, before a successor starts; what that cannot be done for, again later."""
        now = time.monotonic()
        if self._uncounted and now >= self._count_at:
            self._uncounted = [entry_id for entry_id in self._uncounted if not self._count_crash(entry_id)]
            self._count_at = now + COUNT_AGAIN if self._uncounted else now

    def _shut_down(self) -> None:
        """Let every worker finish the event in hand; at a second signal, or after the grace time, kill."""
        until = time.monotonic() + self._plan.config.grace.total_seconds()
        for slot in self._slots:
            if slot.process is not None:
                slot.process.terminate()
        while any(slot.alive for slot in self._slots):
            alive = [slot.process for slot in self._slots if slot.process is not None]
            if self._signals > 1 or time.monotonic() > until:
                for process in alive:
                    process.kill()
            wait([process.sentinel for process in alive], timeout=TICK)
            for slot in self._slots:
                if slot.process is not None and not slot.process.is_alive():
                    slot.process.join()
                    slot.process = None


def _start(process: BaseProcess) -> None:
    """Ctrl-C goes to the whole process group: a child inherits it held back until it can ignore it."""
    # Started with the first child, this would let signals through again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _listed(entries: Sequence[int]) -> str:
    first = ", ".join(map(str, entries[:10]))
    return f"{first} and {len(entries) - 10} more" if len(entries) > 10 else first


class _NoJitter:
    def uniform(self, a: float, b: float, /) -> float:
        return b


_NO_JITTER = _NoJitter()
