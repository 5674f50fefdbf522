"""How many entries a group claims: what fits into its time. Pure arithmetic."""

from __future__ import annotations

SLOW = 0.01
"""Seconds of one event from which on a neighbour should rather take the next one."""


class Pace:
    """Follows the time that one event takes.

    Args:
        time_box: Seconds after which a transaction is committed; 0 for one event each.
        largest: Most entries claimed at once.
    """

    def __init__(self, time_box: float, largest: int) -> None:
        self.time_box = time_box
        self.limit = largest
        """Most entries to claim next."""
        self._per_event: float | None = None

    @property
    def size(self) -> int:
        """How many entries to claim next: one as long as nothing is known."""
        if self._per_event is None or self.time_box == 0.0:
            return 1
        return max(1, min(int(self.time_box / max(self._per_event, 1e-6)), self.limit))

    @property
    def slow(self) -> bool:
        """Whether the next event may take longer than a neighbour should sleep."""
        return self._per_event is None or self._per_event > SLOW

    def measure(self, seconds: float, events: int) -> None:
        """Take in what the last group needed."""
        latest = seconds / max(events, 1)
        known = self._per_event
        self._per_event = latest if known is None else 0.7 * known + 0.3 * latest
