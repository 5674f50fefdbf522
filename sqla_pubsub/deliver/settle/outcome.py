"""The three ends of a try, and which failure leads to which. Pure: no clock, no database."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from sqla_pubsub.errors import Reject, RetryLater, TransactionEnded, UnreadableEntry, is_stale, sqlstate
from sqla_pubsub.frames import rendered
from sqla_pubsub.retry import RetryPolicy, Rng
from sqla_pubsub.sqlstates import DENIED, GONE, TRANSIENT, is_of_values
from sqla_pubsub.values import harmless, one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimits:
    """What bounds a failure.

    Args:
        max_error: Characters kept of an error or a traceback.
        max_transient: Uncounted tries of one entry in a row.
        put_off: First delay of what is nobody's fault; twice as long after each one in a row.
        longest_put_off: Longest of these delays.
    """

    max_error: int = 20_000
    max_transient: int = 5
    put_off: timedelta = timedelta(seconds=1)
    longest_put_off: timedelta = timedelta(minutes=5)


_DEFAULTS = FailureLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The traceback of a first failure, for the log: no message is longer than a line, so that no row is shown.

    Args:
        own: With the frames of the program.
        every: With all frames.
    """

    own: str
    every: str


class Acknowledge(msgspec.Struct, frozen=True, kw_only=True):
    """The event was handled. A struct, because there is one for each event.

    Attributes:
        id: Its entry.
        occurred_at: When it occurred, None where an earlier try had failed.
        seconds: How long the call of the handler took, None for the others of a batch and where none was called.
    """

    id: int
    occurred_at: datetime | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The event is tried again after *delay*; *attempt* tries have failed, this one among them where *counted*.

    *error_type* is the name of the class of what was raised, *seconds* as of `Acknowledge`.
    """

    id: int
    attempt: int
    delay: timedelta
    error: str
    summary: str = ""
    """The error in one line."""
    counted: bool = True
    trace: Trace | None = None
    error_type: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The event is given up; *attempt* tries have failed. *error_type* and *seconds* are as of `Retry`."""

    id: int
    attempt: int
    reason: str
    traceback: str | None
    summary: str = ""
    """The error in one line, where the reason is another one."""
    trace: Trace | None = None
    error_type: str = ""
    seconds: float | None = None


Outcome = Acknowledge | Retry | DeadLetter


def judge(
    id: int,  # noqa: A002
    error: BaseException,
    attempt: int,
    policy: RetryPolicy,
    rng: Rng,
    limits: FailureLimits = _DEFAULTS,
) -> Retry | DeadLetter:
    """Return what becomes of an entry whose try number *attempt* raised *error*."""
    text, summary = written(error, limits), describe(error, limits)
    # Not of what a handler raised to say something, and not each time again.
    trace = _trace(error, limits) if attempt == 1 and not isinstance(error, Reject | RetryLater) else None
    delay: timedelta | None = None
    match error:
        case Reject():
            reason = _encodable(error.reason)
        case UnreadableEntry():
            reason = str(error)
        case TransactionEnded():
            # What it did is committed, or may be: another try would do it twice.
            reason = summary
        case _:
            reason, delay = summary, policy.delay(attempt, rng)
    kind = type(error).__qualname__
    if delay is None:
        return DeadLetter(
            id=id,
            attempt=attempt,
            reason=reason,
            traceback=text,
            summary=summary,
            trace=trace,
            error_type=kind,
        )
    if isinstance(error, RetryLater) and error.after is not None:
        delay = min(error.after, timedelta(days=36_500))
    return Retry(
        id=id, attempt=attempt, delay=delay, error=text, summary=summary, trace=trace, error_type=kind
    )


def written(error: BaseException, limits: FailureLimits = _DEFAULTS) -> str:
    """Return *error* with its traceback, as it is stored: the last frame is one of the program's own."""
    _hide_parameters(error)
    return _encodable(rendered(error, message=_whole) + "\n")[-limits.max_error :]


def _trace(error: BaseException, limits: FailureLimits) -> Trace:
    own, every = (
        harmless(_encodable(rendered(error, message=describe, every=each))[-limits.max_error :])
        for each in (False, True)
    )
    return Trace(own=own, every=every)


def _whole(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).rstrip("\n")


def describe(error: BaseException, limits: FailureLimits = _DEFAULTS) -> str:
    """Return type and message of *error* in one line."""
    _hide_parameters(error)
    try:
        message = one_line(_encodable(str(error)).strip().partition("\n")[0])
    except Exception:
        message = "(its text cannot be made)"
    name = type(error).__name__
    return (f"{name}: {message}" if message else name)[: limits.max_error]


def is_transient(error: BaseException) -> bool:
    """Whether *error* is the database's momentary state rather than the event's fault."""
    return sqlstate(error) in TRANSIENT or is_stale(error)


def is_denied(error: BaseException) -> bool:
    """Whether the server refused a statement for want of a right; a COMMIT, which is none, runs triggers."""
    return sqlstate(error) == DENIED and getattr(error, "statement", None) is not None


def is_of_outbox(error: BaseException) -> bool:
    """Whether the outbox as a whole cannot be read, whatever its entries hold: a right is missing, or it is gone."""
    return is_denied(error) or sqlstate(error) in GONE


def is_unreadable(error: BaseException) -> bool:
    """Whether what could not be decoded never will be: a value that no type takes, a type that is gone."""
    state = sqlstate(error)
    return not is_denied(error) and not is_stale(error) and (state is None or is_of_values(state))


def _hide_parameters(error: BaseException) -> None:
    """Let errors of SQLAlchemy, also those behind *error*, not show what was sent: it may be a payload, and long."""
    seen, waiting = set[int](), [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if hasattr(each, "hide_parameters"):
            each.hide_parameters = True
        behind = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        waiting.extend(other for other in behind if isinstance(other, BaseException))


def _encodable(text: object) -> str:
    """Names of files and the like may hold lone surrogates, which neither a log nor the database takes."""
    return str(text).encode("utf-8", "backslashreplace").decode()
