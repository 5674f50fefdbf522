"""The colour of a listener: what is different about it on an event loop.

Lanes, runners and claims are the same for ``def`` and ``async def``. SQLAlchemy runs them on a loop in a greenlet, in
which a statement lets the loop go on. What remains stands here: how a handler is called and with which session, how
long it may take, and how a listener sleeps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from sqla_pubsub.deliver.handle.deadline import call_within
from sqla_pubsub.deliver.handle.not_run import refuse_not_run
from sqla_pubsub.deliver.handle.surroundings import Surroundings
from sqla_pubsub.deliver.io.reconnect import make_engine
from sqla_pubsub.deliver.io.waiter import wait_readable
from sqla_pubsub.registry import ListenerSpec

_T = TypeVar("_T")


class Colour(Protocol):
    """What a listener does in the way of its handlers."""

    @property
    def asynchronous(self) -> bool:
        """Whether its handlers are awaited."""

    @property
    def surroundings(self) -> Surroundings:
        """What the application puts around them."""

    def call(self, spec: ListenerSpec, arguments: dict[str, Any], /) -> Any:
        """Call the handler with a session of its colour, see that it has run, and return what it returned.

        What it raises comes out.
        """

    def within(
        self, name: str, timeout: timedelta, connection: Connection, handle: Callable[[], _T], /
    ) -> _T:
        """Call *handle* and return what it returned; raise HandlerTimeout after the *timeout* of listener *name*."""

    def is_stop(self, error: BaseException, /) -> bool:
        """Whether an exception in a handler is the end of the listener, and says nothing of the event."""

    def is_stuck(self, error: BaseException, /) -> bool:
        """Whether the handler goes on although it was ended, so that nothing can be done on its connection."""

    def wait(self, seconds: float, /, *descriptors: int) -> bool:
        """As `sqla_pubsub.deliver.io.waiter.Waiter`."""

    def engine(self, url: str, /) -> Engine:
        """Return an engine of this colour for *url*."""


class Synchronous:
    """Plain functions, in this thread."""

    asynchronous = False

    def __init__(self, surroundings: Surroundings | None = None) -> None:
        self.surroundings = surroundings or Surroundings()
        self.surroundings.refuse_awaited()

    def call(self, spec: ListenerSpec, arguments: dict[str, Any]) -> Any:
        """Call the handler, and return what it returned.

        Raises:
            HandlerNotRun: It returned something that had to be run first.
        """
        # A copy, so that nothing that a handler sets is left for the next one.
        if self.surroundings.around:
            returned = copy_context().run(self.surroundings.call, spec.handler, arguments)
        else:
            returned = copy_context().run(spec.handler, **arguments)
        if returned is not None:
            refuse_not_run(returned, spec.name)
        return returned

    def within(self, name: str, timeout: timedelta, connection: Connection, handle: Callable[[], _T]) -> _T:
        """Interrupt the handler, and the statement that it waits for.

        Raises:
            HandlerTimeout: It took too long.
        """
        return call_within(timeout, connection, name, handle)

    def is_stop(self, _: BaseException) -> bool:
        """Whatever a handler raises here, it has raised itself."""
        return False

    def is_stuck(self, _: BaseException) -> bool:
        """It was interrupted, and has ended."""
        return False

    def wait(self, seconds: float, /, *descriptors: int) -> bool:
        """Block this thread."""
        return wait_readable(seconds, *descriptors)

    def engine(self, url: str) -> Engine:
        """Return an engine that notices a server which went away."""
        return make_engine(url)
