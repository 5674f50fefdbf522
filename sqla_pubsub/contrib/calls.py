"""What became of the calls of handlers.

A handler returns before its transaction is committed, and what it raises may mean another try, a dead letter, or
nothing at all where its group was thrown back. So who reports calls keeps them until the outcome is told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sqla_pubsub.current import CurrentEvent
from sqla_pubsub.deliver.happenings import Happening, Replayed, Settled
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Outcome, Retry

T = TypeVar("T")
End = Literal["acknowledged", "retried", "dead", "thrown_back"]
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Generic[T]):
    """A call of which the end is known.

    Attributes:
        call: What was kept of it.
        end: What became of its events; None where that was never told.
        outcome: The outcome of the first of them; None where none was written.
    """

    call: T
    end: End | None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    keys: tuple[_Key, ...]
    call: T


class Calls(Generic[T]):
    """Keeps calls that have returned until it is told what became of their events; for any number of threads.

    Args:
        most: Events kept at most; the oldest are given back then.
    """

    def __init__(self, *, most: int = 10_000) -> None:
        self._most = most
        self._waiting: dict[_Key, _Waiting[T]] = {}
        self._lock = threading.Lock()

    def returned(self, event: CurrentEvent, call: T) -> list[Ended[T]]:
        """Keep a call; return those that end by it, since their events are handled once more."""
        keys = tuple((event.listener, each) for each in event.ids)
        waiting = _Waiting(keys, call)
        ended = self.repeated(event)
        with self._lock:
            self._waiting |= dict.fromkeys(keys, waiting)
            while len(self._waiting) > max(self._most, len(keys)):
                oldest = next(iter(self._waiting))
                ended += [Ended(call=each, end=None) for each in self._taken([oldest])]
        return ended

    def repeated(self, event: CurrentEvent) -> list[Ended[T]]:
        """Return the calls whose events are handled once more by a call that is not kept."""
        if not self._waiting:
            return []
        with self._lock:
            taken = self._taken((event.listener, each) for each in event.ids)
        return [Ended(call=call, end="thrown_back") for call in taken]

    def told(self, happening: Happening) -> list[Ended[T]]:
        """Return the calls that end by what happened."""
        match happening:
            case Settled(listener=listener, outcomes=outcomes):
                with self._lock:
                    return [
                        Ended(call=call, end=_end(outcome), outcome=outcome)
                        for outcome in outcomes
                        for call in self._taken([(listener, outcome.id)])
                    ]
            case Replayed(listener=listener, entries=entries):
                with self._lock:
                    taken = self._taken((listener, entry) for entry in entries)
                return [Ended(call=call, end="thrown_back") for call in taken]
            case _:
                return []

    def left(self, listeners: Iterable[str]) -> list[Ended[T]]:
        """Return the calls of listeners that have stopped."""
        names = set(listeners)
        with self._lock:
            taken = self._taken([key for key in self._waiting if key[0] in names])
        return [Ended(call=call, end=None) for call in taken]

    def _taken(self, keys: Iterable[_Key]) -> list[T]:
        """Take out the calls of these events, a batch with all of its events."""
        taken: dict[int, T] = {}
        for key in keys:
            found = self._waiting.get(key)
            if found is not None:
                taken[id(found)] = found.call
                for each in found.keys:
                    self._waiting.pop(each, None)
        return list(taken.values())


def _end(outcome: Outcome) -> End:
    match outcome:
        case Acknowledge():
            return "acknowledged"
        case Retry():
            return "retried"
        case DeadLetter():
            return "dead"
