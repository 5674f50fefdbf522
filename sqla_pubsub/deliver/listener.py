"""The listener: wakes up, works its lanes in turn, sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, configure_mappers

from sqla_pubsub.deliver.arguments import of_colour, refuse_wrong_kinds
from sqla_pubsub.deliver.assembly import Assembly
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.connections import Connections
from sqla_pubsub.deliver.handle.colour import Colour, Synchronous
from sqla_pubsub.deliver.handle.surroundings import Around, SessionClass, Surroundings, contexts, observers_of
from sqla_pubsub.deliver.happenings import LossRole, Paused, Refused, Started, Stopped
from sqla_pubsub.deliver.instrument import Instrument, Observer
from sqla_pubsub.deliver.io.reconnect import Outage
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.lane import Lane
from sqla_pubsub.deliver.lanes import Lanes
from sqla_pubsub.deliver.limits import DEFAULTS, Limits
from sqla_pubsub.deliver.run.concurrent import Crew
from sqla_pubsub.deliver.run.gate import Gate, ThreadGate
from sqla_pubsub.deliver.run.result import Turn
from sqla_pubsub.deliver.run.store import ConnectionLost
from sqla_pubsub.deliver.scoreboard import NoScoreboard, Scoreboard
from sqla_pubsub.deliver.wake.leadership import Leadership
from sqla_pubsub.deliver.wake.sleeper import Sleeper
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.registry import ListenerSpec, registry_of

Progress = Callable[[int], None]


class Listener:
    """Handles the events of a metadata's listeners, in this process and thread.

    Any number of listeners, in any number of processes and hosts, may run against one database.

    Args:
        engine: Engine of a PostgreSQL database. One connection works, a second one listens.
        metadata: The metadata whose listeners are to run. Import their modules first.
        config: Settings.
        listeners: Names of the listeners to run; None runs all.
        observers: Called with each happening (see `sqla_pubsub.deliver.instrument`); one that raises is logged.
        scoreboard: Where to show what is being done; given by the supervisor.
        gate: Shared by the listeners of a process.
        session_class: The class of the sessions that handlers get: the application's own subclass of Session, or its
            sessionmaker.
        around: Called with the `CurrentEvent` of each call of a handler, it returns a context manager to enter about
            it; or a list of such functions, the outermost first.
        outlets: Settings of outlets by name, ``{"kafka": {"url": ...}}``; addresses may stand in the environment.
        limits: Timings and bounds that are no settings; given by tests.
        colour, crew: How handlers are called, and what runs those of a lane at once; given by `AsyncListener`.
        leadership: Of listeners of this process that share a listening connection; None has one of its own.
        follower: Whether another one of them tells that the same listeners begin and end.

    Raises:
        ConfigurationError: No listener is declared, a name is unknown, or the database is another one.
    """

    def __init__(
        self,
        engine: Engine,
        metadata: MetaData,
        config: ListenerConfig | None = None,
        *,
        listeners: Collection[str] | None = None,
        observers: Iterable[Observer] = (),
        scoreboard: Scoreboard | None = None,
        gate: Gate | None = None,
        session_class: SessionClass = Session,
        around: Around | Sequence[Around] | None = None,
        outlets: Mapping[str, Mapping[str, Any]] | None = None,
        limits: Limits = DEFAULTS,
        colour: Colour | None = None,
        crew: Callable[[ListenerSpec], Crew | None] = lambda _: None,
        leadership: Leadership | None = None,
        follower: bool = False,
    ) -> None:
        self._colour = colour or Synchronous(Surroundings(session_class, contexts(around)))
        refuse_wrong_kinds(engine, config, listeners, asynchronous=self._colour.asynchronous)
        self._config = config or ListenerConfig()
        self._registry = registry_of(metadata)
        self._specs = of_colour(self._registry.listeners, listeners, asynchronous=self._colour.asynchronous)
        self._scoreboard = scoreboard or NoScoreboard()
        self._gate = gate or ThreadGate()
        self._instrument = self._telling(observers, engine)
        self._outage = Outage(engine, metadata, self._instrument)
        self._outlets = outlets
        self._limits = limits
        self._stop = StopSignal(self._colour.wait)
        self._crew = crew
        self._leadership = leadership or Leadership(limits.crowd)
        self._follower = follower
        self._connections = Connections(
            engine, self._specs, self._registry.outbox, self._config, self._instrument, self._colour
        )
        self._sleeper: Sleeper | None = None
        self._lanes = Lanes()
        self._settled = 0

    def stop(self) -> None:
        """End `run` or `drain` after the event in hand; safe in signal handlers and from other threads."""
        self._stop.raise_()

    def drain(self, progress: Progress | None = None) -> int:
        """Work until nothing is due, and return how many events were settled.

        Retries that are not due yet stay; so do entries that another listener has in hand.

        Args:
            progress: Called with the number of events settled since the last call.

        Raises:
            DBAPIError: The server cannot be reached.
            ConfigurationError: The role lacks a right, the outbox is not installed, or it does not take what is
                written to it.
        """
        self._settled = 0
        try:
            self._open_lanes()
            while not self._stop():
                before = self._settled
                try:
                    self._open_connections()
                    more = self._round(progress)
                except ConnectionLost:
                    self._disconnect()
                    self._lanes.restart()
                    continue
                except DBAPIError as error:
                    self._disconnect()
                    self._outage.refuse(error, rights=True)
                    raise
                if self._settled == before and not more and not self._await_those_in_hand():
                    break
            self._finish()
            # One that follows another listener of its process has no news.
            if not self._follower and (paused := self._connections.paused()):
                self._instrument(Paused(listeners=paused))
        finally:
            self._close()
        return self._settled

    def run(self) -> None:
        """Work until stopped; wait for the server as long as it is away.

        Raises:
            ConfigurationError: The outbox is not installed, or the URL has an unknown option.
        """
        try:
            self._open_lanes()
            if not self._follower:
                self._instrument(Started(listeners=tuple(spec.name for spec in self._specs)))
            while not self._stop() and self._outage.until_open(self._open, self._stop):
                try:
                    self._work_until_idle_or_lost()
                except ConnectionLost:
                    self._stop.wait(self._outage.pause())
            if not self._follower:
                self._instrument(Stopped())
        finally:
            self._close()

    def _telling(self, observers: Iterable[Observer], engine: Engine) -> Instrument:
        """Return what tells the supervisor, *observers* and those contexts that ask for it."""
        names = tuple(spec.name for spec in self._specs)
        asking = observers_of(self._colour.surroundings.around, engine, names)
        return Instrument([self._scoreboard.observe, *observers, *asking])

    def _work_until_idle_or_lost(self) -> None:
        assert self._sleeper is not None
        try:
            while not self._stop():
                before = self._settled
                more = self._round(None)
                self._outage.over()
                if more:
                    self._sleeper.busy()
                elif (pause := self._sleeper.pause(found=self._settled > before)) is not None:
                    self._stop.wait(pause)
                else:
                    due_in = self._sleeper.sleep()
                    self._connections.adopt()
                    self._lanes.rewind(due=due_in is not None and due_in <= 0)
            self._finish()
        except Exception as error:
            if not isinstance(error, ConnectionLost) and not self._outage.may_pass(error):
                raise
            role: LossRole = "listen" if self._connections.are_open else "work"
            self._disconnect()
            self._outage.refuse(error)
            # A right that was taken away may be given back, so this goes on too.
            self._outage.lost(error, role)
            raise ConnectionLost from error

    def _await_those_in_hand(self) -> bool:
        """Wait until a handler that goes on between rounds has ended; return False where there is none."""
        if not self._lanes.in_hand:
            return False
        self._stop.wait(self._config.poll_interval.total_seconds())
        return True

    def _finish(self) -> None:
        """Leave handlers that go on between rounds their time, and settle them."""
        if self._lanes.in_hand or self._connections.are_open:
            self._settled += self._lanes.finish(self._connections.of)

    def _round(self, progress: Progress | None) -> bool:
        """Give every lane its time, so that no listener waits for another one's backlog; return whether one has more."""
        more = False
        for lane in self._lanes.in_turn():
            if self._stop():
                break
            more = self._turns_of(lane, progress) or more
        return more

    def _turns_of(self, lane: Lane, progress: Progress | None) -> bool:
        """Let a lane work for ``commit_every``: one long group, or many short ones; return whether it has more."""
        until = time.monotonic() + self._config.commit_every.total_seconds()
        while True:
            turn = self._step(lane)
            self._outage.worked = True
            self._scoreboard.answered()
            # At once: a later turn may end in an exception.
            self._settled += turn.settled
            if turn.settled and progress is not None:
                progress(turn.settled)
            if not turn.more or self._stop():
                return False
            if time.monotonic() >= until:
                return True

    def _step(self, lane: Lane) -> Turn:
        """Other listeners go on while the outbox does not take what one of them writes to it."""
        try:
            return lane.step(self._connections.of(lane.spec))
        except NotSettled as error:
            if self._sleeper is None:
                # A drain, which would leave the entry and say nothing of it.
                raise
            self._instrument(Refused(listener=lane.spec.name, error=error))
            return Turn()

    def _open_lanes(self) -> None:
        configure_mappers()
        self._connections.leave_to_parent()
        assembly = Assembly(
            registry=self._registry, engine=self._connections.engine, config=self._config, colour=self._colour,
            limits=self._limits, scoreboard=self._scoreboard, gate=self._gate, instrument=self._instrument,
            stopping=self._stop, taken=self._busy, outlets=self._outlets,
        )  # fmt: skip
        self._lanes = Lanes(assembly.lane(spec, self._crew(spec)) for spec in self._specs)

    def _busy(self) -> None:
        if self._sleeper is not None:
            self._sleeper.busy()

    def _open_connections(self) -> None:
        self._connections.open()
        self._scoreboard.ready()

    def _open(self) -> None:
        self._disconnect()
        try:
            self._open_connections()
            self._sleeper = self._open_sleeper()
        except DBAPIError as error:
            self._outage.refuse(error)
            raise
        self._lanes.restart()

    def _open_sleeper(self) -> Sleeper:
        sleeper = Sleeper(
            self._leadership, self._connections.direct_engine, self._registry.outbox, self._config, self._limits.poll,
            instrument=self._instrument, low_waters=self._lanes.low_waters, stop=self._stop,
            answered=self._scoreboard.answered,
        )  # fmt: skip
        sleeper.open()
        return sleeper

    def _disconnect(self) -> None:
        self._scoreboard.disconnected()
        self._lanes.abandon()
        if self._sleeper is not None:
            with suppress(DBAPIError):
                self._sleeper.close()
            self._sleeper = None
        self._connections.close()

    def _close(self) -> None:
        self._disconnect()
        self._lanes.close(self._connections.store)
