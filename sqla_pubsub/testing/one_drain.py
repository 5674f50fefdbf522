"""One drain of one outbox on the connection of a test, and what came of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from sqla_pubsub.deliver.arguments import chosen
from sqla_pubsub.deliver.borrowed import BorrowedListener, Report
from sqla_pubsub.deliver.handle.chain import chain_of
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Retry
from sqla_pubsub.errors import ConfigurationError, PubSubError, Reject
from sqla_pubsub.event import Event
from sqla_pubsub.registry import ListenerSpec, Registry
from sqla_pubsub.testing.colours import Application, Colours
from sqla_pubsub.testing.history import remember
from sqla_pubsub.testing.transaction import Declared

failing_commits: ContextVar[list[int]] = ContextVar("sqla_pubsub_failing_commits")
"""How many of the next commits fail."""
order: ContextVar[random.Random | None] = ContextVar("sqla_pubsub_order", default=None)
"""What chooses the next event, None for the order of every listener."""

Listeners = Collection[str | Callable[..., Any]] | None
_IMMEDIATE = text("SET CONSTRAINTS ALL IMMEDIATE")


class EndlessLoop(PubSubError):
    """Handlers go on calling each other: each writes what the next one listens to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What became of events.

    Attributes:
        acknowledged: How many were handled.
        retried: How many tries failed, of events that wait for another one or have had it.
        dead: How many are dead letters.
        failed: What the failed tries raised, in order.
    """

    acknowledged: int = 0
    retried: int = 0
    dead: int = 0
    failed: tuple[BaseException, ...] = field(default=(), compare=False)

    def __add__(self, other: Drained) -> Drained:
        """Return what both did."""
        return Drained(
            acknowledged=self.acknowledged + other.acknowledged,
            retried=self.retried + other.retried,
            dead=self.dead + other.dead,
            failed=self.failed + other.failed,
        )


class OneDrain:
    """Handles what is due of some listeners.

    Args:
        connection: In the transaction of the test.
        declared: The outbox.
        specs: The listeners.
        max_depth: Handlers in a chain at most.
        application: What is put around the handlers.
        checked: Whether deferred constraints are checked with each event.
    """

    def __init__(
        self,
        connection: Connection,
        declared: Declared,
        specs: Sequence[ListenerSpec],
        max_depth: int,
        *,
        application: Application,
        checked: bool = False,
    ) -> None:
        self._application = application
        self._connection = connection
        self._declared = declared
        self._specs = specs
        self._max_depth = max_depth
        self._checked = checked
        self._report = Report()
        self._raises = True

    def drain(self, *, raises: bool) -> Drained:
        """Handle all, or all until the first error where that *raises*."""
        self._raises = raises
        with self._listener() as listener:
            chance = order.get()
            listener.drain(None if chance is None else chance.choice)
        return self._result()

    def twice(self, event: Event[Any]) -> Drained:
        """Handle one event, and once more as if nothing had become of it."""
        with self._listener() as listener:
            if (event.id, event.listener) not in listener.due():
                raise ConfigurationError(
                    f"event {event.id} for {event.listener!r} is not due: it was handled, or waits for its next try. "
                    "Call deliver_twice() before drain()."
                )
            listener.deliver(event.id, event.listener, crash=True)
        return self._result()

    @contextmanager
    def _listener(self) -> Iterator[BorrowedListener]:
        colours = Colours(self._connection, self._application)
        listener = BorrowedListener(
            self._connection, self._declared.registry, self._declared.place, self._declared.known, self._specs,
            colour_of=colours.of, report=self._report, stopping=self._is_over,
            before_commit=self._before_commit, before_round=self._remember, max_depth=self._max_depth,
        )  # fmt: skip
        with colours.watched():
            try:
                yield listener
            finally:
                listener.give_back()

    def _is_over(self) -> bool:
        return any(self._raises or _is_to_raise(error) for _, _, error in self._report.failures) or bool(
            self._loop()
        )

    def _remember(self) -> None:
        remember(self._connection, self._declared.place)

    def _before_commit(self, connection: Connection) -> None:
        failing = failing_commits.get([0])
        if failing[0] > 0:
            failing[0] -= 1
            raise OperationalError("COMMIT", None, Exception("made to fail by fail_commit()"))
        check_constraints(connection, wanted=self._checked)

    def _result(self) -> Drained:
        if loop := self._loop():
            raise EndlessLoop(loop)
        for name, entry, error in self._report.failures:
            if self._raises or _is_to_raise(error):
                error.add_note(
                    f"raised by listener {name!r} for event {entry.id}, {entry.operation} of {entry.source!r}, "
                    f"attempt {entry.attempt + 1}"
                )
                raise error
        kinds = Counter(type(outcome) for outcome in self._report.outcomes)
        errors = tuple(error for _, _, error in self._report.failures)
        return Drained(
            acknowledged=kinds[Acknowledge], retried=kinds[Retry], dead=kinds[DeadLetter], failed=errors
        )

    def _loop(self) -> str:
        for name, entry, error in self._report.failures:
            chain = chain_of(entry)
            if isinstance(error, Reject) and chain.depth > self._max_depth:
                names = " -> ".join((*chain.names, name))
                return (
                    f"listeners go on calling each other: {names}, {chain.depth} handlers one after the other. "
                    "Let one of them change only what is not right yet, narrow it with of= or when=, or allow "
                    "more by max_depth=."
                )
        return ""


def named(listeners: Listeners, registry: Registry) -> list[ListenerSpec]:
    """Return the listeners that a test means.

    Raises:
        ConfigurationError: One of them is not declared.
    """
    if listeners is None:
        return list(registry.listeners.values())
    if isinstance(listeners, str) or callable(listeners):
        raise ConfigurationError(f"drain(listeners={listeners!r}): give a list, [{listeners!r}].")
    names = [each if isinstance(each, str) else _name_of(each, registry) for each in listeners]
    return chosen(registry.listeners, names)


def _name_of(handler: Callable[..., Any], registry: Registry) -> str:
    for name, spec in registry.listeners.items():
        if spec.handler is handler:
            return name
    return str(getattr(handler, "__name__", handler))


def _is_to_raise(error: BaseException) -> bool:
    """Ctrl-C and the outcomes of pytest are no errors of a handler."""
    return not isinstance(error, Exception)


def check_constraints(connection: Connection, *, wanted: bool) -> None:
    """Check deferred constraints, and leave them deferred."""
    if not wanted:
        return
    savepoint = connection.begin_nested()
    try:
        connection.execute(_IMMEDIATE)
    finally:
        savepoint.rollback()
