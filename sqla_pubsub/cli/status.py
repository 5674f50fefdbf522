"""``status``: what waits for whom, who works on it, and what is wrong; once, or again and again."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.phrases import examples, json_option, lasting, print_table
from sqla_pubsub.cli.project import Project, failed, modules_argument, open_project, url_option
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.admin import Admin, ListenerStatus
from sqla_pubsub.operate.problems import number
from sqla_pubsub.process.logs import coloured
from sqla_pubsub.values import one_line

AGAIN = 2.0
"""Seconds between two looks of ``--watch``."""
_HEADS = ("listener", "ready", "waiting", "dead", "oldest", "workers", "in/s", "out/s", "note")


@click.command(
    "status",
    short_help="Show what waits, who works, what is wrong.",
    epilog=examples("status", "status --watch", "status myapp.listeners --json"),
)
@modules_argument
@click.option("--exact", is_flag=True, help="Count all; else no more than 10,000 of a kind.")
@click.option("--watch", is_flag=True, help="Show it again every 2 s, until Ctrl-C.")
@json_option
@url_option
def status_command(
    *, modules: Sequence[str], exact: bool, watch: bool, as_json: bool, url: str | None
) -> None:
    """Show the backlog of every listener, how fast it is worked on, and what is wrong with it.

    Ready is what a worker would take now, retries whose time has come among it; waiting, what is retried
    later; oldest, for how long the first of the ready entries has been ready; workers, how many supervisors
    run it; in/s and out/s, how many events were published and left the outbox in a second lately.
    """
    project = open_project(url, modules)
    admin = Admin(project.engine(), project.metadata)
    if watch:
        _refuse_to_watch(as_json=as_json)
        _watch(project, lambda: admin.status(exact=exact))
        return
    try:
        rows = admin.status(exact=exact)
    except DBAPIError as error:
        raise failed(project, error, "monitor") from error
    if as_json:
        click.echo(json.dumps([row.as_json() for row in rows], indent=2))
        return
    heads, cells = _columns(rows)
    print_table(heads, cells, trouble=_troubled(rows))


def _refuse_to_watch(*, as_json: bool) -> None:
    if as_json:
        raise ConfigurationError("--watch is for people, and --json for programs. Give one of them.")
    if not sys.stdout.isatty():
        raise ConfigurationError(
            "--watch draws on a terminal, and the output goes elsewhere. Leave --watch out, or give --json."
        )


def _watch(project: Project, look: Callable[[], list[ListenerStatus]]) -> None:
    console, stop = Console(no_color=not coloured(sys.stdout), highlight=False), StopSignal()
    # An exception could come up anywhere: in a look, or where Python drops it.
    signal.signal(signal.SIGINT, lambda *_: stop.raise_())
    with Live(console=console, auto_refresh=False) as live:
        while not stop():
            live.update(_screen(project, look), refresh=True)
            stop.wait(AGAIN)


def _screen(project: Project, look: Callable[[], list[ListenerStatus]]) -> Group | Text:
    """Draw what is seen; a database that does not answer may do so at the next look."""
    try:
        rows = look()
    except DBAPIError as error:
        refusal = failed(project, error, "monitor")
        if isinstance(refusal, ConfigurationError):
            raise refusal from error
        return Text(one_line(describe(error.orig or error)), style="yellow")
    heads, cells = _columns(rows)
    troubled = _troubled(rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads[:-1]:
        if head == "listener":
            table.add_column(head, overflow="fold")
        else:
            table.add_column(head, justify="right", no_wrap=True)
    notes = []
    for place, row in enumerate(cells):
        style = "yellow" if place in troubled else ""
        table.add_row(*(Text(one_line(cell), style=style) for cell in row[:-1]))
        notes += [
            Text(f"{one_line(row[0])}: {one_line(problem)}", style=style) for problem in rows[place].problems
        ]
    return Group(table, Text(), *notes, Text("Ctrl-C ends this", style="dim"))


def _columns(rows: Sequence[ListenerStatus]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and cells, without the columns of which nothing is known."""
    cells = [_cells(row) for row in rows]
    kept = [
        place
        for place, head in enumerate(_HEADS)
        if head not in ("workers", "in/s", "out/s") or any(row[place] for row in cells)
    ]
    return tuple(_HEADS[place] for place in kept), [tuple(row[place] for place in kept) for row in cells]


def _cells(row: ListenerStatus) -> tuple[str, ...]:
    return (
        row.listener,
        number(row.ready, capped=row.ready_capped),
        number(row.waiting, capped=row.waiting_capped),
        number(row.dead, capped=row.dead_capped),
        "" if row.oldest is None else lasting(row.oldest),
        "" if row.workers is None or not row.declared else str(row.workers),
        _rate(row.rate_in),
        _rate(row.rate_out),
        "; ".join(row.problems),
    )


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _troubled(rows: Sequence[ListenerStatus]) -> set[int]:
    return {place for place, row in enumerate(rows) if row.problems}
