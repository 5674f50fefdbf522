"""Numbers and times in sentences for people."""

from __future__ import annotations

from datetime import timedelta


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return *number* with its noun.

    >>> counted(1, "entry", "entries"), counted(2, "dead letter")
    ('1 entry', '2 dead letters')
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def lasting(age: timedelta) -> str:
    """Return *age* in whole seconds.

    >>> lasting(timedelta(minutes=5, microseconds=7))
    '0:05:00'
    """
    return str(timedelta(seconds=int(age.total_seconds())))
