"""The listener of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain, repeat
from typing import TypeVar

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from sqla_pubsub.asyncio.bridge import end, in_greenlet, readable, spawned
from sqla_pubsub.asyncio.crew import Room, TaskCrew
from sqla_pubsub.asyncio.engines import DRIVERS
from sqla_pubsub.asyncio.handling import HARD, RUNS_HANDLER, Asynchronous
from sqla_pubsub.asyncio.leftovers import watched
from sqla_pubsub.asyncio.session import AsyncSessionClass, AsyncSurroundings
from sqla_pubsub.asyncio.slot_limit import SlotGate, SlotLimit
from sqla_pubsub.asyncio.slots import refuse_small_pool, slots_of
from sqla_pubsub.asyncio.watchdog import watched_by_a_thread
from sqla_pubsub.deliver.arguments import of_colour
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.handle.surroundings import Around, contexts
from sqla_pubsub.deliver.instrument import Instrument, Observer
from sqla_pubsub.deliver.io.engines import refuse_loops
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.listener import Listener
from sqla_pubsub.deliver.run.gate import Gate
from sqla_pubsub.deliver.scoreboard import NoScoreboard, Scoreboard
from sqla_pubsub.deliver.wake.leadership import Leadership
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import ListenerSpec, registry_of

T = TypeVar("T")


class AsyncListener:
    """Handles the events of a metadata's ``async def`` listeners, on the running event loop.

    .. versionadded:: 0.2.0

    Args:
        engine: An AsyncEngine of a PostgreSQL database; it belongs to this loop.
        metadata: The metadata whose listeners are to run. Import their modules first.
        config: Settings.
        listeners: Names of the listeners to run; None runs all that are ``async def``.
        concurrency: How many events are handled at once. Those of ``transactional=False`` listeners share two
            connections; each of the others has one, so these are bounded by the engine's pool too.
        session_class: The class of the sessions that handlers get: the application's own subclass of AsyncSession, or its
            async_sessionmaker.
        around: Called with the `CurrentEvent` of each call of a handler, it returns a context manager, awaited or
            plain, to enter about it; or a list of such functions, the outermost first.
        observers: Called with each happening; one that raises is logged.
        scoreboards: Where to show what is being done, one for each connection that works; given by the worker.

    Raises:
        ConfigurationError: No such listener is declared, one of those named is a plain function, or the engine
            is another one.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        metadata: MetaData,
        config: ListenerConfig | None = None,
        *,
        listeners: Collection[str] | None = None,
        concurrency: int = 1,
        session_class: AsyncSessionClass = AsyncSession,
        around: Around | Sequence[Around] | None = None,
        observers: Iterable[Observer] = (),
        scoreboards: Iterable[Scoreboard] = (),
    ) -> None:
        _refuse_wrong_kinds(engine, listeners, concurrency)
        self._engine = engine
        self._metadata = metadata
        self._config = config or ListenerConfig()
        self._observers = tuple(observers)
        self._scoreboards = chain(scoreboards, repeat(NoScoreboard()))
        self._error: BaseException | None = None
        self._stopped = StopSignal()
        self._given_up = False
        self._surroundings = AsyncSurroundings(session_class, contexts(around))
        self._room = Room(concurrency)
        self._colours: list[Asynchronous] = []
        specs = of_colour(registry_of(metadata).listeners, listeners, asynchronous=True)
        self._tell = Instrument(self._observers)
        self._slots = slots_of(engine, specs, concurrency)
        self._slot_limit = SlotLimit(max(1, self._slots.transactional))
        self._parts = list(self._listeners(specs))

    @property
    def error(self) -> BaseException | None:
        """What ended the listener, None where nothing did."""
        return self._error

    def stop(self) -> None:
        """End `run` or `drain` after the events in hand, or after ``grace``; safe in signal handlers and threads."""
        self._stopped.raise_()
        for part in self._parts:
            part.stop()

    async def run(self) -> None:
        """Work until stopped; wait for the server as long as it is away.

        Cancelled, it stops, and ends after ``grace`` what still runs: nothing of that is written.

        Raises:
            ConfigurationError: The outbox is not installed, the URL has an unknown option, or the engine's pool has
                too few connections.
        """
        refuse_small_pool(self._slots)
        self._tell(self._slots)
        await self._watched([part.run for part in self._parts])

    async def drain(self) -> int:
        """Work until nothing is due, and return how many events were settled.

        Raises:
            DBAPIError: The server cannot be reached.
            ConfigurationError: As for `run`, or a right is missing.
        """
        return sum(await self._watched([part.drain for part in self._parts]))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AsyncListener]:
        """Run beside the body, an application's lifespan say; stop at its end.

        Raises:
            BaseException: What ended the listener meanwhile, at the end of the body.
        """
        task = spawned(self.run())
        try:
            yield self
        finally:
            self.stop()
            await task

    def _listeners(self, specs: Sequence[ListenerSpec]) -> Iterable[Listener]:
        inside = [spec for spec in specs if spec.transactional]
        outside = [spec.name for spec in specs if not spec.transactional]
        leadership = Leadership()
        for place in range(1, self._slots.transactional + 1):
            names = [spec.name for spec in inside if spec.concurrency is None or spec.concurrency >= place]
            yield self._listener(names, self._colour(), self._gate(place), leadership, follower=place > 1)
        if outside:
            colour = self._colour()
            self._room.tell(colour.nudge)
            yield self._listener(
                outside, colour, self._room, leadership, crew=partial(_crew, colour, self._room)
            )

    def _colour(self) -> Asynchronous:
        return Asynchronous(self._surroundings)

    def _gate(self, place: int) -> SlotGate:
        return SlotGate(self._slot_limit, place, self._room)

    def _listener(
        self,
        names: list[str],
        colour: Asynchronous,
        gate: Gate,
        leadership: Leadership,
        *,
        crew: Callable[[ListenerSpec], TaskCrew | None] = lambda _: None,
        follower: bool = False,
    ) -> Listener:
        self._colours.append(colour)
        return Listener(
            self._engine.sync_engine, self._metadata, self._config, listeners=names,
            observers=self._observers, scoreboard=next(self._scoreboards),
            gate=gate, colour=colour, crew=crew, leadership=leadership, follower=follower,
        )  # fmt: skip

    async def _watched(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Run all parts, and see what handlers leave behind and what blocks the loop."""
        with watched(asyncio.get_running_loop()), watched_by_a_thread(self._tell, RUNS_HANDLER):
            return await self._all(works)

    async def _all(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Run all parts to their end; the first that fails stops the others."""
        self._slot_limit.close()
        tasks = [spawned(self._part(work)) for work in works]
        try:
            await self._until_stopped(tasks)
        finally:
            if not all(task.done() for task in tasks):
                # Cancelled, or told to stop: a server that says nothing any more must not keep the program.
                await self._end(tasks)
        if self._error is not None:
            raise self._error
        return [
            task.result() for task in tasks if task.done() and not task.cancelled() and not task.exception()
        ]

    async def _until_stopped(self, tasks: Sequence[asyncio.Task[T]]) -> None:
        """Return when all tasks have ended, or when the listener is told to stop."""
        stopped, left = spawned(readable(self._stopped.descriptor)), set(tasks)
        try:
            while left and not stopped.done():
                await asyncio.wait({*left, stopped}, return_when=asyncio.FIRST_COMPLETED)
                left = {task for task in left if not task.done()}
        finally:
            stopped.cancel()

    async def _part(self, work: Callable[[], T]) -> T:
        try:
            return await in_greenlet(work)
        except BaseException as error:
            if not self._given_up:
                self._error = self._error or error
            self.stop()
            raise
        finally:
            # Nothing is left, or it is to stop.
            self._slot_limit.open()

    async def _end(self, tasks: Sequence[asyncio.Task[T]]) -> None:
        """Stop, and end after ``grace`` what still runs."""
        self.stop()
        self._slot_limit.open()
        _, left = await asyncio.wait(tasks, timeout=self._config.grace.total_seconds())
        if not left:
            return
        self._given_up = True
        for colour in self._colours:
            # Told by this and not by the kind of an exception: a handler may raise CancelledError itself.
            colour.given_up = True
        await asyncio.gather(*(end(task, HARD) for task in left))


def _crew(colour: Asynchronous, room: Room, spec: ListenerSpec) -> TaskCrew:
    return TaskCrew(colour, room, spec.concurrency)


def _refuse_wrong_kinds(engine: object, listeners: object, concurrency: object) -> None:
    refuse_loops()
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(
            f"AsyncListener({type(engine).__name__}, ...): give an AsyncEngine, as create_async_engine(url) returns it."
        )
    if engine.dialect.name == "postgresql" and engine.dialect.driver not in DRIVERS:
        raise ConfigurationError(
            f"driver {engine.dialect.driver!r} is none that AsyncListener works with. "
            f"Give an engine of {' or '.join(f'postgresql+{driver}://' for driver in DRIVERS)}."
        )
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(
            f"AsyncListener(concurrency={concurrency!r}): give a whole number from 1 on."
        )
    if isinstance(listeners, str):
        raise ConfigurationError(
            f"AsyncListener(listeners={listeners!r}): give a list of names, [{listeners!r}]."
        )
