"""Numbers, times and tables for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.cells import cell_len

from sqla_pubsub.operate.problems import lasting
from sqla_pubsub.process.logs import coloured
from sqla_pubsub.values import harmless, one_line

__all__ = [
    "as_json",
    "counted",
    "examples",
    "json_option",
    "lasting",
    "moment",
    "print_record",
    "print_table",
    "say",
]

_NARROWEST = 24
"""Least width of the last column beside the others."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def counted(number: int, one: str, many: str | None = None, *, more: bool = False) -> str:
    """Return *number* with its noun; *more* says that there are more.

    >>> counted(1, "entry", "entries"), counted(2, "dead letter"), counted(10000, "dead letter", more=True)
    ('1 entry', '2 dead letters', '10,000+ dead letters')
    """
    shown = f"{number:,}+" if more else str(number)
    return f"{shown} {one if number == 1 else many or f'{one}s'}"


def moment(time: datetime | None) -> str:
    """Return *time* with the zone of this machine, empty without one."""
    return "" if time is None else time.astimezone().isoformat(timespec="seconds")


def examples(*commands: str) -> str:
    """Return what ``--help`` ends with."""
    return "\n".join(["\b", "Examples:", *(f"  sqla-pubsub {command}" for command in commands)])


def say(text: str, *, trouble: bool = False) -> None:
    """Print a line, in colour where it is about trouble and a terminal shows that."""
    alarming = trouble and coloured(sys.stdout)
    click.echo(click.style(harmless(text), fg="yellow") if alarming else harmless(text), color=alarming)


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, trouble: Collection[int] = ()
) -> None:
    """Print columns whose cells are shown as they are: an error's text may hold control characters.

    No cell is cut. Where a terminal is too narrow, the last column is wrapped, below the others if need be; elsewhere
    each row is one line.

    Args:
        heads: What stands above the columns.
        rows: The cells.
        trouble: Numbers of rows that are about trouble, and have its colour.
    """
    cells = [[*map(one_line, row)] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    alarming = coloured(sys.stdout)
    for number, row in enumerate([list(heads), *cells], -1):
        for line in _row(row, widths, room):
            shown = click.style(line, bold=number < 0 or None, fg="yellow" if number in trouble else None)
            click.echo(shown if alarming else line, color=alarming)


def _row(cells: Sequence[str], widths: Sequence[int], room: int | None) -> list[str]:
    before = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells[:-1], widths, strict=False)]
    start = "  ".join([*before, ""]) if before else ""
    if room is None or cell_len(start + cells[-1]) <= room:
        return [(start + cells[-1]).rstrip()]
    left = room - cell_len(start)
    if left < _NARROWEST:
        return [
            start.rstrip(),
            *textwrap.wrap(cells[-1], room, initial_indent="    ", subsequent_indent="    "),
        ]
    first, *others = textwrap.wrap(cells[-1], left)
    return [start + first, *(" " * cell_len(start) + line for line in others)]


def print_record(title: str, facts: Mapping[str, object]) -> None:
    """Print what is known of one thing: a name and a value a line, longer values below their name."""
    say(title)
    width = max(map(len, facts))
    for name, value in facts.items():
        text = value if isinstance(value, str) else _json(value)
        lines = harmless(text).rstrip("\n").split("\n")
        if len(lines) == 1:
            click.echo(f"  {name:{width}}  {lines[0]}".rstrip())
        else:
            click.echo("\n".join([f"  {name}", *(f"    {line}" for line in lines)]))


def as_json(rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    """Return JSON in which what does not print is escaped: json itself leaves more than the terminal may see."""
    lines = _json(rows).split("\n")
    return "\n".join("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line) for line in lines)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
