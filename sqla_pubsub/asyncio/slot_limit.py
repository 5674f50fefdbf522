"""How many transactions are worked beside each other: as many as the loop has time for.

Handlers that wait for something outside are worth a connection each. Where they only compute, or ask the database,
one of them has the loop, and more of them only make the groups of events smaller. Which of the two it is shows in how
much of its time the loop's thread computes, or would if others left it a processor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqla_pubsub.asyncio.bridge import awaited
from sqla_pubsub.asyncio.crew import Room

WINDOW = 0.05
"""Seconds over which is measured."""
FULL, FREE = 0.85, 0.5
"""Parts of the time from which on there are half as many transactions, and below which twice as many."""
_SCHEDULED = Path("/proc/thread-self/schedstat")


class SlotLimit:
    """How many of a listener's transactions may be worked now.

    Args:
        most: How many there are.
        clock: Seconds.
        spent: Seconds that this thread was busy.
    """

    def __init__(
        self,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] | None = None,
    ) -> None:
        self._most = self.allowed = most
        self._clock = clock
        self._spent = spent or busy_time
        self._began = clock(), self._spent()
        self._opened = asyncio.Event()

    def measure(self) -> None:
        """Look whether the loop has time for more of them."""
        now = self._clock()
        waited = now - self._began[0]
        if waited < WINDOW:
            return
        spent = self._spent()
        computed = spent - self._began[1]
        self._began = now, spent
        if computed > FULL * waited:
            self.allowed = max(1, self.allowed // 2)
        elif computed < FREE * waited:
            self.allowed = min(self._most, 2 * self.allowed)

    async def enter(self, slot: int) -> None:
        """Wait until the transaction of this *slot*, counted from 1, may be worked; the first one always may."""
        self.measure()
        while slot > self.allowed and not self._opened.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), WINDOW)
            self.measure()

    def close(self) -> None:
        """Begin to keep some waiting where the loop has no time for them."""
        self._opened.clear()

    def open(self) -> None:
        """Keep nobody waiting any more."""
        self._opened.set()


def busy_time() -> float:
    """Return the seconds that this thread has computed or waited for a processor; where that is not told, computed.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    with suppress(OSError, ValueError):
        computed, waited, _ = _SCHEDULED.read_text(encoding="ascii").split()
        return (int(computed) + int(waited)) / 1e9
    return time.thread_time()


class SlotGate:
    """The gate of one slot.

    Args:
        limit: How many may be worked.
        slot: Which one this is, counted from 1.
        room: Who may be in hand together.
    """

    def __init__(self, limit: SlotLimit, slot: int, room: Room) -> None:
        self._limit = limit
        self._slot = slot
        self._room = room

    @contextmanager
    def passed(self, *, alone: bool) -> Iterator[None]:
        """Wait, in a greenlet, until a transaction may be worked."""
        if not alone:
            awaited(self._limit.enter(self._slot))
        with self._room.passed(alone=alone):
            yield
