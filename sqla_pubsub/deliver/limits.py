"""The timings and bounds of a listener that are no settings: their defaults fit everybody, and tests give others."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqla_pubsub.deliver.claim.batch_size import PaceLimits
from sqla_pubsub.deliver.claim.cursor import ScanLimits
from sqla_pubsub.deliver.settle.outcome import FailureLimits
from sqla_pubsub.deliver.wake.idle_policy import PollLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All of them, by what they bound."""

    scan: ScanLimits = field(default_factory=ScanLimits)
    pace: PaceLimits = field(default_factory=PaceLimits)
    poll: PollLimits = field(default_factory=PollLimits)
    failure: FailureLimits = field(default_factory=FailureLimits)


DEFAULTS = Limits()
