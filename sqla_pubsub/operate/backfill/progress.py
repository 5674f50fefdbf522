"""What a backfill has to do and has done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

Position = Sequence[str]
"""The primary key of a row, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What there is to report. *old* rows are certain; *changed* ones came or changed after the listener did."""

    total: int
    old: int
    changed: int

    @classmethod
    def together(cls, found: Sequence[Measure]) -> Measure:
        """Return the sum."""
        return cls(
            total=sum(m.total for m in found),
            old=sum(m.old for m in found),
            changed=sum(m.changed for m in found),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one table is. *left_out* counts rows that may have been reported and were not reported again."""

    total: int
    last: Position | None
    include_changed: bool
    left_out: int
    position: Position | None = None
    passed: int = 0
    written: int = 0
    finished: bool = False

    @classmethod
    def together(cls, found: Sequence[Progress]) -> Progress:
        """Return the sum; the positions are those of the last one."""
        return replace(
            found[-1],
            total=sum(p.total for p in found),
            left_out=sum(p.left_out for p in found),
            passed=sum(p.passed for p in found),
            written=sum(p.written for p in found),
            finished=all(p.finished for p in found),
        )
