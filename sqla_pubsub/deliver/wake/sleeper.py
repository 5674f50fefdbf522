"""Sleeping without missing anything: guard, look, decide, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from sqlalchemy import Engine

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.happenings import Woken
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.wake.idle_policy import IdlePolicy, PollLimits, Relisten, Return, Wait
from sqla_pubsub.deliver.wake.leadership import Leadership, Member
from sqla_pubsub.deliver.wake.listen import ListeningConnection


class Sleeper:
    """Sleeps until there may be work.

    Args:
        leadership: Of the listeners of this process, which share the listening connection.
        engine: Where to connect.
        outbox: Whose entries are waited for.
        config: Settings.
        limits: How long it sleeps without a look.
        instrument: Is told what happens to the registration, and what ends a sleep.
        low_waters: Gives the names of the listeners, and of each an id below which there is nothing ready.
        stop: Ends a sleep.
        answered: Called when the server has answered.
        clock: Seconds.
    """

    def __init__(
        self,
        leadership: Leadership,
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
    ) -> None:
        self._leadership = leadership
        self._engine = engine
        self._outbox = outbox
        self._config = config
        self._limits = limits
        self._instrument = instrument
        self._member = Member(low_waters)
        self._stop = stop
        self._answered = answered
        self._clock = clock

    def open(self) -> None:
        """Connect and listen, where no other listener of this process waits already.

        Raises:
            OutboxMissing: The outbox is not there.
        """
        if self._leadership.lead(self._member, or_follow=False):
            try:
                self._listening()
            finally:
                self._leadership.resign(to_work=False)

    def progress(self) -> None:
        """Say that there was work: the next sleep begins with a fresh look."""
        if self._leadership.policy is not None:
            self._leadership.policy.worked(self._clock())

    def busy(self) -> None:
        """Say that there is more than a moment's work: who has none takes the sleep lock."""
        if self._config.notify != "always" and self._leadership.lead(self._member, or_follow=False):
            try:
                if self._leadership.listening is not None:
                    self._leadership.listening.hand_over()
            finally:
                self._leadership.resign(to_work=False)

    def sleep(self) -> float | None:
        """Return when there may be work, or when stopped.

        Returns:
            Seconds until the next retry is due, zero or less if one is, None if none waits.
        """
        try:
            while not self._stop():
                if self._leadership.lead(self._member):
                    return self._lead()
                if self._follow():
                    return self._member.due_in
            return None
        finally:
            self._leadership.pass_on()

    def close(self) -> None:
        """Give up the connection, and with it the sleep lock, where no other listener of this process waits at it."""
        if self._leadership.lead(self._member, or_follow=False):
            try:
                self._disconnect()
            finally:
                self._leadership.resign(to_work=False)

    def _follow(self) -> bool:
        """Return whether there may be work."""
        try:
            # In vain where the leader has died without a word.
            nudged = self._stop.wait_for(
                self._config.poll_interval.total_seconds(), self._member.bell.descriptor
            )
        finally:
            self._leadership.unfollow(self._member)
        return nudged or self._member.woken

    def _lead(self) -> float | None:
        due_in, to_work = None, True
        try:
            due_in = self._watch()
            to_work = not self._stop()
        finally:
            self._leadership.resign(to_work=to_work, due_in=due_in)
        return due_in

    def _watch(self) -> float | None:
        listening, policy = self._listening()
        slept = False
        while not self._stop():
            self._member.bell.silence()
            # The lock before the look: who probes it from now on notifies.
            guard = listening.guard()
            began = self._clock()
            seen = listening.look(self._leadership.low_waters())
            seen = replace(seen, took=self._clock() - began)
            self._answered()
            match policy.decide(guard, seen, self._clock()):
                case Return():
                    if slept:
                        self._instrument(Woken(reason="poll" if seen.ready else "retry"))
                    return seen.due_in
                case Relisten():
                    listening.listen_again()
                case Wait(seconds=seconds, works=works):
                    if listening.wait(seconds, self._stop, self._member.bell.descriptor):
                        policy.woken()
                        self._instrument(Woken(reason="notification"))
                        return seen.due_in
                    if self._member.bell.silence():
                        continue
                    slept = True
                    if works:
                        self._instrument(Woken(reason="time"))
                        return None if seen.due_in is None else seen.due_in - seconds
        return None

    def _listening(self) -> tuple[ListeningConnection, IdlePolicy]:
        """Return the connection, opened where it is not; for the leader."""
        shared = self._leadership
        if shared.listening is None:
            silent, blind_poll = self._config.notify == "off", self._limits.blind
            shared.listening = ListeningConnection(
                self._engine, self._outbox, silent=silent, instrument=self._instrument, blind_poll=blind_poll
            )
            shared.policy = None
        if shared.policy is None:
            longest = self._config.poll_interval.total_seconds()
            shared.policy = IdlePolicy(longest, self._limits, self._clock())
        return shared.listening, shared.policy

    def _disconnect(self) -> None:
        listening, self._leadership.listening = self._leadership.listening, None
        if listening is not None:
            listening.close()
