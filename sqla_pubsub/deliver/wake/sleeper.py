"""Sleeping without missing anything: guard, look, decide, wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.wake.idle_policy import IdlePolicy, Relisten, Return, Wait
from sqla_pubsub.deliver.wake.listen import ListeningConnection


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
    ) -> None:
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
        while not self._stop():
            # The lock before the look: who probes it from now on notifies.
            guard = self._listening.guard()
            seen = self._listening.look(self._low_waters())
            self._answered()
            match self._policy.decide(guard, seen, self._clock()):
                case Return():
                    return seen.due_in
                case Relisten():
                    self._listening.listen_again()
                case Wait(seconds=seconds, works=works):
                    if self._listening.wait(seconds, self._stop):
                        self._policy.woken()
                        return seen.due_in
                    if works:
                        return None if seen.due_in is None else seen.due_in - seconds
        return None

    def close(self) -> None:
        """Give up the connection, and with it the sleep lock."""
        self._listening.close()
