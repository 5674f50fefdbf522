"""What a worker shows in memory that it shares with its supervisor: what it has in hand, and what it did so far."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any

from sqla_pubsub.operate.tally import Tally, label_size, size
from sqla_pubsub.process.scoreboard import SLOTS, Scoreboard, scoreboards


class Shown:
    """The memory of one worker; it can be given to a process that is started, and only to that.

    Args:
        names: The listeners that it runs.
        threads: How many scoreboards it has.
    """

    def __init__(self, names: Sequence[str], threads: int) -> None:
        self._names = tuple(names)
        self._slots: Any = RawArray("q", SLOTS * threads)
        self._cells: Any = RawArray("d", size(names))
        self._labels: Any = RawArray("B", label_size(names))

    def scoreboards(self) -> list[Scoreboard]:
        """Return those of all threads."""
        return scoreboards(self._slots, self._names)

    def tally(self) -> Tally:
        """Return what counts there."""
        return Tally(self._names, self._cells, self._labels)
