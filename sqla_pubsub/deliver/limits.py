"""The timings and bounds of a listener that are no settings: their defaults fit everybody, and tests give others."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqla_pubsub.deliver.outcome import FailureLimits
from sqla_pubsub.deliver.pace import PaceLimits
from sqla_pubsub.deliver.scan import ScanLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class PollLimits:
    """How long a sleeper sleeps without a look, in seconds.

    Args:
        first: At least.
        writers: At most, while open transactions of writers keep the lock from us.
        take_over: At most, while others have work in hand: no notification tells that they died.
        blind: At most, where no notification can come at all.
    """

    first: float = 0.005
    writers: float = 0.05
    take_over: float = 1.0
    blind: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All of them, by what they bound."""

    scan: ScanLimits = field(default_factory=ScanLimits)
    pace: PaceLimits = field(default_factory=PaceLimits)
    poll: PollLimits = field(default_factory=PollLimits)
    failure: FailureLimits = field(default_factory=FailureLimits)


DEFAULTS = Limits()
