"""Which entries the next group works: the due ones now and then, else the next ready ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.run.result import ids
from sqla_pubsub.deliver.scan import Scan
from sqla_pubsub.deliver.store import Store
from sqla_pubsub.subscription import ListenerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What was claimed: entries to work together, and ids of those to be worked in isolation."""

    entries: tuple[Entry, ...]
    crashed: tuple[int, ...]

    @property
    def number(self) -> int:
        """How many entries were claimed."""
        return len(self.entries) + len(self.crashed)


class Claimer:
    """Claims the entries of one listener, and keeps its cursor where they begin.

    Args:
        spec: The listener.
        cursor: Where its next claim starts.
        clock: Seconds.
    """

    def __init__(self, spec: ListenerSpec, cursor: Scan, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._cursor = cursor
        self._clock = clock
        self._due_last = False
        """Whether the last claim was of due entries: a storm of retries leaves new events their share."""

    def claim(self, store: Store, size: int) -> Claimed:
        """Claim up to *size* entries in the open transaction of *store*: due ones and new ones in turn."""
        first, second = (self._new, self._due) if self._due_last else (self._due, self._new)
        return _apart(first(store, size) or second(store, size))

    def _due(self, store: Store, size: int) -> list[Entry]:
        now = self._clock()
        if not self._cursor.is_due(now):
            return []
        due = store.claims.due(self._spec, size=size)
        # In order, those that are handled now may hold back others that are due too.
        if len(due) < size and not (due and self._spec.ordered):
            self._cursor.no_more_due(now)
        self._due_last = bool(due)
        return due

    def _new(self, store: Store, size: int) -> list[Entry]:
        self._due_last = False
        now = self._clock()
        if self._cursor.is_look_back(now):
            self.look_back(store)
        start, floor = self._cursor.start(now), self._cursor.order_floor(now)
        return store.claims.ready(self._spec, start=start, floor=floor, size=size)

    def look_back(self, store: Store) -> None:
        """Look for what is left below the start: late commits, and what others gave back."""
        began = self._clock()
        look = store.claims.look(self._spec, start=self._cursor.floor(began), bind=self._cursor.is_unbound)
        self._cursor.looked(began, self._clock(), look)


def _apart(entries: list[Entry]) -> Claimed:
    """An entry that killed a process before runs in isolation, so that only it pays if it does again."""
    return Claimed(
        entries=tuple(entry for entry in entries if not entry.crashes),
        crashed=ids(entry for entry in entries if entry.crashes),
    )
