"""``check`` and ``status``: what is installed, what waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import timedelta

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import MetaData
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.age import Age
from sqla_pubsub.cli.project import (
    failed,
    modules_argument,
    open_project,
    unreachable,
    url_option,
)
from sqla_pubsub.declare.install import check
from sqla_pubsub.deliver.maintenance import ListenerStatus, Maintenance
from sqla_pubsub.deliver.outcome import DENIED
from sqla_pubsub.errors import sqlstate
from sqla_pubsub.privileges import refuse_without_rights
from sqla_pubsub.subscription import registry_of

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.command("check")
@modules_argument
@url_option
def check_command(modules: Sequence[str], url: str | None) -> None:
    """Compare what MODULES declare with what is installed. Exit code 1 when they differ.

    The same code when entries wait for a listener that nobody declares: no worker will ever take them.
    """
    project = open_project(url, modules)
    rows: list[ListenerStatus] = []
    try:
        with project.engine().connect() as connection:
            # Without the right on its schema a table would only seem to be missing.
            refuse_without_rights(connection, project.metadata, "monitor")
            differences = check(connection, project.metadata)
        if not any(difference.kind == "table" for difference in differences):
            rows = Maintenance(project.engine(), project.metadata).status()
    except DBAPIError as error:
        raise unreachable(project.url, error) from error
    for difference in differences:
        click.echo(str(difference))
    if not differences:
        click.echo("All declared triggers are installed.")
    abandoned = _abandoned(rows, project.metadata)
    for row in abandoned:
        click.echo(
            f"listener {row.listener!r} is not declared, but {row.ready + row.waiting} entries and {row.dead} dead "
            f"letters are its own. Give the listener that takes them over previous_names=[{row.listener!r}], "
            "declare it again, or delete them."
        )
    sys.exit(1 if differences or abandoned else 0)


def _abandoned(rows: Sequence[ListenerStatus], metadata: MetaData) -> list[ListenerStatus]:
    """Return what belongs to listeners that nobody declares, under their present name or an earlier one."""
    adopted = {name for spec in registry_of(metadata).listeners.values() for name in spec.previous_names}
    return [row for row in rows if not row.declared and row.listener not in adopted]


@click.command("status")
@modules_argument
@json_option
@url_option
def status_command(modules: Sequence[str], as_json: bool, url: str | None) -> None:
    """Show the backlog of every listener."""
    project = open_project(url, modules)
    try:
        rows = Maintenance(project.engine(), project.metadata).status()
    except DBAPIError as error:
        raise failed(project, error, "monitor") from error
    if as_json:
        click.echo(json.dumps([row.as_json() for row in rows], indent=2))
    else:
        _print_table(rows)


@click.command("health")
@modules_argument
@click.option(
    "--max-age", type=Age(), default="5m", show_default=True, help="Oldest entry that is still healthy."
)
@url_option
def health_command(modules: Sequence[str], max_age: timedelta, url: str | None) -> None:
    """Probe for containers: exit code 0 while entries are handled in time, 1 when not.

    It fails when the database cannot be reached, or when a declared listener has an entry that has
    been ready for longer than --max-age.
    """
    project = open_project(url, modules)
    try:
        rows = Maintenance(project.engine(), project.metadata).status()
    except DBAPIError as error:
        click.echo(str(failed(project, error, "monitor")), err=True)
        sys.exit(2 if sqlstate(error) == DENIED else 1)
    late = [row for row in rows if row.declared and row.oldest is not None and row.oldest > max_age]
    for row in late:
        click.echo(
            f"listener {row.listener!r} is behind: {row.ready} entries ready, the oldest since {row.oldest}"
        )
    if not late:
        click.echo("healthy")
    sys.exit(1 if late else 0)


def _print_table(rows: Sequence[ListenerStatus]) -> None:
    table = Table("listener", "ready", "waiting", "dead", "oldest", "")
    for row in rows:
        oldest = "" if row.oldest is None else str(row.oldest).partition(".")[0]
        note = "" if row.declared else "not declared"
        table.add_row(row.listener, str(row.ready), str(row.waiting), str(row.dead), oldest, note)
    Console().print(table)
