"""The parent of the workers: starts them, replaces the dead, stops them all.

It handles no event. When a worker dies with an entry in hand, the entry's crash is counted here, in a
transaction of its own; an entry that keeps killing its worker becomes a dead letter.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from sqla_pubsub.deliver.config import MOST_SLOTS
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.operate.totals import Totals
from sqla_pubsub.process.heartbeat import Heartbeat
from sqla_pubsub.process.probes import Health, State
from sqla_pubsub.process.report import Counts, Report, listed, total
from sqla_pubsub.process.slot import STEADY, Slot
from sqla_pubsub.process.worker import EXIT_LOST, EXIT_REFUSED, Plan, work
from sqla_pubsub.retry import RetryPolicy
from sqla_pubsub.values import shown

logger = logging.getLogger(__name__)

MAX_START_FAILURES = 5
"""Deaths of one worker in a row, each before it was connected, after which the supervisor gives up."""
TICK = 0.2
IDLE_TICK = 1.0
"""While all workers are connected and have nothing in hand: an idle machine is left asleep."""
STUCK = 300.0
"""Seconds without a turn of the supervisor's loop after which it is stuck; a turn takes some tenths of one,
or as long as it takes to fail to count crashes in a database that does not answer."""
COUNT_AGAIN = 1.0
"""Seconds until a crash that could not be counted is tried to be counted again."""

CrashCounter = Callable[[int], bool]
"""Takes the id of an entry; returns False where it has to be called again later."""

_backoff = RetryPolicy(
    max_attempts=10**9, initial=timedelta(milliseconds=100), max_delay=timedelta(seconds=15), jitter=False
)
_UNUSED = random.Random()


class Supervisor:
    """Runs *processes* workers of one plan until it is stopped, or until they have drained everything.

    Args:
        plan: What each worker does.
        processes: How many.
        count_crash: Called with the id of the entry that a dead worker had in hand, until it succeeds.
        on_progress: Called now and then with what was settled so far, per worker.
        report: Says what the workers do.
        heartbeat: Tells the database of this supervisor, from its start to its end.
    """

    def __init__(
        self,
        plan: Plan,
        processes: int,
        *,
        count_crash: CrashCounter,
        on_progress: Callable[[Sequence[Counts]], None] | None = None,
        report: Report | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._heartbeat = heartbeat
        self._report = report or Report()
        self._plan = plan
        self._context = multiprocessing.get_context("spawn")
        # The main thread, those for plain listeners that work outside of a transaction, and those of the loop.
        parts = 1 + plan.concurrency + 1 + min(plan.concurrency, MOST_SLOTS)
        self._slots = [Slot(number, parts, plan.runs) for number in range(processes)]
        self._count_crash = count_crash
        self._uncounted: list[int] = []
        self._count_at = 0.0
        self._on_progress = on_progress
        self._signals = 0
        self._stop = StopSignal()
        self._exit_code = 0
        self._turned = time.monotonic()
        self._deaths = 0
        self._tick = TICK

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

    def totals(self) -> Totals:
        """Return what all workers did so far, those among them that have died."""
        return sum((slot.tally.totals() for slot in self._slots), Totals())

    def in_hand(self) -> list[tuple[str, list[int]]]:
        """Return the entries in hand, with the name of their listener, for each part of a worker that has some."""
        scoreboards = [each for slot in self._slots if slot.alive for each in slot.scoreboards]
        shown = [(scoreboard.listener, scoreboard.in_hand) for scoreboard in scoreboards]
        return [(listener, entries) for listener, entries in shown if listener is not None and entries]

    @property
    def deaths(self) -> int:
        """How many workers have died."""
        return self._deaths

    def run(self) -> int:
        """Return the exit code: 0 when done or stopped, 2 when refused.

        1 when the workers could not be kept alive, or were stopped before they had drained everything.
        """
        # Not given back at the end: a signal that comes then has been obeyed.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._heartbeat is not None:
            self._heartbeat.start()
        while not self._signals and self._exit_code == 0:
            self._turned = time.monotonic()
            self._start_due()
            self._wait()
            self._reap()
            self._count_crashes()
            self._tell()
            if self._drained:
                break
        self._shut_down()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if self._plan.drain and not self._drained:
            return self._exit_code or EXIT_LOST
        return self._exit_code

    @property
    def _drained(self) -> bool:
        return self._plan.drain and all(slot.start_at == float("inf") for slot in self._slots)

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.counts)
        in_hand = self._in_hand
        connected = sum(slot.connected for slot in self._slots)
        idle = connected == len(self._slots) and not any(in_hand.values())
        self._tick = IDLE_TICK if idle else TICK
        if not self._plan.drain:
            self._report.ready(connected)
            self._report.settled(total(self.counts))
        if self._heartbeat is not None:
            self._heartbeat.see(in_hand)
        self._report.in_hand(
            {slot.process.pid or 0: slot.unlimited for slot in self._slots if slot.process is not None}
        )

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._stop.raise_()

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if not slot.alive and now >= slot.start_at:
                process = self._context.Process(
                    target=work, args=(self._plan, slot.shown, list(sys.path)), name=f"worker-{slot.number}"
                )
                _start(process)
                slot.process, slot.started = process, now

    def _wait(self) -> None:
        sentinels = [slot.process.sentinel for slot in self._slots if slot.process is not None]
        wait([*sentinels, self._stop.descriptor], timeout=self._tick)
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

    def _replace(self, slot: Slot, process: BaseProcess) -> None:
        """Plan the successor of a dead worker, later the more often it died."""
        now = time.monotonic()
        in_hand = slot.overdue or slot.in_hand
        slot.overdue, lived = [], now - slot.started
        self._deaths += 1
        ready = any(scoreboard.is_ready for scoreboard in slot.scoreboards)
        # On a busy machine it may take long to get as far as it gets.
        slot.deaths = 1 if ready and lived > STEADY else slot.deaths + 1
        slot.start_failures = 0 if ready else slot.start_failures + 1
        delay = _backoff.delay(slot.deaths, _UNUSED)
        assert delay is not None
        slot.start_at = now + delay.total_seconds()
        logger.warning(
            "worker.died: worker %s, exit code %s, after %.1f s%s; next in %.1f s",
            process.pid, process.exitcode, lived, f", entry {listed(in_hand)} in hand" if in_hand else "",
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
        grace, killed = self._plan.config.grace, False
        until = time.monotonic() + grace.total_seconds()
        self._report.stopping(self._in_hand, grace)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.terminate()
        while any(slot.alive for slot in self._slots):
            alive = [slot.process for slot in self._slots if slot.process is not None]
            if not killed and (self._signals > 1 or time.monotonic() > until):
                killed = True
                why = (
                    "was killed at the second signal"
                    if self._signals > 1
                    else f"outran grace ({shown(grace)})"
                )
                self._report.killed(self._in_hand, why)
                for process in alive:
                    process.kill()
            wait([process.sentinel for process in alive], timeout=TICK)
            for slot in self._slots:
                if slot.process is not None and not slot.process.is_alive():
                    slot.process.join()
                    slot.process = None
        if not self._plan.drain:
            self._report.stopped(total(self.counts))

    @property
    def _in_hand(self) -> dict[int, list[int]]:
        return {slot.process.pid or 0: slot.in_hand for slot in self._slots if slot.process is not None}


def _start(process: BaseProcess) -> None:
    """Ctrl-C goes to the whole process group: a child inherits it held back until it can ignore it."""
    # Started with the first child, this would let signals through again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
