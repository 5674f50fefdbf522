"""What one turn of a lane did, as values.

A runner returns a `Result` and keeps nothing of a group for its next call; the lane absorbs it. What
happened to one event is a `Handled`, which never leaves the runner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.io.life import Life
from sqla_pubsub.deliver.settle.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn tells the listener: how many events it settled, and whether more is likely to wait."""

    settled: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """The database's momentary state undid the event: it is handled again, in isolation, and not counted."""


@dataclass(frozen=True, slots=True)
class ThrownBack:
    """The event cannot be undone by itself, so all of its transaction is undone; its handler ran for *seconds*."""

    cause: BaseException
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """A try that ended with its connection; the next connection shows whose fault that was.

    Attributes:
        entry: What was in hand.
        error: What came out of the handler.
        life: The server behind the connection.
    """

    entry: Entry
    error: BaseException
    life: Life


Unrecorded = Outcome | Interrupted
"""A failure that could not be written down, because the connection broke."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection broke or was given up while the handler ran; *failure* is to be written down on the next."""

    failure: Unrecorded
    cause: BaseException


Handled = Outcome | Again | ThrownBack | Broken
"""What became of one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What the handlers of a group needed, for the size of the next one."""

    seconds: float
    events: int
    savepoints: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one turn did.

    Attributes:
        outcomes: What was committed.
        claimed: The highest id that was claimed in a transaction which has ended, 0 without one.
        isolate: Ids to be handled next, each in a transaction of its own.
        unrecorded: Failures that could not be written down, because the connection broke.
        replayed: Why a whole group was undone; its events are among *isolate*.
        error: What ended the turn early: the connection that broke, or a right that is missing. The lane
            raises it, after it has absorbed the rest.
        rewind: Whether to look from the lowest id again, also for retries.
        conflict: Whether transactions of others undid an event.
        exhausted: Whether nothing more was found from where the claim started.
        left: Whether claimed entries were not reached; retries that are due may be among them.
        fit: How many entries had room in the group, None where all had.
        timing: What the handlers needed, None where that tells nothing.
    """

    outcomes: tuple[Outcome, ...] = ()
    claimed: int = 0
    isolate: tuple[int, ...] = ()
    unrecorded: tuple[Unrecorded, ...] = ()
    replayed: BaseException | None = None
    error: BaseException | None = None
    rewind: bool = False
    conflict: bool = False
    exhausted: bool = False
    left: bool = False
    fit: int | None = None
    timing: Timing | None = None


def ids(entries: Iterable[Entry]) -> tuple[int, ...]:
    """Return the ids of *entries*."""
    return tuple(entry.id for entry in entries)
