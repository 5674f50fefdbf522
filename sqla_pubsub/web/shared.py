"""What is read from the database once for all who look at it.

However many pages are open, the database is asked once a second at most for what all of them show, by one thread, and
the others wait for its answer. What could not be read is shown as it was, and the page says how old that is.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import PubSubError, sqlstate
from sqla_pubsub.sqlstates import DENIED, GONE

T = TypeVar("T")
MOST_KEPT = 200
"""Answers: one for each choice of a filter that somebody looks at."""
KEPT_FOR = 60.0
"""Seconds after which an answer that nobody asked for again is forgotten."""
_CANCELLED = "57014"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Generic[T]):
    """What was read, or why nothing was.

    Attributes:
        value: The newest that could be read; None where nothing ever could.
        age: Seconds since it was read.
        problem: Why there is nothing newer, None where there is.
    """

    value: T | None
    age: float = 0.0
    problem: str | None = None


class _Kept:
    """One answer, with the lock of who asks for the next one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Any = None
        self.read_at: float | None = None
        self.asked_at: float | None = None
        self.problem: str | None = None


class Shared:
    """Answers that are kept for a moment.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def see(self, key: Hashable, read: Callable[[], T], *, seconds: float = 1.0) -> Seen[T]:
        """Return what *read* returned within the last *seconds*, whoever asked then; else call it."""
        kept = self._of(key)
        with kept.lock:
            if kept.asked_at is None or self._clock() - kept.asked_at >= seconds:
                try:
                    kept.value, kept.problem = read(), None
                    kept.read_at = self._clock()
                except (SQLAlchemyError, PubSubError) as error:
                    kept.problem = sentence(error)
                # After it was read: a slow answer is good for as long as a quick one.
                kept.asked_at = self._clock()
            age = 0.0 if kept.read_at is None else self._clock() - kept.read_at
            return Seen(value=kept.value, age=age, problem=kept.problem)

    def once(self, read: Callable[[], T]) -> Seen[T]:
        """Return what *read* returns, and keep nothing of it: it is large, and for one who looks."""
        try:
            return Seen(value=read())
        except (SQLAlchemyError, PubSubError) as error:
            return Seen(value=None, problem=sentence(error))

    def forget(self) -> None:
        """Read everything anew: somebody has acted, and wants to see what became of it."""
        with self._lock:
            self._kept.clear()

    def _of(self, key: Hashable) -> _Kept:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_KEPT or self._is_old(next(iter(self._kept.values()))):
                self._kept.popitem(last=False)
            return kept

    def _is_old(self, kept: _Kept) -> bool:
        return kept.asked_at is not None and self._clock() - kept.asked_at > KEPT_FOR and len(self._kept) > 1


def sentence(error: Exception) -> str:
    """Say why the database did not answer, and what helps."""
    if isinstance(error, PubSubError):
        return str(error)
    if isinstance(error, PoolTimeout):
        return "The pool of the engine has no connection left for the dashboard."
    state = sqlstate(error)
    if state in _SENTENCES:
        return _SENTENCES[state]
    if state is None or state.startswith(("08", "57P")):
        return "The database cannot be reached."
    return f"The database refused a statement: {describe(getattr(error, 'orig', None) or error)}"


_NOT_THERE = "Our tables are not in this database. Run: alembic upgrade head"
_SENTENCES: dict[str | None, str] = {
    _CANCELLED: "The database did not answer in time. Choose less by a filter, or try again.",
    DENIED: (
        "The database role of the dashboard may not do this. As the owner of the tables, execute what this prints: "
        "sqla-pubsub grants --monitor-role ROLE for who may look, with --operator-role and --listener-role for who acts."
    ),
    **dict.fromkeys(GONE, _NOT_THERE),
}
