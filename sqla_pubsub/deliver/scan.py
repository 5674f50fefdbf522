"""Where and when to look for entries: a moving start, and the time of the next retry. Pure arithmetic.

Settled entries stay in the index until they are vacuumed, and each claim from the lowest id would walk
over them. So a claim starts where the last one ended, and now and then from the beginning, for writers
that committed late.
"""

from __future__ import annotations

RESCAN = 0.2
"""Seconds after which a claim starts from the lowest id again."""
DUE_EVERY = 1.0
"""Seconds between two looks for due retries while there is ready work."""


class Scan:
    """What one listener's lane has seen. Times are those of a monotonic clock."""

    def __init__(self) -> None:
        self._start = 0
        self._rescan_at = 0.0
        self._due_at = 0.0

    def start(self, now: float) -> int:
        """Return the lowest id to look at."""
        if now >= self._rescan_at:
            self._start, self._rescan_at = 0, now + RESCAN
        return self._start

    def passed(self, entry_id: int) -> None:
        """Say that *entry_id* needs no further look."""
        self._start = max(self._start, entry_id + 1)

    def start_over(self) -> bool:
        """Go back to the lowest id; return whether anything was left out until now."""
        middle = self._start > 0
        self._start = 0
        return middle

    def is_due(self, now: float) -> bool:
        """Whether it is time to look for due retries."""
        return now >= self._due_at

    def no_more_due(self, now: float) -> None:
        """Say that all due retries were claimed."""
        self._due_at = now + DUE_EVERY

    def due(self, moment: float) -> None:
        """Say that a retry is due at *moment*."""
        self._due_at = min(self._due_at, moment)
