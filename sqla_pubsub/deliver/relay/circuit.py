"""When an engine is tried again that could not be reached. Pure: no clock, no engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitLimits:
    """How long nothing is sent.

    Args:
        first: Seconds after the first failure in a row.
        longest: Most seconds; each time twice as long as before.
    """

    first: float = 0.5
    longest: float = 30.0


class Circuit:
    """Closed while the engine answers. Open, it lets nothing pass until its time is over; then one try decides.

    Args:
        limits: How long that is.
    """

    def __init__(self, limits: CircuitLimits) -> None:
        self._limits = limits
        self._until = 0.0
        self._failures = 0
        self._since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    def passes(self, now: float) -> bool:
        """Whether something may be sent: the last try succeeded, or the pause after it is over."""
        return now >= self._until

    def failed(self, now: float, after: float | None = None) -> float:
        """Say that a try failed; return in how many seconds the next one is, at least *after*."""
        if not self._failures:
            self._since = now
        pause = min(self._limits.first * 2.0 ** min(self._failures, 30), self._limits.longest)
        self._failures += 1
        pause = max(pause, after or 0.0)
        self._until = now + pause
        return pause

    def succeeded(self, now: float) -> float | None:
        """Say that a try succeeded; return for how many seconds none had, None where the one before it had too."""
        away = now - self._since if self._failures else None
        self._failures, self._until = 0, 0.0
        return away
