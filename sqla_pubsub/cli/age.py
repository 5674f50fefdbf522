"""Durations on the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


LONGEST = timedelta(days=36_500)


class Age(click.ParamType):  # type: ignore[type-arg]
    """A duration such as 90s, 15m, 12h, 7d or 2w."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read a number and its unit."""
        if isinstance(value, timedelta):
            return value
        number, unit = str(value)[:-1], str(value)[-1:]
        if not number.isdecimal() or unit not in _UNITS:
            self.fail(
                f"{value!r} is no age. Give a number and one of {', '.join(_UNITS)}, such as 12h.", param, ctx
            )
        try:
            age = timedelta(**{_UNITS[unit]: int(number)})
        except OverflowError:
            age = timedelta.max
        if age > LONGEST:
            self.fail(f"{value!r} is more than {LONGEST.days} days. Give less.", param, ctx)
        return age
