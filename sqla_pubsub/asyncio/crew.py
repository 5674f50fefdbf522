"""Who runs beside whom on the loop: a bound for the whole process, and nobody beside what killed one before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqla_pubsub.asyncio.bridge import awaited, end, in_greenlet, spawned
from sqla_pubsub.asyncio.handling import HARD, Asynchronous
from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.run.concurrent import Ended, Work


class Room:
    """How many handlers may be in hand in this process, and whether one is to be alone.

    Args:
        limit: How many outside of transactions.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._outside = self._inside = 0
        self._alone = False
        self._waiting = self._wishes = 0
        self._changed = asyncio.Condition()
        self._nudges: list[Callable[[], None]] = []

    def tell(self, nudge: Callable[[], None]) -> None:
        """Call *nudge* whenever there is room again."""
        self._nudges.append(nudge)

    @property
    def left(self) -> int:
        """How many outside handlers may begin."""
        return 0 if self._alone or self._waiting or self._wishes else max(0, self._limit - self._outside)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in hand."""
        return not self._alone and not self._outside and not self._inside

    def wish_alone(self, wish: bool) -> None:
        """Keep others from beginning until an outside handler is alone."""
        self._wishes += 1 if wish else -1
        if not wish:
            self._tell()

    def enter(self, *, alone: bool) -> None:
        """Take the place of an outside handler."""
        self._outside += 1
        self._alone = self._alone or alone

    def leave(self, *, alone: bool) -> None:
        """Give the place of an outside handler back, and tell those who wait for one."""
        self._outside -= 1
        if alone:
            self._alone = False
        self._tell()

    @contextmanager
    def passed(self, *, alone: bool) -> Iterator[None]:
        """Wait, in a greenlet, until a transaction may be worked."""
        awaited(self._enter(alone=alone))
        try:
            yield
        finally:
            self._inside -= 1
            if alone:
                self._alone = False
            self._tell()

    async def _enter(self, *, alone: bool) -> None:
        async with self._changed:
            if not alone:
                # Who waits to be alone goes first, or would wait for ever.
                await self._changed.wait_for(
                    lambda: not self._alone and not self._waiting and not self._wishes
                )
            else:
                self._waiting += 1
                try:
                    await self._changed.wait_for(
                        lambda: not self._alone and not self._inside and not self._outside
                    )
                finally:
                    self._waiting -= 1
                self._alone = True
            self._inside += 1

    def _tell(self) -> None:
        spawned(self._notify())
        for nudge in self._nudges:
            nudge()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class TaskCrew:
    """The outside handlers of one lane, each in a task.

    Args:
        colour: That of the lane; it is woken when one ends.
        room: Shared by all lanes of the process.
        limit: How many of this lane at most; None for as many as there is room for.
    """

    def __init__(self, colour: Asynchronous, room: Room, limit: int | None = None) -> None:
        self._colour = colour
        self._limit = limit
        self._room = room
        self._running = set[asyncio.Task[Ended]]()
        self._ended: list[tuple[Entry, asyncio.Task[Ended]]] = []

    @property
    def room(self) -> int:
        """How many more may begin."""
        left = self._room.left
        return left if self._limit is None else max(0, min(left, self._limit - len(self._running)))

    @property
    def is_alone(self) -> bool:
        """Whether nothing is in hand in this process."""
        return self._room.is_empty

    def wish_alone(self, wish: bool) -> None:
        """Say that one is to be alone next, or no more."""
        self._room.wish_alone(wish)

    def begin(self, work: Work, entry: Entry) -> None:
        """Begin to handle *entry* in a task of its own."""
        alone = entry.crashes > 0
        self._room.enter(alone=alone)
        task = spawned(in_greenlet(work))
        self._running.add(task)
        task.add_done_callback(partial(self._has_ended, entry, alone))

    def ended(self) -> list[tuple[Entry, Ended]]:
        """Return, once each, what became of those that have ended."""
        ended, self._ended = self._ended, []
        return [(entry, task.result()) for entry, task in ended]

    def end_all(self, seconds: float) -> None:
        """Wait for those that run, and end after *seconds* those that still do."""
        if self._running:
            awaited(self._end_all(seconds))
        if not seconds:
            self._ended.clear()

    async def _end_all(self, seconds: float) -> None:
        if seconds:
            await asyncio.wait(self._running, timeout=seconds)
        left = list(self._running)
        await asyncio.gather(*(end(task, HARD) for task in left))
        self._ended = [(entry, task) for entry, task in self._ended if task not in left]

    def _has_ended(self, entry: Entry, alone: bool, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._ended.append((entry, task))
        self._room.leave(alone=alone)
        self._colour.nudge()
