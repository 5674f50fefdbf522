"""Puts lanes together from their parts, by what their listeners declare."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Engine

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.claim.batch_size import BatchSize
from sqla_pubsub.deliver.claim.cursor import ClaimCursor
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.handle.colour import Colour
from sqla_pubsub.deliver.handle.invocation import Dispatcher
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.lane import Lane, Runner
from sqla_pubsub.deliver.limits import Limits
from sqla_pubsub.deliver.relay.bodies import Bodies
from sqla_pubsub.deliver.relay.circuit import Circuit
from sqla_pubsub.deliver.relay.picking import Picker
from sqla_pubsub.deliver.relay.relay import Relay
from sqla_pubsub.deliver.run.autonomous import Autonomous
from sqla_pubsub.deliver.run.batched import Batched
from sqla_pubsub.deliver.run.candidates import Candidates
from sqla_pubsub.deliver.run.claiming import Claimer
from sqla_pubsub.deliver.run.concurrent import Concurrent, Crew
from sqla_pubsub.deliver.run.event import EventRunner
from sqla_pubsub.deliver.run.gate import Gate
from sqla_pubsub.deliver.run.grouped import Grouped
from sqla_pubsub.deliver.run.isolated import Isolated
from sqla_pubsub.deliver.run.lent import Lent
from sqla_pubsub.deliver.run.own_connection import OwnConnection
from sqla_pubsub.deliver.scoreboard import Scoreboard
from sqla_pubsub.deliver.settle.failure_policy import FailurePolicy
from sqla_pubsub.outlet import Outlet, settings_of
from sqla_pubsub.registry import ListenerSpec, Registry
from sqla_pubsub.retry import Rng


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What the lanes of one `Listener` have in common.

    Attributes:
        registry: Where the listeners are declared.
        engine: Where sessions of autonomous handlers connect.
        config: Settings.
        colour: How handlers are called.
        limits: Timings and bounds that are no settings.
        scoreboard: Where the supervisor sees which entry is in hand.
        gate: Keeps apart, among the listeners of the process, what killed a process before.
        instrument: Is told what happens.
        stopping: Whether the listener is to stop.
        taken: Wakes a neighbour.
        outlets: Settings of outlets, by name.
        clock: Seconds.
        rng: Source of the jitter.
        told: Called with what failed, and with what.
        lent: Whether they work on a borrowed connection, outside handlers too.
    """

    registry: Registry
    engine: Engine
    config: ListenerConfig
    colour: Colour
    limits: Limits
    scoreboard: Scoreboard
    gate: Gate
    instrument: Instrument
    stopping: Callable[[], bool]
    taken: Callable[[], None]
    outlets: Mapping[str, Mapping[str, Any]] | None = None
    clock: Callable[[], float] = time.monotonic
    rng: Rng = field(default_factory=random.Random)
    told: Callable[[Entry, BaseException], None] = lambda _, __: None
    lent: bool = False

    def lane(self, spec: ListenerSpec, crew: Crew | None = None) -> Lane:
        """Return the lane of one listener.

        Args:
            spec: The listener.
            crew: Runs many outside handlers at once; None for one after the other.
        """
        parts = self._parts(spec)
        lent = Lent(parts.events, parts.claimer) if self.lent and not spec.transactional else None
        return Lane(
            spec,
            lent or self._runner(parts, crew),
            Isolated(parts.events, parts.unknown, self.gate, lent),
            cursor=parts.cursor,
            size=BatchSize(self._time_box(spec), self.config.claim_size, self.limits.batch_size),
            policy=parts.events.policy,
            gate=self.gate,
            instrument=self.instrument,
            taken=self.taken,
            clock=self.clock,
        )

    def _parts(self, spec: ListenerSpec) -> _Parts:
        # What is adopted from an earlier name may have any id.
        cursor = ClaimCursor(has_low_water=not spec.previous_names, limits=self.limits.cursor)
        dispatcher = Dispatcher(spec, self.registry, self.instrument, self.config.max_depth, self.colour)
        grace = self.config.unknown_grace
        unknown = Unknown(spec, self.registry, dispatcher.routes, grace, self.instrument, self.clock)
        policy = FailurePolicy(spec.name, spec.retry, self.rng, self.limits.failure, self.told)
        return _Parts(
            events=EventRunner(spec, dispatcher, policy, self.scoreboard, grace=self.config.grace),
            claimer=Claimer(spec, cursor, unknown, self.clock, most_bytes=self.limits.batch_size.most_bytes),
            cursor=cursor,
            unknown=unknown,
        )

    def _time_box(self, spec: ListenerSpec) -> float:
        return 0.0 if spec.timeout is not None else self.config.commit_every.total_seconds()

    def _runner(self, parts: _Parts, crew: Crew | None) -> Runner:
        """Return what works the entries, by what the listener declares."""
        events, claimer, cursor, unknown = parts.events, parts.claimer, parts.cursor, parts.unknown
        spec = events.spec
        if spec.to is not None:
            return self._relay(spec.to, parts)
        candidates = Candidates(spec, claimer, cursor, unknown, self.clock)
        if not spec.transactional and crew is not None:
            return Concurrent(
                events, candidates, cursor, unknown, partial(OwnConnection, self.engine), crew,
                grace=self.config.grace, stopping=self.stopping, clock=self.clock,
            )  # fmt: skip
        if not spec.transactional:
            turn = self.config.commit_every.total_seconds()
            return Autonomous(
                events, candidates, cursor, unknown, OwnConnection(self.engine), self.gate,
                time_box=turn, stopping=self.stopping, clock=self.clock,
            )  # fmt: skip
        if spec.batch is not None:
            return Batched(events, claimer)
        return Grouped(
            events, claimer, time_box=self._time_box(spec), max_savepoints=self.limits.batch_size.max_savepoints,
            stopping=self.stopping, clock=self.clock,
        )  # fmt: skip

    def _relay(self, to: Outlet, parts: _Parts) -> Relay:
        """Return what sends the entries of a listener to its outlet."""
        picker = Picker(
            parts.events, Bodies(parts.events, parts.unknown), parts.claimer, parts.cursor, self.registry.outbox,
            self.instrument, self.clock, most_bytes=self.limits.batch_size.most_bytes,
        )  # fmt: skip
        sender = to.sender(settings_of(to, self.outlets or {}), parts.events.spec.name)
        circuit = Circuit(self.limits.circuit)
        return Relay(parts.events, picker, sender, circuit, instrument=self.instrument, clock=self.clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What every runner is made of."""

    events: EventRunner
    claimer: Claimer
    cursor: ClaimCursor
    unknown: Unknown
