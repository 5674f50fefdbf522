"""The listeners of a process share one listening connection: one of them waits at it, for all that have no work.

Whoever leads and finds that there may be work wakes its followers, goes to work itself, and the first that finds none
leads. A leader that does not go to work leaves the lead to one of them. Nobody blocks here: only `Bell` is waited for.

Source: the pattern "Leader/Followers", D. Schmidt et al., Pattern-Oriented Software Architecture 2, 2000.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

from sqla_pubsub.deliver.wake.idle_policy import IdlePolicy
from sqla_pubsub.deliver.wake.listen import ListeningConnection


class Bell:
    """Ends the sleep of one listener, from another one's thread."""

    def __init__(self) -> None:
        self.descriptor, write = os.pipe()
        """Can be read while it rings."""
        self._write = write
        for descriptor in (self.descriptor, write):
            os.set_blocking(descriptor, False)
        weakref.finalize(self, _close, self.descriptor, write)

    def ring(self) -> None:
        """Ring until it is silenced."""
        # It rings already where there is no room.
        with suppress(BlockingIOError):
            os.write(self._write, b"x")

    def silence(self) -> bool:
        """Return whether it rang."""
        try:
            return bool(os.read(self.descriptor, 4096))
        except BlockingIOError:
            return False


@dataclass(eq=False, slots=True)
class Member:
    """A listener that has no work.

    Attributes:
        low_waters: Gives the names of its listeners, and of each an id below which there is nothing ready.
        bell: By which it is called.
        woken: Whether it was called to work.
        due_in: Seconds until the next retry was due then, None without one.
    """

    low_waters: Callable[[], Mapping[str, int]]
    bell: Bell = field(default_factory=Bell)
    woken: bool = False
    due_in: float | None = None


class Leadership:
    """Who leads, and who follows.

    Attributes:
        listening: The connection, None where it is to be opened. Only the leader may touch it.
        policy: Decides after each look. It is made together with the connection.
    """

    def __init__(self) -> None:
        self.listening: ListeningConnection | None = None
        self.policy: IdlePolicy | None = None
        self._lock = Lock()
        self._leader: Member | None = None
        self._followers: dict[Member, None] = {}
        self._watched: Set[str] = frozenset()

    def lead(self, member: Member, *, or_follow: bool = True) -> bool:
        """Return whether *member* leads from now on, where nobody did; else it follows."""
        with self._lock:
            if self._leader is None:
                self._leader = member
                return True
            if or_follow:
                member.woken, member.due_in = False, None
                self._followers[member] = None
                if not self._watched >= member.low_waters().keys():
                    # Something of its listeners may be ready that the leader has not looked for.
                    self._leader.bell.ring()
            return False

    def unfollow(self, member: Member) -> None:
        """Say that *member* does not wait any more."""
        with self._lock:
            self._followers.pop(member, None)
            member.bell.silence()

    def pass_on(self) -> None:
        """Say that who was perhaps called to lead does something else."""
        with self._lock:
            if self._leader is None:
                self._call(list(self._followers)[:1], to_work=False, due_in=None)

    def resign(self, *, to_work: bool, due_in: float | None = None) -> None:
        """Say that nobody leads any more: all followers go *to_work*, or one of them is to lead."""
        with self._lock:
            self._leader, self._watched = None, frozenset()
            self._call(list(self._followers)[: None if to_work else 1], to_work=to_work, due_in=due_in)

    def low_waters(self) -> dict[str, int]:
        """Return those of all that have no work, which the leader is to look for."""
        with self._lock:
            assert self._leader is not None
            found: dict[str, int] = {}
            for member in (*self._followers, self._leader):
                found |= member.low_waters()
            self._watched = found.keys()
            return found

    def _call(self, followers: Iterable[Member], *, to_work: bool, due_in: float | None) -> None:
        for follower in followers:
            follower.woken, follower.due_in = to_work, due_in
            del self._followers[follower]
            follower.bell.ring()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
