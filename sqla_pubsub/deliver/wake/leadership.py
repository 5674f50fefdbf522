"""The listeners of a process share one listening connection: one of them waits at it, for all that have no work.

Each has its own idle policy, and sleeps as if the connection were its own. Whoever leads looks when it is time for one of
them, calls those that have to work, and goes on leading; if it has to work itself, another one is called to lead.
Nothing is waited for here, and nothing is read or sent.

Source: the pattern "Leader/Followers", D. Schmidt et al., Pattern-Oriented Software Architecture 2, 2000.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from threading import Lock

from sqla_pubsub.deliver.happenings import WakeReason
from sqla_pubsub.deliver.wake.idle_policy import Crowd, CrowdLimits, IdlePolicy
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


class Call(Enum):
    """What a follower was called for."""

    WORK = auto()
    LEAD = auto()


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """A listener, as who leads sees it while it has no work.

    Attributes:
        policy: Decides after each look.
        low_waters: Gives the names of its listeners, and of each an id below which there is nothing ready.
        bell: By which it is called.
        until: When it is looked for, or goes to work, again; None: at once.
        works: Whether it goes to work then.
        slept: Whether it has waited since it had work.
        due: When its next retry is due, None without one.
        called: What for, None where it was not.
        reason: Why it goes to work, None where nobody told it to.
        sleeps: How often it has gone to sleep.
    """

    policy: IdlePolicy
    low_waters: Callable[[], Mapping[str, int]]
    bell: Bell = field(default_factory=Bell)
    until: float | None = None
    works: bool = False
    slept: bool = False
    due: float | None = None
    called: Call | None = None
    reason: WakeReason | None = None
    sleeps: int = 0

    def rest(self) -> None:
        """Forget the last sleep."""
        self.sleeps += 1
        self.until = self.due = self.reason = None
        self.works = self.slept = False

    def wait(self, until: float, *, works: bool) -> None:
        """Say that it sleeps, unless it is called.

        Args:
            until: When it is looked for again, or goes to work.
            works: Whether it goes to work then.
        """
        self.until, self.works, self.slept = until, works, True


_DEFAULTS = CrowdLimits()


class Leadership:
    """Shared by the listeners of a process: it knows which one waits at the connection, and which ones it calls.

    Args:
        limits: When notifications come so often that the sleep lock is given up.

    Attributes:
        listening: The connection, None where it is to be opened. Only the leader may touch it.
        crowd: Tells whether they do.
    """

    def __init__(self, limits: CrowdLimits = _DEFAULTS) -> None:
        self.listening: ListeningConnection | None = None
        self.crowd = Crowd(limits)
        self._lock = Lock()
        self._members: set[Member] = set()
        self._leader: Member | None = None
        self._followers: dict[Member, None] = {}

    def join(self, member: Member) -> None:
        """Say that *member* will lead and follow."""
        with self._lock:
            self._members.add(member)

    def leave(self, member: Member) -> bool:
        """Say that it will not any more; return whether nobody else will."""
        with self._lock:
            self._members.discard(member)
            return not self._members

    def lead(self, member: Member, *, or_follow: bool = True) -> bool:
        """Return whether *member* leads from now on, where nobody did; else it follows."""
        with self._lock:
            if self._leader is None:
                self._leader = member
                return True
            if or_follow:
                member.called = None
                self._followers[member] = None
                # It has not been looked for since it had work.
                self._leader.bell.ring()
            return False

    def idle(self) -> list[Member]:
        """Return all that have no work, the leader first."""
        with self._lock:
            return [*([self._leader] if self._leader is not None else ()), *self._followers]

    def call(self, members: Iterable[Member]) -> None:
        """Call the followers among *members* to work."""
        with self._lock:
            for member in members:
                if member in self._followers:
                    self._call(member, Call.WORK)
                elif member is not self._leader:
                    # It has gone by itself, perhaps before there was what is there now.
                    member.policy.woken()

    def stir(self) -> None:
        """Have all looked for anew that sleep, or are about to: what was seen before does not count any more."""
        with self._lock:
            for member in self._members:
                member.until, member.works = None, False
                member.policy.woken()

    def unfollow(self, member: Member) -> None:
        """Say that *member* does not wait any more."""
        with self._lock:
            self._followers.pop(member, None)
            member.bell.silence()

    def resign(self) -> None:
        """Say that nobody leads any more: one of the followers is called to."""
        with self._lock:
            self._leader = None
            self._call_one()

    def pass_on(self) -> None:
        """Say that who was perhaps called to lead does something else."""
        with self._lock:
            if self._leader is None:
                self._call_one()

    def _call_one(self) -> None:
        if self._followers:
            self._call(next(iter(self._followers)), Call.LEAD)

    def _call(self, member: Member, call: Call) -> None:
        del self._followers[member]
        member.called = call
        member.bell.ring()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
