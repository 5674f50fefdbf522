"""Handling what the transaction of a test has published, inside of that transaction."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import OperationalError

from sqla_pubsub.deliver.arguments import chosen
from sqla_pubsub.deliver.borrowed import BorrowedListener, Report
from sqla_pubsub.deliver.colour import Colour, Synchronous
from sqla_pubsub.deliver.handle.chain import chain_of
from sqla_pubsub.deliver.handle.deadline import call_within
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Retry
from sqla_pubsub.errors import ConfigurationError, PubSubError, Reject
from sqla_pubsub.event import Event
from sqla_pubsub.registry import ListenerSpec, Registry
from sqla_pubsub.testing.history import remember
from sqla_pubsub.testing.transaction import Caller, Declared, in_transaction, outboxes

if TYPE_CHECKING:
    from sqla_pubsub.testing.transaction import AwaitedCaller

MAX_DEPTH = 20
"""Handlers that may have written, one after the other, what caused an event."""

_IMMEDIATE = text("SET CONSTRAINTS ALL IMMEDIATE")
_failing: ContextVar[list[int]] = ContextVar("sqla_pubsub_failing_commits")
_order: ContextVar[random.Random | None] = ContextVar("sqla_pubsub_order", default=None)

Listeners = Collection[str | Callable[..., Any]] | None


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


@overload
def drain(
    session: Caller,
    *,
    listeners: Listeners = ...,
    raises: bool = ...,
    check_constraints: bool = ...,
    max_depth: int = ...,
    metadata: MetaData | None = ...,
) -> Drained: ...


@overload
def drain(
    session: AwaitedCaller,
    *,
    listeners: Listeners = ...,
    raises: bool = ...,
    check_constraints: bool = ...,
    max_depth: int = ...,
    metadata: MetaData | None = ...,
) -> Coroutine[Any, Any, Drained]: ...


def drain(
    session: Caller | AwaitedCaller,
    *,
    listeners: Listeners = None,
    raises: bool = True,
    check_constraints: bool = False,
    max_depth: int = MAX_DEPTH,
    metadata: MetaData | None = None,
) -> Drained | Coroutine[Any, Any, Drained]:
    """Handle what is due, inside the transaction of *session*: also what it has published and not committed.

    Each event is handled in a savepoint; the session of its handler is on the same connection. What handlers
    publish is handled too. Afterwards the objects of *session* show what handlers have written.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        listeners: Names or handlers of the listeners to run; None runs all.
        raises: Whether to end with the first error of a handler and raise it, when it is written down. Else errors
            are in what is returned.
        check_constraints: Whether deferred constraints are checked with each event, as a commit would.
        max_depth: Handlers that may have written, one after the other, what caused an event.
        metadata: Whose listeners; None for those that are declared.

    Raises:
        EndlessLoop: Handlers go on calling each other; the message names them.
        ConfigurationError: The session is of the wrong kind for a handler, or nothing is declared or installed.
    """

    def work(connection: Connection) -> Drained:
        _check(connection, wanted=check_constraints)
        total = Drained()
        declared = outboxes(connection, metadata)
        while True:
            drained = [
                _Draining(connection, each, _named(listeners, each.registry), max_depth, check_constraints)
                for each in declared
            ]
            before = total
            for each in drained:
                total += each.drain(raises=raises)
            if len(declared) == 1 or total == before:
                return total

    return in_transaction(session, "drain", work, writes=True)


@overload
def deliver_twice(session: Caller, event: Event[Any], *, metadata: MetaData | None = ...) -> Drained: ...


@overload
def deliver_twice(
    session: AwaitedCaller, event: Event[Any], *, metadata: MetaData | None = ...
) -> Coroutine[Any, Any, Drained]: ...


def deliver_twice(
    session: Caller | AwaitedCaller, event: Event[Any], *, metadata: MetaData | None = None
) -> Drained | Coroutine[Any, Any, Drained]:
    """Handle one event twice, as after a crash that came between the handler and the commit.

    What the handler did in the database is undone in between, what it did outside is not. So this shows
    whether ``event.id`` serves as the idempotency key of a mail or a payment.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        event: One that `published` returned, and that is not handled yet.
        metadata: Whose listener; None for those that are declared.

    Raises:
        ConfigurationError: The event is handled already, or its listener is not declared.
    """

    def work(connection: Connection) -> Drained:
        for each in outboxes(connection, metadata):
            if event.listener in each.registry.listeners:
                specs = [each.registry.listeners[event.listener]]
                return _Draining(connection, each, specs, MAX_DEPTH, checked=False).twice(event)
        raise ConfigurationError(f"listener {event.listener!r} of event {event.id} is not declared.")

    return in_transaction(session, "deliver_twice", work, writes=True)


@contextmanager
def fail_commit(times: int = 1) -> Iterator[None]:
    """Let the next commits fail that handlers in the block are acknowledged by: their events are handled again.

    Args:
        times: How many of them.
    """
    token = _failing.set([times])
    try:
        yield
    finally:
        _failing.reset(token)


@contextmanager
def in_any_order(seed: int) -> Iterator[None]:
    """Handle the events of the block one by one, in an order that depends on *seed*; ``ordered=True`` keeps its own.

    Without ``ordered=True`` nothing is promised about order, and workers on several hosts show it.
    """
    token = _order.set(random.Random(seed))
    try:
        yield
    finally:
        _order.reset(token)


class _Draining:
    """One drain of one outbox."""

    def __init__(
        self,
        connection: Connection,
        declared: Declared,
        specs: Sequence[ListenerSpec],
        max_depth: int,
        checked: bool,
    ) -> None:
        self._connection = connection
        self._declared = declared
        self._specs = specs
        self._max_depth = max_depth
        self._checked = checked
        self._report = Report()
        self._raises = True

    def drain(self, *, raises: bool) -> Drained:
        self._raises = raises
        with self._listener() as listener:
            order = _order.get()
            listener.drain(None if order is None else order.choice)
        return self._result()

    def twice(self, event: Event[Any]) -> Drained:
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
        colours = _Colours(self._connection)
        listener = BorrowedListener(
            self._connection, self._declared.registry, self._declared.place, self._specs,
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
        failing = _failing.get([0])
        if failing[0] > 0:
            failing[0] -= 1
            raise OperationalError("COMMIT", None, Exception("made to fail by fail_commit()"))
        _check(connection, wanted=self._checked)

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


class _Colours:
    """How handlers are called on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._on_loop = connection.dialect.is_async
        self._awaited: Colour | None = None

    def of(self, spec: ListenerSpec) -> Colour:
        if not spec.asynchronous:
            return _Unbounded() if self._on_loop else _Sparing()
        if not self._on_loop:
            raise ConfigurationError(
                f"listener {spec.name!r} is async def, and the session of this test is not. Write: await drain(session) "
                "with an AsyncSession, or leave it out with listeners=[...]."
            )
        if self._awaited is None:
            from sqla_pubsub.asyncio.handling import Asynchronous  # noqa: PLC0415

            self._awaited = Asynchronous()
        return self._awaited

    def watched(self) -> Any:
        """Watch what handlers leave behind on the loop."""
        if not self._on_loop:
            return nullcontext()
        from sqla_pubsub.asyncio.leftovers import watched  # noqa: PLC0415

        return watched(asyncio.get_running_loop())


class _Sparing(Synchronous):
    """Plain functions, whose time is bounded so that the connection of the test goes on."""

    def within(self, spec: ListenerSpec, connection: Connection, handle: Callable[[], None]) -> None:
        if spec.timeout is None:
            handle()
        else:
            call_within(spec.timeout, connection, spec.name, handle, spare=True)


class _Unbounded(Synchronous):
    """Plain functions on a loop, where no alarm may interrupt them: it would hit the loop."""

    def within(self, _spec: ListenerSpec, _connection: Connection, handle: Callable[[], None]) -> None:
        handle()


def _named(listeners: Listeners, registry: Registry) -> list[ListenerSpec]:
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


def _check(connection: Connection, *, wanted: bool) -> None:
    """Check deferred constraints, and leave them deferred."""
    if not wanted:
        return
    savepoint = connection.begin_nested()
    try:
        connection.execute(_IMMEDIATE)
    finally:
        savepoint.rollback()
