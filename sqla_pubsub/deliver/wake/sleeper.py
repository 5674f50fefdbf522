"""Sleeping without missing anything: guard, look, decide, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.contract.tables import Outbox
from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.happenings import Woken
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.wake.idle_policy import IdlePolicy, PollLimits, Relisten, Return, Seen, Wait
from sqla_pubsub.deliver.wake.leadership import Call, Leadership, Member
from sqla_pubsub.deliver.wake.listen import Ended, ListeningConnection


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
        self._blind_poll = limits.blind
        self._instrument = instrument
        self._longest = config.poll_interval.total_seconds()
        self._member = Member(policy=IdlePolicy(self._longest, limits, clock()), low_waters=low_waters)
        self._stop = stop
        self._answered = answered
        self._clock = clock

    def open(self) -> None:
        """Connect and listen, where no other listener of this process waits already.

        Raises:
            OutboxMissing: The outbox is not there.
        """
        self._leadership.join(self._member)
        try:
            self._alone(self._listening)
        except BaseException:
            self._leadership.leave(self._member)
            raise

    def busy(self) -> None:
        """Say that there is more than a moment's work: who has none takes the sleep lock."""
        self._member.policy.worked(self._clock())
        if self._config.notify != "always":
            self._alone(self._hand_over)

    def pause(self, *, found: bool) -> float | None:
        """Take in what a round has shown: whether it found events, and which notifications came meanwhile.

        Args:
            found: Whether it found any.

        Returns:
            Seconds to wait before the next claim, None where it is time to sleep.
        """
        if found:
            self._member.policy.worked(self._clock())
        self._alone(self._count)
        return self._leadership.crowd.pause(found=found)

    def sleep(self) -> float | None:
        """Return when there may be work, or when stopped.

        Returns:
            Seconds until the next retry is due, zero or less if one is, None if none waits.
        """
        member = self._member
        member.rest()
        try:
            while not self._stop():
                if self._leadership.lead(member):
                    self._lead()
                    break
                if self._follow():
                    break
        finally:
            self._leadership.pass_on()
        if member.reason is not None:
            self._instrument(Woken(reason=member.reason))
        return None if member.due is None else member.due - self._clock()

    def close(self) -> None:
        """Give up the connection, and with it the sleep lock, where no other listener of this process needs it."""
        if self._leadership.leave(self._member):
            self._alone(self._disconnect)

    def _follow(self) -> bool:
        """Return whether there may be work."""
        try:
            # In vain where the leader has died without a word.
            nudged = self._stop.wait_for(self._longest, self._member.bell.descriptor)
        finally:
            self._leadership.unfollow(self._member)
        return nudged or self._member.called is Call.WORK

    def _lead(self) -> None:
        try:
            self._watch()
        except BaseException:
            # While it leads, so that nobody else meets a broken connection; the others look at their own.
            self._disconnect()
            self._leadership.call(self._leadership.idle())
            raise
        finally:
            self._leadership.resign()

    def _alone(self, act: Callable[[], object]) -> None:
        """Do something to the connection, unless another listener waits at it."""
        if self._leadership.lead(self._member, or_follow=False):
            try:
                act()
            except BaseException:
                self._disconnect()
                raise
            finally:
                self._leadership.resign()

    def _watch(self) -> None:
        """Look for all that have no work, and call those that have to, until it is this listener's turn."""
        listening = self._listening()
        while not self._stop():
            self._member.bell.silence()
            ready = self._look(listening, [each for each in self._leadership.idle() if self._is_time(each)])
            self._leadership.call(ready)
            if self._member in ready:
                return
            nearest = min(each.until or 0.0 for each in self._leadership.idle())
            match listening.wait(nearest - self._clock(), self._stop, self._member.bell.descriptor):
                case Ended.NOTIFIED:
                    self._count_notified(listening)
                    # It was for those too that are called to lead, or work still.
                    self._leadership.stir()
                    idle = self._leadership.idle()
                    for each in idle:
                        each.reason = "notification"
                    self._leadership.call(idle)
                    return
                case Ended.NUDGED:
                    return
                case Ended.OTHERWISE:
                    pass

    def _is_time(self, member: Member) -> bool:
        return member.until is None or member.until <= self._clock()

    def _look(self, listening: ListeningConnection, members: list[Member]) -> list[Member]:
        """Look for those whose time it is, and return those that have to work."""
        ready = [each for each in members if each.works]
        for each in ready:
            each.reason = "time"
        if not (asked := [each for each in members if not each.works]):
            return ready
        # The lock before the look: who probes it from now on notifies.
        guard = listening.guard()
        began = self._clock()
        names, sleeps = {each: each.low_waters() for each in asked}, {each: each.sleeps for each in asked}
        found = listening.look(_lowest(names.values()))
        now = self._clock()
        self._answered()
        deaf = False
        for each in asked:
            if each.sleeps != sleeps[each]:
                # It was at work meanwhile.
                continue
            seen = Seen.together((found[name] for name in names[each]), took=now - began)
            each.due = None if seen.due_in is None else now + seen.due_in
            match each.policy.decide(guard, seen, now):
                case Return():
                    if each.slept:
                        each.reason = "poll" if seen.ready else "retry"
                    ready.append(each)
                case Relisten():
                    each.until, deaf = None, True
                case Wait(seconds=seconds, works=works):
                    each.wait(now + seconds, works=works)
        if deaf:
            listening.listen_again()
        return ready

    def _listening(self) -> ListeningConnection:
        """Return the connection, opened where it is not."""
        if self._leadership.listening is None:
            self._leadership.listening = ListeningConnection(
                self._engine, self._outbox, silent=self._config.notify == "off", instrument=self._instrument,
                blind_poll=self._blind_poll,
            )  # fmt: skip
        return self._leadership.listening

    def _count(self) -> None:
        """Count the notifications that came while there was work."""
        if self._leadership.listening is not None and self._leadership.listening.notified():
            self._count_notified(self._leadership.listening)
            self._leadership.stir()

    def _count_notified(self, listening: ListeningConnection) -> None:
        crowded = self._leadership.crowd.notified(listening.notifications, self._clock())
        if crowded and self._config.notify != "always":
            listening.hand_over()

    def _hand_over(self) -> None:
        if self._leadership.listening is not None:
            self._leadership.listening.hand_over()
            # Who was called to lead at the same time takes the lock, and looks then.
            self._leadership.stir()

    def _disconnect(self) -> None:
        listening, self._leadership.listening = self._leadership.listening, None
        if listening is not None:
            self._leadership.stir()
            with suppress(SQLAlchemyError):
                listening.close()


def _lowest(all_low_waters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for low_waters in all_low_waters:
        for name, low_water in low_waters.items():
            found[name] = min(low_water, found.get(name, low_water))
    return found
