"""How ``async def`` handlers are called: each in a task of its own, within its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import copy_context
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.orm import QueryableAttribute, RelationshipProperty

from sqla_pubsub.asyncio.bridge import Waiter, awaited, end
from sqla_pubsub.asyncio.engines import engine_of
from sqla_pubsub.asyncio.leftovers import Call, named
from sqla_pubsub.asyncio.session import AsyncSurroundings
from sqla_pubsub.deliver.handle.not_run import refuse_not_run
from sqla_pubsub.deliver.handle.surroundings import Surroundings
from sqla_pubsub.errors import (
    DeliveryError,
    HandlerCancelled,
    HandlerExit,
    HandlerNotRun,
    HandlerTimeout,
    LazyLoad,
    TaskLeft,
)
from sqla_pubsub.registry import ListenerSpec

_T = TypeVar("_T")

HARD = 5.0
"""Seconds after which a cancelled handler is given up, together with its connection."""


class Stopped(BaseException):
    """The listener is ended while a handler runs, of whose event nothing is known."""


class Asynchronous:
    """Coroutine functions, on the running loop."""

    asynchronous = True

    def __init__(self, surroundings: AsyncSurroundings | None = None) -> None:
        self._own = surroundings or AsyncSurroundings()
        self.surroundings = self._own.plain
        self._waiter = Waiter()
        self.nudge = self._waiter.nudge
        self.given_up = False
        """Whether the listener ends without waiting for its handlers any longer."""
        self._stuck: BaseException | None = None

    def call(self, spec: ListenerSpec, arguments: dict[str, Any]) -> None:
        """Await the handler, whose session is an AsyncSession over the listener's; what it raises comes out.

        Raises:
            HandlerTimeout: It took longer than the listener's ``timeout=``.
            Stopped: The listener ends.
        """
        if "session" not in arguments:
            awaited(self._call(spec, arguments))
            return
        session = self._own.handler_session(arguments["session"])
        try:
            awaited(self._call(spec, arguments | {"session": session}))
        finally:
            session.end()

    async def _call(self, spec: ListenerSpec, arguments: dict[str, Any]) -> None:
        # The task takes a copy of the context, so that nothing that a handler sets is left for the next one.
        call, context = Call(), copy_context()
        call.begin(context)
        ended = Ended(spec.timeout)
        task = ended.loop.create_task(_run(spec, arguments, self.surroundings, ended), context=context)
        task.add_done_callback(ended)
        call.started(task)
        try:
            await ended.wait()
            left = await call.left() if task.done() else call.running()
        except asyncio.CancelledError:
            stopped = Stopped()
            await self._end([task, *call.running()], stopped)
            raise stopped from None
        if (error := _failure(spec, task, left, call.forgotten)) is not None:
            await self._end(left, error)
            raise error

    async def _end(self, tasks: Sequence[asyncio.Task[Any]], error: BaseException) -> None:
        if not all(await asyncio.gather(*(end(task, HARD) for task in tasks))):
            self._stuck = error

    def within(
        self, _name: str, _timeout: timedelta, _connection: Connection, handle: Callable[[], _T]
    ) -> _T:
        """Call *handle*: `call` sees to the time."""
        return handle()

    def is_stop(self, error: BaseException) -> bool:
        """Whether the listener's own task is being ended."""
        return self.given_up or isinstance(error, Stopped)

    def is_stuck(self, error: BaseException) -> bool:
        """Whether the handler goes on although it was cancelled, perhaps with a statement on the connection."""
        return error is self._stuck

    def wait(self, seconds: float, /, *descriptors: int) -> bool:
        """Let the loop go on."""
        return self._waiter(seconds, *descriptors)

    def engine(self, url: str) -> Engine:
        """Return an engine on the loop that notices a server which went away."""
        return engine_of(url).sync_engine


def _failure(
    spec: ListenerSpec,
    task: asyncio.Task[None],
    left: Sequence[asyncio.Task[Any]],
    forgotten: Sequence[str],
) -> BaseException | None:
    """Return what became of a call, None where it did all that it should."""
    if not task.done():
        return HandlerTimeout(f"listener {spec.name!r} ran longer than its timeout of {spec.timeout}")
    handler = f"the handler of listener {spec.name!r}"
    if task.cancelled():
        return HandlerCancelled(f"{handler} was cancelled, or let a cancellation out")
    if (raised := task.exception()) is not None:
        return raised
    if left:
        return TaskLeft(
            f"{handler} returned and left running: {', '.join(map(named, left))}. Await each task in the handler, as "
            "asyncio.TaskGroup does; start what is to outlive the handler outside of it, or with create_task(..., "
            "context=contextvars.Context())"
        )
    if forgotten:
        names = ", ".join(f"{name}()" for name in dict.fromkeys(forgotten))
        return HandlerNotRun(
            f"{handler} called {names} without await, so nothing of that was done. Write: await ..."
        )
    return None


class Ended:
    """Tells the listener that a handler has ended, or its time is over; to be cancelled does the handler nothing.

    `asyncio.wait` does the same, a turn of the loop later.

    Args:
        limit: How long it may take.
    """

    def __init__(self, limit: timedelta | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._limit = limit
        self._future = self.loop.create_future()

    def __call__(self, _: object = None) -> None:
        """Say so; the handler's task does, once more when it is done, because one that never began says nothing."""
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Return when it has."""
        if self._limit is None:
            await self._future
            return
        alarm = self.loop.call_later(self._limit.total_seconds(), self)
        try:
            await self._future
        finally:
            alarm.cancel()


async def _run(
    spec: ListenerSpec, arguments: dict[str, Any], surroundings: Surroundings, ended: Ended
) -> None:
    try:
        if surroundings.around:
            returned = await surroundings.await_call(spec.handler, arguments)
        else:
            returned = await spec.handler(**arguments)
        refuse_not_run(returned, spec.name, "Await it in the handler, or return nothing")
    except (MissingGreenlet, StatementError) as error:
        if isinstance(error, StatementError) and not isinstance(error.orig, MissingGreenlet):
            raise
        raise _lazily(spec, error) from error
    except SystemExit as error:
        # Out of a task it would end the loop, with all that runs there.
        raise HandlerExit(
            f"the handler of listener {spec.name!r} raised SystemExit({error.code!r})"
        ) from error
    finally:
        ended()


RUNS_HANDLER = _run.__code__
"""The code whose frames have handlers above them."""


def _lazily(spec: ListenerSpec, error: Exception) -> DeliveryError:
    """Say which attribute was to be loaded without an await."""
    name, door = "an attribute", "Read it with a query of the handler's own"
    traceback = error.__traceback__
    while traceback is not None:
        found = traceback.tb_frame.f_locals.get("self")
        if isinstance(found, QueryableAttribute) and traceback.tb_frame.f_code.co_name == "__get__":
            name, door = str(found), _loaded_by(spec, found) or door
        traceback = traceback.tb_next
    return LazyLoad(
        f"the handler of listener {spec.name!r} touched {name}, which is not loaded and needs a statement. "
        f"{door}, await it through AsyncAttrs (await row.awaitable_attrs.name), "
        "or use: await session.run_sync(function)"
    )


def _loaded_by(spec: ListenerSpec, attribute: QueryableAttribute[Any]) -> str | None:
    """Return what loads a relationship for the whole group, None for what is none."""
    if not isinstance(attribute.prop, RelationshipProperty):
        return None
    models = [each.mapper for each in spec.subscriptions if each.mapper is not None]
    parent: Any = attribute.parent
    own = any(model.isa(parent) or parent.isa(model) for model in models)
    load = str(attribute) if own else f"selectinload(...).selectinload({attribute})"
    return f"Load it for the whole group with load=[{load}] of the decorator"
