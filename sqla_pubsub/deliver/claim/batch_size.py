"""How many entries a group claims: what fits into its time. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizeLimits:
    """What bounds a group beside its time.

    Args:
        max_savepoints: Most savepoints in one transaction: beyond 64 subtransactions every backend's snapshots slow
            down.
        first_single: Groups of one event after the first conflict; twice as many after each further one.
        longest_single: Most of them.
        slow: Seconds of one event from which on a neighbour should rather take the next one.
        most_bytes: Bytes of payloads in one group; one event may have more. A driver makes some ten copies.
    """

    max_savepoints: int = 50
    first_single: int = 500
    longest_single: int = 50_000
    slow: float = 0.01
    most_bytes: int = 4_000_000


_DEFAULTS = BatchSizeLimits()


class BatchSize:
    """Follows the time that one event takes.

    Args:
        time_box: Seconds after which a transaction is committed; 0 for one event each.
        largest: Most entries claimed at once.
        limits: What bounds a group beside its time.
    """

    def __init__(self, time_box: float, largest: int, limits: BatchSizeLimits = _DEFAULTS) -> None:
        self.time_box = time_box
        self.limits = limits
        self._largest = self._limit = largest
        self._fit: int | None = None
        self._per_event: float | None = None
        self._single = 0
        self._next_single = limits.first_single
        self.slow = True
        """Whether the next event may take longer than a neighbour should sleep."""

    @property
    def size(self) -> int:
        """How many entries to claim next: one as long as nothing is known, or after a conflict."""
        if self._per_event is None or self.time_box == 0.0 or self._single:
            return 1
        return max(1, min(int(self.time_box / max(self._per_event, 1e-6)), self._limit))

    def at_most(self, wanted: int) -> int:
        """Return how many of *wanted* entries to claim, where no more had room lately: the others are somebody else's."""
        return wanted if self._fit is None else min(wanted, max(1, 2 * self._fit))

    def fit(self, events: int | None) -> None:
        """Say that the last group had room for no more than so many events, or None where it had room for all."""
        self._fit = events

    def conflict(self) -> None:
        """Take one event at a time for a while, longer after each conflict.

        Two groups that write the same few rows in different order end in a deadlock, which costs the
        server's ``deadlock_timeout``, a second by default. Events alone in their transactions rarely do.
        """
        self._single = self._next_single
        self._next_single = min(2 * self._next_single, self.limits.longest_single)

    def measure(self, seconds: float, events: int, *, savepoints: bool) -> None:
        """Adapt the size to the last group.

        Args:
            seconds: How long its handlers took.
            events: How many events it had.
            savepoints: Whether each of these had a savepoint, of which a transaction has only so many.
        """
        self._limit = min(self._largest, self.limits.max_savepoints) if savepoints else self._largest
        latest = seconds / max(events, 1)
        known = self._per_event
        self._single = max(0, self._single - 1)
        self._per_event = latest if known is None else 0.7 * known + 0.3 * latest
        self.slow = self._per_event > self.limits.slow
