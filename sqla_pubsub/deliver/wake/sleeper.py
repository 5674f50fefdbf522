"""Sleeping without missing anything: guard, look, decide, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from sqlalchemy import Engine

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.happenings import Woken
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.wake.idle_policy import IdlePolicy, PollLimits, Relisten, Return, Wait
from sqla_pubsub.deliver.wake.listen import ListeningConnection


class Sleeps(Protocol):
    """What a listener does while there is no work."""

    def progress(self) -> None:
        """Say that there was work."""

    def busy(self) -> None:
        """Say that there is more than a moment's work."""

    def sleep(self) -> float | None:
        """Return when there may be work, or when stopped; in how many seconds a retry is due, None if none waits."""

    def close(self) -> None:
        """Give up what it needs for that."""


class Sleeper:
    """Sleeps until there may be work.

    Args:
        listening: The connection.
        policy: Decides after each look.
        low-water marks: Gives the names of the listeners, and of each an id below which there is nothing ready.
        stop: Ends a sleep.
        gives_up_lock: Whether the sleep lock is given up while there is work.
        answered: Called when the server has answered.
        clock: Seconds.
        instrument: Is told what ends a sleep.
    """

    def __init__(
        self,
        listening: ListeningConnection,
        policy: IdlePolicy,
        *,
        low_waters: Callable[[], Mapping[str, int]],
        stop: StopSignal,
        gives_up_lock: bool,
        answered: Callable[[], None],
        clock: Callable[[], float],
        instrument: Instrument,
    ) -> None:
        self._instrument = instrument
        self._listening = listening
        self._policy = policy
        self._low_waters = low_waters
        self._stop = stop
        self._gives_up_lock = gives_up_lock
        self._answered = answered
        self._clock = clock

    def progress(self) -> None:
        """Say that there was work: the next sleep begins with a fresh look."""
        self._policy.worked(self._clock())

    def busy(self) -> None:
        """Say that this worker has more than a moment's work: another one takes the sleep lock."""
        if self._gives_up_lock:
            self._listening.hand_over()

    def sleep(self) -> float | None:
        """Return when there may be work, or when stopped.

        Returns:
            Seconds until the next retry is due, zero or less if one is, None if none waits.
        """
        slept = False
        while not self._stop():
            # The lock before the look: who probes it from now on notifies.
            guard = self._listening.guard()
            began = self._clock()
            seen = self._listening.look(self._low_waters())
            seen = replace(seen, took=self._clock() - began)
            self._answered()
            match self._policy.decide(guard, seen, self._clock()):
                case Return():
                    if slept:
                        self._instrument(Woken(reason="poll" if seen.ready else "retry"))
                    return seen.due_in
                case Relisten():
                    self._listening.listen_again()
                case Wait(seconds=seconds, works=works):
                    if self._listening.wait(seconds, self._stop):
                        self._policy.woken()
                        self._instrument(Woken(reason="notification"))
                        return seen.due_in
                    slept = True
                    if works:
                        self._instrument(Woken(reason="time"))
                        return None if seen.due_in is None else seen.due_in - seconds
        return None

    def close(self) -> None:
        """Give up the connection, and with it the sleep lock."""
        self._listening.close()


def open_sleeper(
    engine: Engine,
    outbox: Outbox,
    config: ListenerConfig,
    limits: PollLimits,
    *,
    instrument: Instrument,
    low_waters: Callable[[], Mapping[str, int]],
    stop: StopSignal,
    answered: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> Sleeper:
    """Connect, listen, and return what sleeps on that connection.

    Args:
        engine: Where to connect.
        outbox: Whose entries are waited for.
        config: Settings.
        limits: How long it sleeps without a look.
        instrument: Is told what happens to the registration, and what ends a sleep.
        low_waters: As for `Sleeper`.
        stop: Ends a sleep.
        answered: Called when the server has answered.
        clock: Seconds.
    """
    silent = config.notify == "off"
    listening = ListeningConnection(
        engine, outbox, silent=silent, instrument=instrument, blind_poll=limits.blind
    )
    return Sleeper(
        listening,
        IdlePolicy(config.poll_interval.total_seconds(), limits, clock()),
        low_waters=low_waters,
        stop=stop,
        gives_up_lock=config.notify != "always",
        answered=answered,
        clock=clock,
        instrument=instrument,
    )
