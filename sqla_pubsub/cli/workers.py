"""``sqla-pubsub workers`` and ``why``: who runs, and why an entry does not move."""

from __future__ import annotations

from collections.abc import Sequence

import click
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.phrases import as_json as written
from sqla_pubsub.cli.phrases import examples, json_option, lasting, print_table, say
from sqla_pubsub.cli.project import failed, module_option, modules_argument, open_project, url_option
from sqla_pubsub.operate.admin import Admin, WorkerStatus

_MOST_SHOWN = 3
"""Entries in hand that are shown of a supervisor."""


@click.command(
    "workers", short_help="List the processes that run listen.", epilog=examples("workers", "workers --json")
)
@modules_argument
@json_option
@url_option
def workers_command(modules: Sequence[str], as_json: bool, url: str | None) -> None:
    """List the supervisors, one for each sqla-pubsub listen that runs, on any machine.

    Each tells of itself every 10 s; in hand is what its workers had then, and since when.
    """
    project = open_project(url, modules)
    try:
        rows = Admin(project.engine(), project.metadata).workers()
    except DBAPIError as error:
        raise failed(project, error, "monitor") from error
    if as_json:
        click.echo(written([row.as_json() for row in rows]))
        return
    if not rows:
        say("No worker is known.")
        return
    heads = ("host", "pid", "version", "processes", "slots", "up", "seen", "listeners")
    silent = {place for place, row in enumerate(rows) if row.silent}
    print_table(heads, map(_cells, rows), trouble=silent)


def _cells(row: WorkerStatus) -> tuple[str, ...]:
    oldest = sorted(row.in_hand, key=lambda each: each.since)
    shown = [f"{each.entry} for {lasting(row.seen_at - each.since)}" for each in oldest[:_MOST_SHOWN]]
    more = [f"{len(oldest) - _MOST_SHOWN} more"] if len(oldest) > _MOST_SHOWN else []
    in_hand = f"; in hand: {', '.join([*shown, *more])}" if shown else ""
    return (
        row.host, str(row.pid), row.version, str(row.processes), str(row.slots),
        lasting(row.seen_at - row.started_at), f"{lasting(row.unseen)} ago", ", ".join(row.listeners) + in_hand,
    )  # fmt: skip


@click.command(
    "why", short_help="Say why an entry does not move.", epilog=examples("why 4711", "why 4711 --json")
)
@click.argument("entry_id", metavar="ID", type=int)
@json_option
@module_option
@url_option
def why_command(*, entry_id: int, as_json: bool, modules: Sequence[str], url: str | None) -> None:
    """Say why the entry ID does not move: who has it in hand, what it waits for, or what became of it."""
    project = open_project(url, modules)
    try:
        why = Admin(project.engine(), project.metadata).why(entry_id)
    except DBAPIError as error:
        raise failed(project, error, "monitor") from error
    if as_json:
        click.echo(written(why.as_json()))
        return
    name = "" if why.listener is None else f" of listener {why.listener!r}"
    say(f"entry {entry_id}{name}: {why.reason}")
    for sentence in why.sentences:
        say(f"  {sentence}")
