"""What happens while events are delivered, as values. A happening is told after it is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqla_pubsub.deliver.settle.outcome import Outcome

LossRole = Literal["work", "listen"]
WakeReason = Literal["notification", "poll", "retry", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A listener process begins to work."""

    listeners: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """It has ended its work as it was told to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """These listeners are paused, so a drain has left their entries."""

    listeners: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A transaction committed these outcomes of one listener, at *at* by the database's clock, None if unknown."""

    listener: str
    outcomes: Sequence[Outcome]
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A group was undone, and its events are handled one by one."""

    listener: str
    entries: Sequence[int]
    cause: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The outbox did not take what a listener wrote to it; its handlers are not called for a while."""

    listener: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A listener met entries of a kind that this worker does not know, and leaves them alone.

    *entry* is the first one; after *grace* it becomes a dead letter.
    """

    listener: str
    entry: int
    operation: str
    source: str
    format: int
    grace: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained:
    """An event came about by a long chain of handlers."""

    listener: str
    entry: int
    depth: int
    names: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Entries were deleted by somebody else while their handler ran."""

    entries: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignClaim:
    """A role that may not settle entries holds the advisory lock of one; it is ignored."""

    role: str | None
    entry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The connection broke, and with it the work in hand was undone; *role* says what it was for."""

    error: BaseException
    role: LossRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """A listener that slept goes to work.

    *reason* says why: a notification came, a look found entries that none told of, a retry is due, or it is time to
    look at everything again.
    """

    reason: WakeReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An attempt to connect failed."""

    attempt: int
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The database can be worked with again; *away* is in seconds."""

    away: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RightMissing:
    """The role lacks a right, and the listener waits for it."""

    refusal: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class RightUnknown:
    """A statement was refused, and *what* might tell the reason cannot be read."""

    what: Literal["the rights of the role", "the catalog"]
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Deaf:
    """The registration for notifications was gone, and is made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """No notification can be received, so the listener polls every *interval* seconds at most."""

    interval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """How many handlers of an event loop may run at once, and on how many connections.

    *wanted* is the concurrency that was asked for, *transactional* how many handlers have a transaction, each on a
    connection of its own, and *outside* how many of ``transactional=False`` listeners there may be; *reserved*
    connections listen and claim. *pool* is the most that the engine's pool gives, None without a bound.
    """

    wanted: int
    transactional: int
    outside: int
    reserved: int
    pool: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Code has blocked the event loop for *seconds* so far; told from another thread, while it does.

    *listener* is the one whose handler it is, None where no handler of a listener is on the *stack*.
    """

    listener: str | None
    seconds: float
    stack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletAway:
    """The engine of a listener's outlet cannot be reached, or says that nothing more is taken; told once until it is back.

    *paused* says that the listener is paused for that.
    """

    listener: str
    reason: str
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletBack:
    """It can be sent to again; *away* is in seconds."""

    listener: str
    away: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletWarning:
    """What is weaker at an engine than it should be, in a sentence."""

    listener: str
    warning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletFailed:
    """A client of the engine raised what it has no word for."""

    listener: str
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended:
    """These events are about to be sent by an outlet: that is committed, and what comes after it finds them again."""

    listener: str
    entries: Sequence[int]


Happening = (
    Started
    | Stopped
    | Paused
    | Settled
    | Replayed
    | Refused
    | Unknown
    | Chained
    | Gone
    | ForeignClaim
    | Lost
    | Woken
    | Waiting
    | Restored
    | RightMissing
    | RightUnknown
    | Deaf
    | Polling
    | Slots
    | Blocked
    | OutletAway
    | OutletBack
    | OutletWarning
    | OutletFailed
    | Intended
)
