"""One worker process: what the supervisor starts."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from multiprocessing.connection import wait
from typing import Any, Protocol

from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.arguments import chosen
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.io.reconnect import is_away, make_engine
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.listener import Listener
from sqla_pubsub.deliver.run.gate import ThreadGate
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.deliver.wake.leadership import Leadership
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.tally import Tally
from sqla_pubsub.process.application import application_async_engine, application_engine, async_engine
from sqla_pubsub.process.logs import LogSettings
from sqla_pubsub.process.named import Names
from sqla_pubsub.process.scoreboard import Scoreboard
from sqla_pubsub.process.shown import Shown
from sqla_pubsub.registry import ListenerSpec, registries, registry_of
from sqla_pubsub.settings import import_modules

logger = logging.getLogger(__name__)

EXIT_LOST = 1
"""A worker that drains does not wait for a server that went away."""
EXIT_REFUSED = 2
"""A worker that cannot work as it is configured; starting it again would change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every worker of a supervisor does. It travels through a pipe, so a URL is in no process list."""

    modules: tuple[str, ...]
    url: str = field(repr=False)
    awaited: str | None = field(default=None, repr=False)
    """The URL for ``async def`` handlers, None where it is the same."""
    awaited_direct: str | None = field(default=None, repr=False)
    """The same of ``direct_url``."""
    application: str | None = None
    """The name of the application's engine, which each worker imports for itself; None to use the URL."""
    names: Names = field(default_factory=Names)
    outlets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Settings of outlets, by name."""
    listeners: tuple[str, ...] = ()
    """Those that were asked for; none for all."""
    runs: tuple[str, ...] = ()
    """Those that were found for that, by which supervisor and workers count."""
    concurrency: int = 1
    drain: bool = False
    config: ListenerConfig = field(default_factory=ListenerConfig)
    logs: LogSettings = field(default_factory=LogSettings)


class Works(Protocol):
    """A listener in a thread of a worker."""

    def run(self) -> None:
        """Work until stopped."""

    def drain(self) -> int:
        """Work until nothing is due."""

    def stop(self) -> None:
        """End either, after the event in hand."""


def find_metadata(modules: Collection[str], listeners: Collection[str]) -> MetaData:
    """Return the one metadata whose listeners are to run, after the modules were imported.

    Raises:
        ConfigurationError: The modules declare no listener, or listeners of several metadata.
    """
    wanted = set(listeners)
    found = [r for r in registries() if r.listeners and (not wanted or wanted & set(r.listeners))]
    if not found:
        known = sorted(name for r in registries() for name in r.listeners)
        if known:
            raise ConfigurationError(
                f"listener {min(wanted)!r} is not declared. Declared are: {', '.join(known)}."
            )
        raise ConfigurationError(
            f"no listener is declared in {', '.join(modules)}. Decorate a function with @after_insert(Model), for example."
        )
    if len(found) > 1:
        raise ConfigurationError(
            "the listeners belong to several metadata, which have an outbox each. "
            "Choose one of them: name only its modules, or, with 'listen', its listeners by --listener."
        )
    chosen(found[0].listeners, wanted)
    return found[0].metadata


def work(plan: Plan, shown: Shown, path: list[str]) -> None:
    """Run one worker until it is stopped, its parent is gone, or everything is drained."""
    # Not an Event of threading: its lock is not reentrant, and one signal may interrupt the handler of another.
    stopped = StopSignal()
    running: list[Works] = []

    def stop(*_: object) -> None:
        stopped.raise_()
        for listener in running:
            listener.stop()

    # Ctrl-C goes to the whole process group; only the supervisor acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    sys.path[:0] = [item for item in path if item not in sys.path]
    try:
        metadata = _imported(plan)
        with _lifespan(plan) as awaited:
            running.extend(_listeners(plan, metadata, shown, awaited))
            if not stopped():
                _run(running, drain=plan.drain)
    except ConfigurationError as error:
        logger.error("worker.refused: %s", error)
        sys.exit(EXIT_REFUSED)
    except DBAPIError as error:
        if is_away(error):
            logger.error("connection.lost: %s", describe(error))
            sys.exit(EXIT_LOST)
        logger.error("worker.refused: %s", describe(error))
        sys.exit(EXIT_REFUSED)
    except Exception as error:
        logger.exception("worker.failed: %s", describe(error))
        sys.exit(EXIT_LOST)


def _imported(plan: Plan) -> MetaData:
    """Import what the plan names, then configure the log, because the application may do that for itself."""
    try:
        import_modules(plan.modules)
        if plan.application is not None:
            import_modules([plan.application.partition(":")[0]])
        return find_metadata(plan.modules, plan.listeners)
    finally:
        plan.logs.apply()


@contextmanager
def _lifespan(plan: Plan) -> Iterator[list[Any]]:
    """Enter what the application wants around this worker; yield what has to be awaited for that."""
    managers = plan.names.lifespans()
    with ExitStack() as stack:
        for manager in managers:
            if hasattr(manager, "__enter__"):
                stack.enter_context(manager)
        yield [manager for manager in managers if not hasattr(manager, "__enter__")]


def _listeners(plan: Plan, metadata: MetaData, shown: Shown, lifespans: list[Any]) -> list[Works]:
    """What works in the main thread comes first: handlers with ``timeout=`` can be interrupted there."""
    specs = chosen(registry_of(metadata).listeners, plan.listeners)
    plain = [spec for spec in specs if not spec.asynchronous]
    awaited = [spec for spec in specs if spec.asynchronous]
    scoreboards, tally = shown.scoreboards(), shown.tally()
    works: list[Works] = list(_plain(plan, metadata, plain, scoreboards, tally)) if plain else []
    if awaited:
        works.append(_on_loop(plan, metadata, awaited, scoreboards[len(works) :], tally, lifespans))
    elif lifespans:
        raise ConfigurationError(
            "a lifespan of the settings is an asynchronous context manager, and this worker has no async def listener. "
            "Give one that 'with' can enter."
        )
    return works


def _on_loop(
    plan: Plan,
    metadata: MetaData,
    specs: Sequence[ListenerSpec],
    shown_on: list[Scoreboard],
    tally: Tally,
    lifespans: list[Any],
) -> Works:
    try:
        # Only where it is needed: it needs greenlet, which plain handlers do without.
        loop = import_module("sqla_pubsub.asyncio.loop")
    except ImportError as error:
        raise ConfigurationError(
            f"listener {specs[0].name!r} is async def, and {error.name!r} is not installed. "
            "Run: pip install 'sqla-pubsub[asyncio]'"
        ) from error
    direct = plan.awaited_direct or plan.config.direct_url
    listener: Works = loop.LoopListener(
        _async_engine(plan, specs[0].name), metadata, replace(plan.config, direct_url=direct),
        listeners=[spec.name for spec in specs], concurrency=plan.concurrency, scoreboards=shown_on,
        lifespans=lifespans, surroundings=plan.names.async_surroundings(),
        observers=[tally, *plan.names.found_observers()],
    )  # fmt: skip
    return listener


def _async_engine(plan: Plan, listener: str) -> Callable[[], Any]:
    if plan.application is None:
        return partial(async_engine, plan.awaited or plan.url, listener, plan.concurrency)
    return partial(application_async_engine, plan.application, listener, plan.concurrency)


def _plain(
    plan: Plan,
    metadata: MetaData,
    specs: Sequence[ListenerSpec],
    shown_on: list[Scoreboard],
    tally: Tally,
) -> Iterable[Listener]:
    """The main one first; the others are threads for the ``transactional=False`` listeners."""
    outside = [spec for spec in specs if not spec.transactional]
    inside = [spec.name for spec in specs if spec.transactional]
    groups = [[spec.name for spec in specs]]
    if plan.concurrency > 1 and outside:
        beside = [
            [spec.name for spec in outside if spec.concurrency is None or spec.concurrency > thread]
            for thread in range(plan.concurrency)
        ]
        groups = [names for names in (inside, *beside) if names]
    gate, surroundings, observers = ThreadGate(), plan.names.surroundings(), plan.names.found_observers()
    leadership, told = Leadership(), set[str]()
    for names, scoreboard in zip(groups, shown_on, strict=False):
        yield Listener(
            _engine(plan), metadata, plan.config, listeners=names, scoreboard=scoreboard, gate=gate,
            observers=[tally, *observers], outlets=plan.outlets, leadership=leadership,
            follower=told.issuperset(names), **surroundings,
        )  # fmt: skip
        told.update(names)


def _engine(plan: Plan) -> Engine:
    return make_engine(plan.url) if plan.application is None else application_engine(plan.application)


def _run(listeners: list[Works], *, drain: bool) -> None:
    failed: list[BaseException] = []

    def run(listener: Works) -> None:
        try:
            if drain:
                listener.drain()
            else:
                listener.run()
        except BaseException as error:
            failed.append(error)
            stop()

    def stop() -> None:
        for listener in listeners:
            listener.stop()

    threads = [threading.Thread(target=run, args=(listener,)) for listener in listeners[1:]]
    for thread in threads:
        thread.start()
    run(listeners[0])
    if not drain:
        stop()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _watch_parent(stop: object) -> None:
    """No orphans: without its supervisor a worker finishes the event in hand and ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        assert callable(stop)
        stop()
