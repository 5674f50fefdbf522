"""Where and when to look for entries: a moving start, a low-water mark below it, and the next retry. Pure arithmetic.

Settled entries stay in the index until they are vacuumed, and each claim from the lowest id would walk
over them. So a claim starts where the last one ended, and now and then further down: at the lowest entry
that is there, for writers that committed late and for what others had in hand and gave back.

Below the *low-water mark* no ready entry is left, and none can come: all transactions that got ids from there have
ended. While an old transaction keeps vacuum from its work, only the low-water mark keeps the surveys from becoming
longer with every event. Below the *order low-water mark* no retry waits either, so nothing there holds others back.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorLimits:
    """How often is looked where there is probably nothing.

    Args:
        survey_every: Seconds after which a claim looks below its start again.
        from_zero: Seconds after which the low-water mark is not believed any more: somebody may have set the ids back, or
            was stopped between taking an id and beginning to write.
        share: Most of the time that looking below the start may take.
        share_from_zero: Most of the time that looking below the low-water mark may take.
        due_every: Seconds between two looks for due retries while there is ready work.
    """

    survey_every: float = 0.2
    from_zero: float = 5.0
    share: float = 0.1
    share_from_zero: float = 0.02
    due_every: float = 1.0


_DEFAULTS = CursorLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the server knows of the ready entries of a listener at one moment.

    Attributes:
        lowest: The lowest id, in whose hands ever; None without one.
        waiting: The lowest id of a retry that waits; 0 if there are too many to know, None without one.
        oldest: The oldest transaction that was running.
        transaction: The one that looked, if that was asked for.
    """

    lowest: int | None
    waiting: int | None
    oldest: int
    transaction: int | None


class ClaimCursor:
    """What one listener's lane has seen. Times are those of a monotonic clock.

    Args:
        has_low_water: Whether a low-water mark may be raised: not where another worker may adopt entries with lower ids.
        limits: How often is looked where there is probably nothing.
    """

    def __init__(self, *, has_low_water: bool = True, limits: CursorLimits = _DEFAULTS) -> None:
        self._has_low_water = has_low_water
        self._limits = limits
        self.restart()

    def restart(self) -> None:
        """Forget all that was seen: the database may be another one."""
        self.passed_to = 0
        """All lower ids were handled, or left to others, since the last time that the scan started over."""
        self.passed_due = set[int]()
        """Retries that were handled, or left to others, since then."""
        self._survey_at = 0.0
        self._low_water = self._order_low_water = self._ended = 0
        self._from_zero_every = self._limits.from_zero
        self._low_water_until = self._peek_at = 0.0
        self._seen = 0
        """One more than the highest id that was claimed in a transaction which has ended."""
        self._bound: tuple[int, int] | None = None
        self._due_at = 0.0

    def start(self, now: float) -> int:
        """Return the lowest id to look at."""
        return max(self.passed_to, self.low_water(now))

    def low_water(self, now: float) -> int:
        """Return an id below which there is nothing ready."""
        return self._low_water if now < self._low_water_until else 0

    def peek_low_water(self, now: float) -> int:
        """Return the same for a sleeper, who looks often and need not begin at zero each time."""
        if now < max(self._low_water_until, self._peek_at):
            return self._low_water
        self._peek_at = now + self._from_zero_every
        return 0

    def order_low_water(self, now: float) -> int:
        """Return an id below which there is nothing that others of its row must wait for."""
        return self._order_low_water if now < self._low_water_until else 0

    def passed(self, entry_id: int) -> None:
        """Say that *entry_id* needs no further look."""
        self.passed_to = max(self.passed_to, entry_id + 1)

    def start_over(self) -> bool:
        """Go back to the low-water mark; return whether anything was left out until now."""
        middle = self.passed_to > 0 or bool(self.passed_due)
        self.passed_to = 0
        self.passed_due.clear()
        return middle

    def is_survey_due(self, now: float) -> bool:
        """Whether it is time to look below the start."""
        return now >= self._survey_at

    def may_survey_wait(self, now: float) -> bool:
        """Whether a survey that is due may follow the next claim, if that finds nothing.

        A claim that starts at the low-water mark sees by itself what is below its start, and who waits for the first event
        after a sleep need not wait for the survey too. Not for long: the mark has to be raised.
        """
        return self.passed_to == 0 and now < self._survey_at + self._limits.survey_every

    @property
    def is_unbound(self) -> bool:
        """Whether the next survey should name its transaction, to raise the low-water mark by it later.

        Ids are given out one by one, to transactions that have begun to write. So who got a lower one than was
        claimed in a transaction that has ended is older than one that begins now, and when all those who are
        older have ended, nothing lower can come. What a transaction itself has claimed proves nothing: it may
        have got its own id before it saw the last of that.
        """
        return self._has_low_water and self._bound is None and self._seen > self._ended

    def claimed(self, entry_id: int) -> None:
        """Say that *entry_id* was claimed in a transaction that has ended."""
        self._seen = max(self._seen, entry_id + 1)

    def surveyed(self, began: float, ended: float, survey: Survey) -> None:
        """Move start and marks by a survey of all entries from the low-water mark on.

        Args:
            began: When it began.
            ended: When it ended.
            survey: What it saw.
        """
        limits = self._limits
        if self._bound is not None and survey.oldest >= self._bound[1]:
            self._ended, self._bound = self._bound[0], None
        if survey.transaction is not None:
            self._bound = self._seen, survey.transaction
        self._survey_at = ended + max(limits.survey_every, (ended - began) / limits.share)
        if began >= self._low_water_until:
            self._survey_at = ended + limits.survey_every
            self._from_zero_every = max(limits.from_zero, (ended - began) / limits.share_from_zero)
            self._low_water_until = ended + self._from_zero_every
            if survey.lowest is not None and survey.lowest < self._low_water:
                # It was wrong, and so may be all that it was raised by.
                self._ended, self._seen, self._bound = 0, 0, None
        self._low_water = self._ended if survey.lowest is None else min(self._ended, survey.lowest)
        self._order_low_water = (
            self._low_water if survey.waiting is None else min(self._low_water, survey.waiting)
        )
        if survey.lowest is not None:
            self.passed_to = min(self.passed_to, survey.lowest)

    def is_due(self, now: float) -> bool:
        """Whether it is time to look for due retries."""
        return now >= self._due_at

    def no_more_due(self, now: float) -> None:
        """Say that all due retries were claimed."""
        self._due_at = now + self._limits.due_every

    def due(self, moment: float) -> None:
        """Say that a retry is due at *moment*."""
        self._due_at = min(self._due_at, moment)
