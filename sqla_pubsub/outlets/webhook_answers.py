"""What an endpoint's answer means for the event, and what it means that there was none.

===========================================  =============================================================
2xx                                          delivered
410                                          nothing more is sent until the listener is resumed
429; 503 with ``Retry-After``                later, uncounted: the endpoint asks for it
408, 502, 503, 504; no answer in time        the endpoint is away, or cannot take this event: see `Doubts`
413                                          refused for good: the event is too large for it
3xx                                          refused: a redirection is not followed
any other                                    refused
===========================================  =============================================================

*Refused* is a counted attempt, after which the retry policy decides, not before the time that ``Retry-After`` asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from sqla_pubsub.outlet import CONFIRMED, Fate, Refused, Unsettled

LONGEST_WAIT = timedelta(hours=1)
"""What an endpoint may ask for at most; then it is asked again."""
SHORTEST_WAIT = timedelta(seconds=1)
_WAIT = timedelta(seconds=5)
_PATIENCE = 900.0
"""Seconds in which an event without an answer is taken for a victim of the endpoint's, where no other is sent."""

_THROTTLED, _UNAVAILABLE, _GONE, _TOO_LARGE = 429, 503, 410, 413
_DOUBTFUL = frozenset({408, 502, _UNAVAILABLE, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an endpoint said.

    Attributes:
        status: Its code.
        retry_after: The header, where there is one.
        excerpt: The beginning of the body, in one line.
    """

    status: int
    retry_after: str | None = None
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Away:
    """There was no connection, so it is not for the event that it failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Silent:
    """There was a connection and no answer, or that of a server in between: it may be for the event that it failed."""

    reason: str


Outcome = Answer | Away | Silent


def judged(answer: Answer, now: datetime) -> Fate | Silent:
    """Return what *answer* means."""
    status, wait = answer.status, _wait(answer.retry_after, now)
    said = f"the endpoint answered {_named(status)}"
    if 200 <= status < 300:
        return CONFIRMED
    if status == _GONE:
        return Unsettled(reason=f"{said}: it wants no more events", pause=True)
    if status == _THROTTLED or (status == _UNAVAILABLE and wait is not None):
        return Unsettled(reason=said, after=wait or _WAIT)
    if status in _DOUBTFUL:
        return Silent(said)
    if 300 <= status < 400:
        return Refused(reason=f"{said}: a redirection is not followed; give its new address as url")
    reason = f"{said}: {answer.excerpt}" if answer.excerpt else said
    return Refused(reason=reason, after=wait, final=status == _TOO_LARGE)


class Doubts:
    """For whose sake there was no answer: the endpoint's, which may be away, or the event's, which it cannot take.

    The first try that fails so is not counted. A later one is, if another event was answered since then, for an endpoint
    that is away answers nobody; or if it has gone on for a quarter of an hour, for it may be the only event there is.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[int, tuple[float, int]] = {}
        self._answered = float("-inf")

    def answered(self, event: int) -> None:
        """An event got an answer of its own."""
        self._answered = self._clock()
        self._since.pop(event, None)

    def blamed(self, event: int, lane: int) -> bool:
        """Whether it is for the sake of this event, which got none, that it got none."""
        now = self._clock()
        since, _ = self._since.setdefault(event, (now, lane))
        to_blame = self._answered > since or now - since > _PATIENCE
        if to_blame:
            del self._since[event]
        return to_blame

    def forget(self, lane: int) -> None:
        """Another worker sends the events of that lane from now on."""
        self._since = {event: place for event, place in self._since.items() if place[1] != lane}


def _wait(header: str | None, now: datetime) -> timedelta | None:
    """How long ``Retry-After`` asks to wait: seconds, or a date."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # More digits than a timedelta can hold are a longer wait than is granted anyway.
        asked = timedelta(seconds=min(int(text[:9]), 10**8))
    else:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        asked = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - now
    return min(max(asked, SHORTEST_WAIT), LONGEST_WAIT)


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
