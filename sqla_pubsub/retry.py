"""When a failed event is tried again: a value and arithmetic, without a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.values import Kind, instead, shown

_KINDS: dict[str, Kind] = {
    "max_attempts": "whole number",
    "initial": "duration",
    "factor": "number",
    "max_delay": "duration",
    "jitter": "flag",
}


class Rng(Protocol):
    """The one method of `random.Random` that is needed here."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a number between *a* and *b*."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, bounded in length and in number.

    Args:
        max_attempts: Tries in all, the first included; then the event is a dead letter.
        initial: Delay after the first failure.
        factor: Growth of the delay from one failure to the next.
        max_delay: Upper bound of one delay.
        jitter: Draw each delay evenly between zero and its full length, so that events that
            failed together do not come back together.

    Raises:
        ConfigurationError: A value has a wrong type, or a bound is out of range.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    max_attempts: int = 10
    initial: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    max_delay: timedelta = timedelta(hours=1)
    jitter: bool = True

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            wanted = instead(value, kind)
            if wanted is not None:
                raise ConfigurationError(f"RetryPolicy({name}={shown(value)}): give {wanted}.")
        if self.max_attempts < 1:
            raise ConfigurationError(
                f"RetryPolicy(max_attempts={self.max_attempts}) never tries. Give 1 or more."
            )
        if self.factor < 1:
            raise ConfigurationError(
                f"RetryPolicy(factor={self.factor}) would shrink the delays. Give 1 or more."
            )
        if self.initial < timedelta(0) or self.max_delay < self.initial:
            raise ConfigurationError(
                f"RetryPolicy(initial={shown(self.initial)}, max_delay={shown(self.max_delay)}): "
                "give 0 <= initial <= max_delay."
            )

    def delay(self, attempt: int, rng: Rng) -> timedelta | None:
        """Return how long to wait after *attempt* failed, or None to give up.

        Args:
            attempt: Tries made so far, counted from 1.
            rng: Source of the jitter.

        >>> import random
        >>> RetryPolicy(jitter=False).delay(4, random.Random())
        datetime.timedelta(seconds=8)
        """
        if attempt >= self.max_attempts:
            return None
        # A power beyond any max_delay would overflow the float long before it mattered.
        growth = math.exp(min((attempt - 1) * math.log(self.factor), 700))
        full = min(self.initial.total_seconds() * growth, self.max_delay.total_seconds())
        return timedelta(seconds=rng.uniform(0, full) if self.jitter else full)
