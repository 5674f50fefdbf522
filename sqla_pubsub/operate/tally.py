"""The observer that counts what listeners do.

The numbers stand in plain sequences. Those of a worker are in memory that it shares with its supervisor, so they go
on where a process ends; a group of events costs one pass, whatever the number of totals.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from threading import Lock
from typing import get_args

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.happenings import Happening, LossRole, Lost, Replayed, Settled, WakeReason, Woken
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Retry, is_transient
from sqla_pubsub.errors import HandlerTimeout
from sqla_pubsub.operate.totals import BOUNDS, BUCKETS, Histogram, ListenerTotals, Totals

REPLAY_REASONS = ("conflict", "database", "handler")
"""Transactions of others, another error of the database, or what a handler raised."""
LOSS_ROLES: tuple[LossRole, ...] = get_args(LossRole)
WAKE_REASONS: tuple[WakeReason, ...] = get_args(WakeReason)
MOST_ERROR_TYPES = 20
OTHER = "_OTHER"
"""Stands for all types of errors beyond the first ones."""

_WIDTH = 64
"""Bytes of the name of an error type."""
_TIMEOUTS = 3
"""Behind what was acknowledged, retried and dead."""
_DURATIONS = _TIMEOUTS + 1
_LATENCIES = _DURATIONS + BUCKETS + 1
_ERRORS = _LATENCIES + BUCKETS + 1
_OF_LISTENER = _ERRORS + MOST_ERROR_TYPES + 1
_REPLAYS = 0
_LOSSES = _REPLAYS + len(REPLAY_REASONS)
_WAKEUPS = _LOSSES + len(LOSS_ROLES)
_OF_PROCESS = _WAKEUPS + len(WAKE_REASONS)


class Tally:
    """Counts what it is told of some listeners; an observer of theirs.

    Args:
        names: The listeners; of others nothing is counted.
        cells: Numbers in shared memory, `size` of them.
        labels: Bytes there for the names of error types, `label_size` of them.
    """

    def __init__(
        self,
        names: Sequence[str],
        cells: MutableSequence[float] | None = None,
        labels: MutableSequence[int] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._cells = [0.0] * size(names) if cells is None else cells
        self._labels = bytearray(label_size(names)) if labels is None else labels
        self._first = {name: _OF_PROCESS + place * _OF_LISTENER for place, name in enumerate(self._names)}
        self._places: dict[tuple[str, str], int] = {}
        # Threads of one process share it, and += is none of one step.
        self._lock = Lock()

    def __call__(self, happening: Happening) -> None:
        """Count what happened."""
        match happening:
            case Settled(listener=name) if name in self._first:
                self._settled(happening, self._first[name])
            case Replayed(cause=cause):
                self._add(_REPLAYS + REPLAY_REASONS.index(_reason(cause)))
            case Lost(role=role):
                self._add(_LOSSES + LOSS_ROLES.index(role))
            case Woken(reason=reason):
                self._add(_WAKEUPS + WAKE_REASONS.index(reason))
            case _:
                pass

    def totals(self) -> Totals:
        """Return what was counted so far."""
        return Totals(
            listeners={name: self._of_listener(name) for name in self._names},
            replays=self._named(_REPLAYS, REPLAY_REASONS),
            losses=self._named(_LOSSES, LOSS_ROLES),
            wakeups=self._named(_WAKEUPS, WAKE_REASONS),
        )

    def _settled(self, settled: Settled, first: int) -> None:
        # Thousands a second: lists that are made at once cost a third of a call for each outcome.
        failed = [outcome for outcome in settled.outcomes if not isinstance(outcome, Acknowledge)]
        durations = [outcome.seconds for outcome in settled.outcomes if outcome.seconds is not None]
        latencies = list(_latencies(settled)) if settled.at is not None else []
        dead = sum(isinstance(outcome, DeadLetter) for outcome in failed)
        ends = (len(settled.outcomes) - len(failed), len(failed) - dead, dead)
        with self._lock:
            for place, number in enumerate(ends):
                if number:
                    self._cells[first + place] += number
            self._measured(durations, first + _DURATIONS)
            self._measured(latencies, first + _LATENCIES)
            for failure in failed:
                self._failed(settled.listener, failure, first)

    def _measured(self, seconds: Sequence[float], first: int) -> None:
        if not seconds:
            return
        counts = [0] * BUCKETS
        for each in seconds:
            counts[bisect_left(BOUNDS, each)] += 1
        for place, number in enumerate(counts):
            if number:
                self._cells[first + place] += number
        self._cells[first + BUCKETS] += sum(seconds)

    def _failed(self, listener: str, failure: Retry | DeadLetter, first: int) -> None:
        kind = failure.error_type
        if not kind or kind == "RetryLater":
            return
        if kind == HandlerTimeout.__name__:
            self._cells[first + _TIMEOUTS] += 1
        key = (listener, kind)
        if key not in self._places:
            self._places[key] = self._place(self._names.index(listener), kind)
        self._cells[first + _ERRORS + self._places[key]] += 1

    def _place(self, listener: int, kind: str) -> int:
        """Return where an error type is counted; a process before this one may have given it a place."""
        written = kind.encode(errors="replace")[: _WIDTH - 1]
        for place in range(MOST_ERROR_TYPES):
            known = self._label(listener, place)
            if not known:
                start = (listener * MOST_ERROR_TYPES + place) * _WIDTH
                for offset, byte in enumerate(written):
                    self._labels[start + offset] = byte
            if not known or known == written:
                return place
        return MOST_ERROR_TYPES

    def _label(self, listener: int, place: int) -> bytes:
        start = (listener * MOST_ERROR_TYPES + place) * _WIDTH
        return bytes(self._labels[start : start + _WIDTH]).rstrip(b"\0")

    def _add(self, place: int) -> None:
        with self._lock:
            self._cells[place] += 1

    def _named(self, first: int, names: Iterable[str]) -> dict[str, int]:
        return {name: int(self._cells[first + place]) for place, name in enumerate(names)}

    def _of_listener(self, name: str) -> ListenerTotals:
        first = self._first[name]
        cells = self._cells[first : first + _OF_LISTENER]
        acknowledged, retried, dead = map(int, cells[:_TIMEOUTS])
        return ListenerTotals(
            acknowledged=acknowledged,
            retried=retried,
            dead=dead,
            timeouts=int(cells[_TIMEOUTS]),
            durations=_histogram(cells[_DURATIONS:_LATENCIES]),
            latencies=_histogram(cells[_LATENCIES:_ERRORS]),
            failures=self._failures(self._names.index(name), cells[_ERRORS:]),
        )

    def _failures(self, listener: int, counts: Sequence[float]) -> dict[str, int]:
        found: dict[str, int] = {}
        for place, number in enumerate(counts):
            if number:
                other = place == MOST_ERROR_TYPES
                label = OTHER if other else self._label(listener, place).decode(errors="replace")
                found[label] = found.get(label, 0) + int(number)
        return found


def size(names: Sequence[str]) -> int:
    """Return how many numbers a `Tally` of *names* has."""
    return _OF_PROCESS + len(names) * _OF_LISTENER


def label_size(names: Sequence[str]) -> int:
    """Return how many bytes it has for the names of error types."""
    return len(names) * MOST_ERROR_TYPES * _WIDTH


def _latencies(settled: Settled) -> Iterator[float]:
    at = settled.at
    for outcome in settled.outcomes:
        if at is not None and isinstance(outcome, Acknowledge) and outcome.occurred_at is not None:
            # The clock of the server may have been set back.
            yield max(0.0, (at - outcome.occurred_at).total_seconds())


def _histogram(cells: Sequence[float]) -> Histogram:
    return Histogram(counts=tuple(map(int, cells[:BUCKETS])), total=cells[BUCKETS])


def _reason(cause: BaseException) -> str:
    if is_transient(cause):
        return "conflict"
    return "database" if isinstance(cause, DBAPIError) else "handler"
