"""The timings and bounds of a listener that are no settings: their defaults fit everybody, and tests give others."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqla_pubsub.deliver.claim.batch_size import BatchSizeLimits
from sqla_pubsub.deliver.claim.cursor import CursorLimits
from sqla_pubsub.deliver.relay.circuit import CircuitLimits
from sqla_pubsub.deliver.settle.outcome import FailureLimits
from sqla_pubsub.deliver.wake.idle_policy import CrowdLimits, PollLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All of them, by what they bound."""

    cursor: CursorLimits = field(default_factory=CursorLimits)
    batch_size: BatchSizeLimits = field(default_factory=BatchSizeLimits)
    poll: PollLimits = field(default_factory=PollLimits)
    crowd: CrowdLimits = field(default_factory=CrowdLimits)
    failure: FailureLimits = field(default_factory=FailureLimits)
    circuit: CircuitLimits = field(default_factory=CircuitLimits)


DEFAULTS = Limits()
