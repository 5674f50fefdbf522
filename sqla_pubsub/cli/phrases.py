"""Numbers, times and tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from sqla_pubsub.values import one_line


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


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose cells are shown as they are: an error's text may look like a style of rich.

    Or hold control characters, which the terminal must not obey.
    """
    table = Table(*heads)
    for row in rows:
        table.add_row(*map(one_line, row))
    Console(markup=False, emoji=False, highlight=False).print(table)
