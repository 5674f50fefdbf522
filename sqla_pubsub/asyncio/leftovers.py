"""What a handler has left behind: tasks that still run, and coroutines that nobody has awaited.

A task belongs to the handler in whose context it was started, directly or by another task: it has a copy of that
context, and in there is the `Call`. So the tasks of handlers beside it, and of the application, are never taken for
its own. A coroutine that was dropped is found when Python drops it, at once and in the context of who dropped it;
what the garbage collector finds later tells nothing of that.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from threading import Lock
from typing import Any
from weakref import WeakSet

PATIENCE = 0.1
"""Seconds for tasks that are about to end, such as one that a driver has started to cancel a statement."""

_HOOK = "_warn_unawaited_coroutine"
"""What Python calls in the module `warnings` for a coroutine that was never awaited, before any filter."""

_call: ContextVar[Call | None] = ContextVar("sqla_pubsub_call", default=None)


class Call:
    """One call of a handler, in a task of its own."""

    def __init__(self) -> None:
        self._own: asyncio.Task[Any] | None = None
        self._more: WeakSet[asyncio.Task[Any]] | None = None
        """Those that its handler has started; few handlers do."""
        self.forgotten: list[str] = []
        """Names of coroutines that were never awaited."""

    def begin(self, context: Context) -> None:
        """Have what is started in *context* counted to this call."""
        context.run(_call.set, self)

    def started(self, task: asyncio.Task[Any]) -> None:
        """Take note of a task; the first one is the call's own."""
        if self._own is None or self._own is task:
            self._own = task
        elif self._more is None:
            self._more = WeakSet([task])
        else:
            self._more.add(task)

    def running(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that go on."""
        own = [] if self._own is None or self._own.done() else [self._own]
        return own if self._more is None else [*own, *(task for task in self._more if not task.done())]

    async def left(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that go on although the handler has ended, and are not about to end."""
        if running := self.running():
            await asyncio.wait(running, timeout=PATIENCE)
            running = self.running()
        return running


class _Factory:
    """Makes tasks as the loop did before, and counts them to the call that they belong to."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.users = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        make = self.before
        task = (
            asyncio.Task(coroutine, loop=loop, **options)
            if make is None
            else make(loop, coroutine, **options)
        )
        context: Context | None = options.get("context")
        call = _call.get() if context is None else context.get(_call)
        if call is not None and isinstance(task, asyncio.Task):
            call.started(task)
        return task


class _Hook:
    """Counts dropped coroutines to the call that dropped them; all others are told of as before."""

    def __init__(self) -> None:
        self.users = 0
        self.lock = Lock()
        self.collecting = False
        self.before: Callable[[Any], None] = getattr(warnings, _HOOK, lambda _: None)

    def __call__(self, coroutine: Any) -> None:
        call = _call.get()
        if call is None or self.collecting:
            self.before(coroutine)
        else:
            call.forgotten.append(coroutine.__qualname__)

    def take(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                gc.callbacks.append(self._collects)
                if hasattr(warnings, _HOOK):
                    self.before = getattr(warnings, _HOOK)
                    setattr(warnings, _HOOK, self)

    def let_go(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                gc.callbacks.remove(self._collects)
                if getattr(warnings, _HOOK, None) is self:
                    setattr(warnings, _HOOK, self.before)

    def _collects(self, phase: str, _: object) -> None:
        self.collecting = phase == "start"


_hook = _Hook()


@contextmanager
def watched(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Watch what handlers on *loop* leave behind."""
    present: Any = loop.get_task_factory()
    factory = present if isinstance(present, _Factory) else _Factory(present)
    if factory is not present:
        loop.set_task_factory(factory)
    factory.users += 1
    _hook.take()
    try:
        yield
    finally:
        _hook.let_go()
        factory.users -= 1
        if not factory.users and loop.get_task_factory() is factory:
            loop.set_task_factory(factory.before)


def named(task: asyncio.Task[Any]) -> str:
    """Return a task as its author knows it: its name, and what it runs."""
    runs = getattr(task.get_coro(), "__qualname__", None)
    return repr(task.get_name()) if runs is None else f"{task.get_name()!r} of {runs}()"
