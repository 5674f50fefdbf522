"""Settings of a listener process."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.values import Kind, instead, shown

MAX_GROUP = 500
"""Most entries claimed at once; a claim of more saves nothing measurable."""
MOST_SLOTS = 64
"""Most transactions that a process works at the same time on an event loop, each on a connection of its own."""

_DURATIONS = ("commit_every", "poll_interval", "grace", "unknown_grace")
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_DURATIONS, "duration"),
    "claim_size": "whole number",
    "max_depth": "whole number",
    "synchronous_commit": "flag",
    "direct_url": "text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """How a listener works; the defaults serve.

    Args:
        commit_every: Time after which a transaction of several events is committed (100 ms). A
            longer one saves commits, and repeats more outside work after a crash.
        poll_interval: Longest sleep without looking, in case a notification was lost (5 s).
        grace: Time that a stopping process leaves the event in hand (30 s).
        claim_size: Most entries claimed at once, 1 to 500; fewer for slow handlers, and for handlers that
            use their session at most 50, because each of these events has a savepoint (500).
        notify: ``"idle"``: writers notify only while somebody sleeps. ``"always"``: they notify every
            time. ``"off"``: they never do and the listener polls, as behind a transaction pooler.
        synchronous_commit: False lets the acknowledging transaction return before it is on disk. After
            a server crash its work and its acknowledgement are lost together, and done again.
        unknown_grace: Time for which entries that this worker does not know are left alone, for a newer one, until
            they become dead letters (1 day). New in 0.2.0.
        max_depth: How many handlers may have written one after the other what caused an event; the next one is a
            dead letter. None sets no limit, and the log warns from 10 on (None). New in 0.2.0.
        direct_url: URL past a connection pooler, for notifications and ``transactional=False``.

    Raises:
        ConfigurationError: A value has a wrong type or is out of range, or two contradict each other.
    """

    commit_every: timedelta = timedelta(milliseconds=100)
    poll_interval: timedelta = timedelta(seconds=5)
    grace: timedelta = timedelta(seconds=30)
    claim_size: int = MAX_GROUP
    notify: Literal["idle", "always", "off"] = "idle"
    synchronous_commit: bool = True
    direct_url: str | None = None
    unknown_grace: timedelta = timedelta(days=1)
    max_depth: int | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            wanted = None if value is None and name in ("direct_url", "max_depth") else instead(value, kind)
            if wanted is None and name in _DURATIONS and value <= timedelta(0):
                wanted = "a positive timedelta"
            if wanted is not None:
                raise ConfigurationError(f"ListenerConfig({name}={shown(value)}): give {wanted}.")
        if not 1 <= self.claim_size <= MAX_GROUP:
            raise ConfigurationError(f"ListenerConfig(claim_size={self.claim_size}): give 1 to {MAX_GROUP}.")
        if self.max_depth is not None and self.max_depth < 1:
            raise ConfigurationError(f"ListenerConfig(max_depth={self.max_depth}): give 1 or more.")
        if self.notify not in ("idle", "always", "off"):
            raise ConfigurationError(
                f"ListenerConfig(notify={self.notify!r}): give 'idle', 'always' or 'off'."
            )
        if self.commit_every > self.grace:
            raise ConfigurationError(
                f"ListenerConfig(commit_every={shown(self.commit_every)}, grace={shown(self.grace)}): a stopping "
                "listener could not finish its transaction. Give commit_every <= grace."
            )
        if self.notify == "off" and self.direct_url is not None:
            raise ConfigurationError(
                "ListenerConfig(notify='off', direct_url=...): the direct connection is for notifications. "
                "Leave out one of them."
            )
