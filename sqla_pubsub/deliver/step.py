"""What working one group tells the listener."""

from __future__ import annotations

from dataclasses import dataclass


class ConnectionLost(Exception):
    """The work connection is gone; whatever was claimed on it is free again."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one group did: how many it settled, and whether more is likely to wait."""

    settled: int = 0
    more: bool = False
