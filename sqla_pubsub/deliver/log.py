"""The first observer: the lines that ``docs/operations.md`` lists."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqla_pubsub.deliver.happenings import (
    Blocked,
    Chained,
    Deaf,
    ForeignClaim,
    Gone,
    Happening,
    Intended,
    Lost,
    OutletAway,
    OutletBack,
    OutletFailed,
    OutletWarning,
    Paused,
    Polling,
    Refused,
    Replayed,
    Restored,
    RightMissing,
    RightUnknown,
    Settled,
    Slots,
    Started,
    Stopped,
    Unknown,
    Waiting,
    Woken,
)
from sqla_pubsub.deliver.settle.outcome import Acknowledge, DeadLetter, Retry, describe
from sqla_pubsub.values import harmless, shown

logger = logging.getLogger(__name__)


def _show_traceback(record: logging.LogRecord) -> bool:
    """Let the traceback stand below the line, in whatever form somebody's formatter gives that."""
    record.exc_text = getattr(record, "traceback", None) or record.exc_text
    return True


logging.getLogger(__name__).addFilter(_show_traceback)

LOGGER = "sqla_pubsub"
"""The logger above all of ours."""


def audible() -> None:
    """Undo what ``disable_existing_loggers`` of `logging.config` did to our loggers, which it silences by default.

    Who does not want to hear them gives the logger ``sqla_pubsub`` a higher level.
    """
    for name, each in logging.getLogger().manager.loggerDict.items():
        if isinstance(each, logging.Logger) and f"{name}.".startswith(f"{LOGGER}."):
            each.disabled = False


def log(happening: Happening) -> None:
    """Write the lines that ``docs/operations.md`` lists."""
    match happening:
        case Settled():
            _log_settled(happening)
        case Replayed() | Refused() | Unknown() | Chained() | Gone() | ForeignClaim():
            _log_entries(happening)
        case Started(listeners=listeners):
            logger.info("listener.started: %s", ", ".join(listeners), extra={"listeners": list(listeners)})
        case Stopped():
            logger.info("listener.stopped")
        case Paused(listeners=listeners):
            names = ", ".join(listeners)
            logger.info(
                "listener.paused: the entries of %s are left", names, extra={"listeners": list(listeners)}
            )
        case Slots() | Blocked():
            _log_loop(happening)
        case OutletAway() | OutletBack() | OutletWarning() | OutletFailed() | Intended():
            _log_outlet(happening)
        case Woken(reason=reason):
            logger.debug("listener.woken: by %s", reason, extra={"reason": reason})
        case Lost() | Waiting() | Restored() | RightMissing() | RightUnknown() | Deaf() | Polling():
            _log_connection(happening)


def _log_outlet(happening: OutletAway | OutletBack | OutletWarning | OutletFailed | Intended) -> None:
    extra = {"listener": (name := happening.listener)}
    match happening:
        case OutletAway(reason=reason, paused=True):
            logger.error(
                "outlet.paused: %r is paused: %s. Run: sqla-pubsub resume", name, reason, extra=extra
            )
        case OutletAway(reason=reason):
            logger.warning("outlet.away: %r waits, nothing is lost: %s", name, reason, extra=extra)
        case OutletBack(away=away):
            logger.warning("outlet.back: %r goes on after %.1f s", name, away, extra={**extra, "away": away})
        case OutletWarning(warning=warning):
            logger.warning("outlet.weak: %r: %s", name, warning, extra=extra)
        case OutletFailed(error=error):
            logger.debug("outlet.failed: %s", describe(error), exc_info=error, extra=extra)
        case Intended(entries=entries):
            logger.debug("outlet.sends: %s events of %r", len(entries), name, extra=extra)


def _log_loop(happening: Slots | Blocked) -> None:
    match happening:
        case Slots(wanted=wanted, transactional=inside, outside=outside, reserved=reserved, pool=pool):
            logger.info(
                "listener.slots: of concurrency %s, %s transactional handlers at once on a connection each, %s others at "
                "once; %s more connections listen and claim; the pool gives %s",
                wanted, inside, outside, reserved, "any number" if pool is None else pool,
                extra={"transactional": inside, "outside": outside, "connections": inside + reserved, "pool": pool},
            )  # fmt: skip
        case Blocked(listener=name, seconds=seconds, stack=stack):
            blocker = "code outside of handlers" if name is None else f"the handler of listener {name!r}"
            logger.warning(
                "loop.blocked: %s has blocked the event loop for %.1f s, and with it all handlers of this process. Call "
                "what blocks with asyncio.to_thread(), or make the handler a plain function. It is here:",
                blocker, seconds, extra={"listener": name, "seconds": seconds, "traceback": harmless(stack)},
            )  # fmt: skip


def _log_connection(
    happening: Lost | Waiting | Restored | RightMissing | RightUnknown | Deaf | Polling,
) -> None:
    match happening:
        case Lost(error=error):
            logger.warning("connection.lost: %s", said(error))
        case Waiting(attempt=attempt, error=failure):
            text = said(failure) if failure is not None else ""
            logger.warning(
                "connection.waiting: attempt %s failed: %s", attempt, text, extra={"attempt": attempt}
            )
        case Restored(away=away):
            logger.warning("connection.restored: after %.1f s", away, extra={"away": away})
        case RightMissing(refusal=refusal):
            logger.error("right.missing: %s", refusal)
        case RightUnknown(what=what, error=unread):
            logger.debug("right.unknown: %s cannot be read", what, exc_info=unread)
        case Deaf():
            logger.warning("listener.deaf: the LISTEN registration was gone; listening again")
        case Polling(interval=interval):
            logger.warning(
                "listener.polling: a connection pooler stands before the server, so notifications cannot be "
                "received; polling every %s s at most. Give direct_url= a URL past the pooler to be woken.",
                interval,
            )


def _log_entries(happening: Replayed | Refused | Unknown | Chained | Gone | ForeignClaim) -> None:
    match happening:
        case Replayed(listener=name, entries=entries, cause=cause):
            logger.info(
                "group.replayed: %s events of %r one by one: %s", len(entries), name, describe(cause),
                extra={"listener": name, "events": len(entries)},
            )  # fmt: skip
        case Refused(listener=name, error=error):
            logger.error("outbox.refuses: %r: %s", name, error, extra={"listener": name})
        case Unknown(listener=name, entry=entry):
            logger.warning(
                "event.unknown: entries for %r that are %s of %r in format %s are left alone, the first is entry %s: "
                "this worker does not know them, and a newer one may. What nobody takes becomes a dead letter after %s",
                name, happening.operation, happening.source, happening.format, entry, shown(happening.grace),
                extra={"listener": name, "entry": entry},
            )  # fmt: skip
        case Chained(listener=name, entry=entry, depth=depth, names=names):
            logger.warning(
                "event.chained: entry %s for %r came about by a chain of %s handlers: %s. Does a listener change what it "
                "listens to? max_depth ends such a chain",
                entry, name, depth, ", ".join(map(repr, names)),
                extra={"listener": name, "entry": entry, "depth": depth},
            )  # fmt: skip
        case Gone(entries=entries):
            logger.warning(
                "entry.gone: %s was deleted by somebody else while its handler ran", named(entries),
                extra={"entries": list(entries)},
            )  # fmt: skip
        case ForeignClaim(role=role, entry=entry):
            logger.warning(
                "claim.foreign: role %r, which may not settle entries, holds the advisory lock of entry %s; the lock is "
                "ignored. Ask who uses this role",
                role, entry, extra={"role": role, "entry": entry},
            )  # fmt: skip


def _log_settled(settled: Settled) -> None:
    name = settled.listener
    for outcome in settled.outcomes:
        match outcome:
            case Retry(id=entry, attempt=attempt, delay=delay):
                logger.warning(
                    "event.failed: entry %s for %r, attempt %s, next in %.1f s: %s",
                    entry, name, attempt, delay.total_seconds(), outcome.summary,
                    extra={"listener": name, "entry": entry, "attempt": attempt, "traceback": _traceback(outcome)},
                )  # fmt: skip
            case DeadLetter(id=entry, attempt=attempt):
                logger.error(
                    "event.dead: entry %s for %r is a dead letter after attempt %s: %s",
                    entry, name, attempt, outcome.summary,
                    extra={"listener": name, "entry": entry, "attempt": attempt, "traceback": _traceback(outcome)},
                )  # fmt: skip
            case Acknowledge():
                pass
    logger.debug(
        "event.settled: %s for %r", len(settled.outcomes), name,
        extra={"listener": name, "events": len(settled.outcomes)},
    )  # fmt: skip


def _traceback(outcome: Retry | DeadLetter) -> str | None:
    if outcome.trace is None:
        return None
    return (
        outcome.trace.every if logging.getLogger(__name__).isEnabledFor(logging.DEBUG) else outcome.trace.own
    )


def named(ids: Sequence[int]) -> str:
    """Return the entries of *ids* in words.

    >>> named([7])
    'outbox entry 7'
    """
    first = ", ".join(map(str, ids[:5]))
    return f"outbox {'entry' if len(ids) == 1 else 'entries'} {first}{', ...' if len(ids) > 5 else ''}"


def said(error: BaseException) -> str:
    """Return what the driver said, without SQLAlchemy's words around it."""
    return describe(getattr(error, "orig", None) or error)
