"""When a listener with nothing to do looks again. Pure: the time is told, nothing is read or sent.

Writers notify only while somebody holds the sleep lock exclusively. A writer that probed the lock before it was
taken may commit after the sleeper's last look, and nobody tells it; so a sleeper polls too, at once and then at
growing intervals, which begin anew whenever somebody else begins to hold the lock.

A look walks over all that was settled since the oldest open transaction, which vacuum cannot remove: the longer
a writer stays open, the slower it is. So where looks would follow each other quickly for long, the pause after a
look is a multiple of what it took.

Commits with a NOTIFY wait for each other, and each wakes every worker. Writers that are made to by a lock that is never
given up commit so slowly that the worker always finds its way back to sleep, and goes on holding the lock. So where
notifications come one after the other it is given up: while writers have transactions open nobody gets it, and they commit
beside each other. Nobody is told of events then, so the worker goes on to claim, with a short pause before each claim that
lets several come together, until it finds none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class PollLimits:
    """How long a sleeper sleeps without a look, in seconds.

    Args:
        first: At least, after the last work.
        writers: At most, while open transactions of writers keep the sleep lock from everybody.
        take_over: At most, while others have work in hand: no notification tells that they died.
        blind: At most, where no notification can come at all.
        share: Most of the time that looks may take, where they find nothing again and again.
    """

    first: float = 0.005
    writers: float = 0.05
    take_over: float = 1.0
    blind: float = 0.5
    share: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdLimits:
    """When notifications come so often that writers are not made to send them, and what is done instead.

    Args:
        notifications: At least so many,
        within: in so many seconds.
        pauses: Seconds before the next claim, so that it finds several events; longer where the last ones found none. Where
            no pause is left, no more events are expected.
    """

    notifications: int = 8
    within: float = 0.02
    pauses: tuple[float, ...] = (0.002, 0.004)


class Crowd:
    """Tells from notifications whether events come one after the other, and from what is found whether they still do."""

    def __init__(self, limits: CrowdLimits) -> None:
        self._limits = limits
        self._last: deque[float] = deque(maxlen=limits.notifications)
        self._in_vain: int | None = None
        """How many claims in turn found nothing; None where no events are expected."""

    def notified(self, count: int, now: float) -> bool:
        """Count notifications; return whether the sleep lock is to be given up.

        Args:
            count: How many came since the last call.
            now: The time, in seconds.
        """
        limits = self._limits
        self._last.extend([now] * min(count, limits.notifications))
        if len(self._last) < limits.notifications or now - self._last[0] > limits.within:
            return False
        # It is given up once, and then has to be shown anew: to give it up notifies, and two workers would never end.
        self._last.clear()
        self._in_vain = 0
        return True

    def pause(self, *, found: bool) -> float | None:
        """Return how many seconds to wait before the next claim, None where no more events are expected.

        Args:
            found: Whether the last one found any.
        """
        # Other threads of the process may ask at the same time.
        if (in_vain := self._in_vain) is None:
            return None
        in_vain, pauses = 0 if found else in_vain + 1, self._limits.pauses
        self._in_vain = in_vain if in_vain < len(pauses) else None
        return pauses[in_vain] if in_vain < len(pauses) else None


class Guard(Enum):
    """Who holds the sleep lock."""

    HELD = "this worker holds it"
    WRITERS = "transactions of writers that probed it are open"
    OTHERS = "another worker holds it"
    BLIND = "no notification can be received, so it is not asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at the outbox saw.

    Attributes:
        ready: Whether an entry is ready, in whose hands ever.
        due_in: Seconds until the next retry is due, None without one.
        listening: Whether the registration for notifications is still there.
        took: Seconds that the look took.
    """

    ready: bool
    due_in: float | None
    listening: bool
    took: float = 0.0

    @classmethod
    def together(cls, parts: Iterable[Seen], took: float) -> Seen:
        """Return what a look saw of several listeners."""
        every = tuple(parts)
        return cls(
            ready=any(each.ready for each in every),
            due_in=min((each.due_in for each in every if each.due_in is not None), default=None),
            listening=all(each.listening for each in every),
            took=took,
        )

    @property
    def work(self) -> bool:
        """Whether there may be something to do now."""
        return self.ready or (self.due_in is not None and self.due_in <= 0)


@dataclass(frozen=True, slots=True)
class Return:
    """Go and work."""


@dataclass(frozen=True, slots=True)
class Relisten:
    """Register for notifications again."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep until notified, for *seconds* at most; then look again, or go and work where *works*."""

    seconds: float
    works: bool


Decision = Return | Relisten | Wait


class IdlePolicy:
    """Decides after each look of a sleeper.

    Args:
        longest: Seconds without a look at most, in case a notification was lost.
        limits: How long it may sleep otherwise.
        now: The time, in seconds of any clock that goes on.
    """

    def __init__(self, longest: float, limits: PollLimits, now: float) -> None:
        self._longest = longest
        self._limits = limits
        self._since = now
        self._guard: Guard | None = None
        self._took = 0.0
        """Seconds that the last look took."""
        self._fruitless = False
        """Whether the last look sent the listener to work that others turned out to have in hand."""

    def worked(self, now: float) -> None:
        """Say that there was work: the next sleep begins with a fresh look."""
        self._fruitless = False
        self._since = now

    def woken(self) -> None:
        """Say that a notification came."""
        self._fruitless = False

    def decide(self, guard: Guard, seen: Seen, now: float) -> Decision:
        """Return what to do after a look that saw *seen*, while *guard* has the sleep lock."""
        # The quicker of two: one may have found cold caches, or a busy machine.
        took, self._took = min(seen.took, self._took), seen.took
        # Writers keep it from everybody, and who held it before may hold it still.
        if guard in (Guard.HELD, Guard.OTHERS) and guard is not self._guard:
            self._guard, self._since = guard, now
        if seen.work and not self._fruitless:
            # Once: if it is in the hands of others, looking again at once would spin.
            self._fruitless = True
            return Return()
        self._fruitless = seen.work
        if not seen.listening and guard is not Guard.BLIND:
            return Relisten()
        return Wait(self._seconds(guard, seen, now, took), works=seen.work)

    def _seconds(self, guard: Guard, seen: Seen, now: float, took: float) -> float:
        limits = self._limits
        wanted = [max(limits.first, now - self._since)]
        if guard is Guard.BLIND:
            wanted.append(limits.blind)
        if guard is Guard.WRITERS:
            wanted.append(limits.writers)
        bounds = [self._longest]
        if seen.work:
            bounds.append(limits.take_over)
        if seen.due_in is not None and seen.due_in > 0:
            bounds.append(seen.due_in)
        return min(max(min(wanted), took * (1 / limits.share - 1)), *bounds)
