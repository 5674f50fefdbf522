"""What a worker shows to its supervisor, without a message or a write to the database.

The numbers stand in shared memory, so they are still there when the worker is not.
"""

from __future__ import annotations

import time
from collections.abc import MutableSequence, Sequence
from datetime import timedelta

from sqla_pubsub.deliver.happenings import Happening, Settled
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Retry

IN_HAND, KILL_AT, ACKNOWLEDGED, RETRIED, DEAD, READY, CONNECTED, ANSWERED, LISTENER = range(9)
FIRST_ENTRY = 9
"""Here the ids of the entries in hand begin, as many as `IN_HAND` says."""
MOST_IN_HAND = 10_000
"""The largest batch."""
SLOTS = FIRST_ENTRY + MOST_IN_HAND
_SLOT_OF = {Acknowledge: ACKNOWLEDGED, Retry: RETRIED, DeadLetter: DEAD}
_MILLISECONDS = 1000


class Scoreboard:
    """Numbers of one listener: the entries in hand, when to give them up, and how many were settled.

    Args:
        slots: Integers in shared memory, where a supervisor reads them, `SLOTS` for each thread.
        thread: Which of them are ours.
        names: The listeners of the process, of which one has what is in hand.
    """

    def __init__(
        self, slots: MutableSequence[int] | None = None, thread: int = 0, names: Sequence[str] = ()
    ) -> None:
        self._slots = [0] * SLOTS if slots is None else slots
        self._names = tuple(names)
        # Counted from 1: where nothing was written yet, it is nobody.
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        self._first = thread * SLOTS

    def _read(self, slot: int) -> int:
        return self._slots[self._first + slot]

    def _write(self, slot: int, value: int) -> None:
        self._slots[self._first + slot] = value

    def take(self, listener: str, entries: Sequence[int], *, limit: timedelta | None = None) -> None:
        """Say that entries of *listener* are being handled, and after what time the process may be killed for them."""
        self._write(LISTENER, self._numbers.get(listener, 0))
        if limit is not None:
            self._write(KILL_AT, int((time.monotonic() + limit.total_seconds()) * _MILLISECONDS))
        # The number last: what it counts is there then.
        self._write(IN_HAND, 0)
        for place, entry_id in enumerate(entries, FIRST_ENTRY):
            self._write(place, entry_id)
        self._write(IN_HAND, len(entries))

    def put_down(self) -> None:
        """Say that nothing is being handled."""
        self._write(IN_HAND, 0)
        self._write(KILL_AT, 0)

    def clear(self) -> None:
        """Make room for the next process; what the one before settled stays counted."""
        self.put_down()
        for slot in (READY, CONNECTED, ANSWERED):
            self._write(slot, 0)

    def observe(self, happening: Happening) -> None:
        """Add to what was settled: an observer of the listener that shows itself here."""
        if isinstance(happening, Settled):
            for outcome in happening.outcomes:
                slot = _SLOT_OF[type(outcome)]
                self._write(slot, self._read(slot) + 1)

    def ready(self) -> None:
        """Say that the worker is connected and works."""
        self._write(READY, 1)
        self._write(CONNECTED, 1)
        self.answered()

    def disconnected(self) -> None:
        """Say that the worker has no connection."""
        self._write(CONNECTED, 0)

    def answered(self) -> None:
        """Say that the database has just answered."""
        self._write(ANSWERED, int(time.monotonic() * _MILLISECONDS))

    @property
    def is_ready(self) -> bool:
        """Whether the worker was connected once."""
        return bool(self._read(READY))

    @property
    def is_connected(self) -> bool:
        """Whether the worker is connected now, as far as it knows."""
        return bool(self._read(CONNECTED))

    @property
    def unanswered(self) -> float | None:
        """Seconds since the database last answered, None before it did."""
        answered = self._read(ANSWERED)
        return time.monotonic() - answered / _MILLISECONDS if answered else None

    @property
    def in_hand(self) -> list[int]:
        """Ids of the entries being handled."""
        return [self._read(FIRST_ENTRY + place) for place in range(self._read(IN_HAND))]

    @property
    def listener(self) -> str | None:
        """The one whose entries are in hand, or were; None where it is not known."""
        number = self._read(LISTENER)
        return self._names[number - 1] if 0 < number <= len(self._names) else None

    @property
    def overdue(self) -> bool:
        """Whether the handler has outrun its timeout and its grace."""
        kill_at = self._read(KILL_AT)
        return kill_at != 0 and time.monotonic() * _MILLISECONDS > kill_at

    @property
    def is_limited(self) -> bool:
        """Whether what is in hand is ended after a time."""
        return self._read(KILL_AT) != 0

    @property
    def settled(self) -> tuple[int, int, int]:
        """How many were acknowledged, put off and given up."""
        return self._read(ACKNOWLEDGED), self._read(RETRIED), self._read(DEAD)


def scoreboards(slots: MutableSequence[int], names: Sequence[str]) -> list[Scoreboard]:
    """Return the scoreboards of all threads of a worker with these listeners."""
    return [Scoreboard(slots, thread, names) for thread in range(len(slots) // SLOTS)]
