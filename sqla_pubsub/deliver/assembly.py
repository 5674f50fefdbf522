"""Puts a lane together from its parts, by what its listener declares."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
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


def lane_of(
    spec: ListenerSpec,
    registry: Registry,
    engine: Engine,
    config: ListenerConfig,
    *,
    colour: Colour,
    limits: Limits,
    scoreboard: Scoreboard,
    gate: Gate,
    crew: Crew | None,
    instrument: Instrument,
    stopping: Callable[[], bool],
    taken: Callable[[], None],
    outlets: Mapping[str, Mapping[str, Any]] | None = None,
    clock: Callable[[], float] = time.monotonic,
    rng: Rng | None = None,
    told: Callable[[Entry, BaseException], None] = lambda _, __: None,
    lent: bool = False,
) -> Lane:
    """Return the lane of one listener.

    Args:
        spec: The listener.
        registry: Where it is declared.
        engine: Where sessions of autonomous handlers connect.
        config: Settings.
        colour: How handlers are called.
        limits: Timings and bounds that are no settings.
        scoreboard: Where the supervisor sees which entry is in hand.
        gate: Keeps apart, among the listeners of the process, what killed a process before.
        crew: Runs many outside handlers at once; None for one after the other.
        instrument: Is told what happens.
        stopping: Whether the listener is to stop.
        taken: Wakes a neighbour.
        outlets: Settings of outlets, by name.
        clock: Seconds.
        rng: Source of the jitter.
        told: Called with what failed, and with what.
        lent: Whether it works on a borrowed connection, outside handlers too.
    """
    policy = FailurePolicy(spec.name, spec.retry, rng or random.Random(), limits.failure, told)
    # What is adopted from an earlier name may have any id.
    cursor = ClaimCursor(has_low_water=not spec.previous_names, limits=limits.cursor)
    dispatcher = Dispatcher(spec, registry, instrument, config.max_depth, colour)
    unknown = Unknown(spec, registry, dispatcher.routes, config.unknown_grace, instrument, clock)
    claimer = Claimer(spec, cursor, unknown, clock, most_bytes=limits.batch_size.most_bytes)
    events = EventRunner(spec, dispatcher, policy, scoreboard, grace=config.grace)
    time_box = 0.0 if spec.timeout is not None else config.commit_every.total_seconds()
    outside = Lent(events, claimer) if lent and not spec.transactional else None
    runner: Runner
    if outside is not None:
        runner = outside
    elif spec.to is not None:
        runner = _relay(
            spec.to, events, claimer, cursor, unknown, registry,
            outlets=outlets, limits=limits, instrument=instrument, clock=clock,
        )  # fmt: skip
    else:
        runner = _runner(
            events, claimer, cursor, unknown, engine, config,
            time_box=time_box, limits=limits, gate=gate, crew=crew, stopping=stopping, clock=clock,
        )  # fmt: skip
    return Lane(
        spec,
        runner,
        Isolated(events, unknown, gate, outside),
        cursor=cursor,
        size=BatchSize(time_box, config.claim_size, limits.batch_size),
        policy=policy,
        gate=gate,
        instrument=instrument,
        taken=taken,
        clock=clock,
    )


def _runner(
    events: EventRunner,
    claimer: Claimer,
    cursor: ClaimCursor,
    unknown: Unknown,
    engine: Engine,
    config: ListenerConfig,
    *,
    time_box: float,
    limits: Limits,
    gate: Gate,
    crew: Crew | None,
    stopping: Callable[[], bool],
    clock: Callable[[], float],
) -> Runner:
    """Return what works the entries, by what the listener declares."""
    spec = events.spec
    if not spec.transactional and crew is not None:
        return Concurrent(
            events, claimer, cursor, unknown, partial(OwnConnection, engine), crew,
            grace=config.grace, stopping=stopping, clock=clock,
        )  # fmt: skip
    if not spec.transactional:
        turn = config.commit_every.total_seconds()
        return Autonomous(
            events, claimer, cursor, unknown, OwnConnection(engine), gate,
            time_box=turn, stopping=stopping, clock=clock,
        )  # fmt: skip
    if spec.batch is not None:
        return Batched(events, claimer)
    most = limits.batch_size.max_savepoints
    return Grouped(events, claimer, time_box=time_box, max_savepoints=most, stopping=stopping, clock=clock)


def _relay(
    to: Outlet,
    events: EventRunner,
    claimer: Claimer,
    cursor: ClaimCursor,
    unknown: Unknown,
    registry: Registry,
    *,
    outlets: Mapping[str, Mapping[str, Any]] | None,
    limits: Limits,
    instrument: Instrument,
    clock: Callable[[], float],
) -> Relay:
    """Return what sends the entries of a listener to its outlet."""
    picker = Picker(
        events, Bodies(events, unknown), claimer, cursor, registry.outbox, instrument, clock,
        most_bytes=limits.batch_size.most_bytes,
    )  # fmt: skip
    sender = to.sender(settings_of(to, outlets or {}), events.spec.name)
    return Relay(events, picker, sender, Circuit(limits.circuit), instrument=instrument, clock=clock)
