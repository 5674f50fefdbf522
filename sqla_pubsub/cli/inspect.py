"""``check`` and ``health``: what is installed, and whether entries are handled in time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta

import click
from sqlalchemy import MetaData
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.age import Age
from sqla_pubsub.cli.difference import sentence
from sqla_pubsub.cli.phrases import counted, examples, lasting, say
from sqla_pubsub.cli.project import failed, modules_argument, open_project, url_option
from sqla_pubsub.declare.install import check
from sqla_pubsub.operate.admin import Admin, ListenerStatus
from sqla_pubsub.operate.problems import pausing
from sqla_pubsub.registry import registry_of
from sqla_pubsub.rights import refuse_without_rights


@click.command(
    "check",
    short_help="Compare triggers with what is declared.",
    epilog=examples("check", "check myapp.listeners"),
)
@modules_argument
@url_option
def check_command(modules: Sequence[str], url: str | None) -> None:
    """Compare what MODULES declare with what is installed. Exit code 1 when they differ.

    The same code when entries wait for a listener that nobody declares, because no worker will ever take
    them, and when the database cannot be reached.
    """
    project = open_project(url, modules)
    rows: list[ListenerStatus] = []
    try:
        with project.engine().connect() as connection:
            # Without the right on its schema a table would only seem to be missing.
            refuse_without_rights(connection, project.metadata, "monitor")
            differences = check(connection, project.metadata)
        if not any(difference.kind == "table" for difference in differences):
            rows = Admin(project.engine(), project.metadata).status()
    except DBAPIError as error:
        raise failed(project, error, "monitor") from error
    for difference in differences:
        say(sentence(difference), trouble=difference.kind != "constant")
    # A condition may be a switch that is off: said, and no failure.
    differ = any(difference.kind != "constant" for difference in differences)
    if not differ:
        click.echo("All declared triggers are installed.")
    for spec in registry_of(project.metadata).listeners.values():
        if spec.to is not None:
            click.echo(f"listener {spec.name!r} sends to {spec.to.settings_name!r}: {spec.to.contract}")
    abandoned = _abandoned(rows, project.metadata)
    for row in abandoned:
        say(_abandonment(row), trouble=True)
    sys.exit(1 if differ or abandoned else 0)


def _abandonment(row: ListenerStatus) -> str:
    entries = counted(
        row.ready + row.waiting, "entry", "entries", more=row.ready_capped or row.waiting_capped
    )
    letters = counted(row.dead, "dead letter", more=row.dead_capped)
    return (
        f"listener {row.listener!r} is not declared, but {entries} and {letters} are "
        f"its own. Give the listener that takes them over previous_names=[{row.listener!r}], declare it again, "
        f"or delete them: sqla-pubsub discard-entries {row.listener}, sqla-pubsub dead discard --all --listener "
        f"{row.listener}"
    )


def _abandoned(rows: Sequence[ListenerStatus], metadata: MetaData) -> list[ListenerStatus]:
    """Return what belongs to listeners that nobody declares, under their present name or an earlier one."""
    adopted = {name for spec in registry_of(metadata).listeners.values() for name in spec.previous_names}
    return [row for row in rows if not row.declared and row.listener not in adopted]


@click.command(
    "health",
    short_help="Are entries handled in time?",
    epilog=examples("health", "health --max-age 15m --max-dead 0"),
)
@modules_argument
@click.option(
    "--max-age", type=Age(), default="5m", show_default=True, help="Oldest entry that is still healthy."
)
@click.option(
    "--max-dead", type=click.IntRange(0), help="Most dead letters of one listener that are still healthy."
)
@url_option
def health_command(modules: Sequence[str], max_age: timedelta, max_dead: int | None, url: str | None) -> None:
    """For monitoring: exit code 0 while entries are handled in time, 1 when not.

    It fails when the database cannot be reached, when a declared listener has an entry that has
    been ready for longer than --max-age and is not paused, or when one has more dead letters than --max-dead. Dead
    letters, paused listeners, and entries of listeners that nobody declares, are named in any case.
    """
    project = open_project(url, modules)
    try:
        rows = Admin(project.engine(), project.metadata).status()
    except DBAPIError as error:
        raise failed(project, error, "monitor") from error
    old = [row for row in rows if row.declared and row.oldest is not None and row.oldest > max_age]
    late = [row for row in old if row.paused is None]
    dying = [row for row in rows if row.declared and max_dead is not None and row.dead > max_dead]
    if not late and not dying:
        click.echo("healthy")
    for row in late:
        assert row.oldest is not None
        ready = counted(row.ready, "entry", "entries", more=row.ready_capped)
        say(
            f"listener {row.listener!r} is behind: {ready} ready, the oldest for {lasting(row.oldest)}",
            trouble=True,
        )
    for row in rows:
        if row.paused is not None:
            say(f"listener {row.listener!r} is {pausing(row.paused)}", trouble=True)
    for row in rows:
        if row.declared and row.dead:
            letters = counted(row.dead, "dead letter", more=row.dead_capped)
            hint = f"sqla-pubsub dead list --listener {row.listener}"
            say(f"listener {row.listener!r} has {letters}: see {hint}", trouble=row in dying)
    for row in _abandoned(rows, project.metadata):
        say(_abandonment(row), trouble=True)
    sys.exit(1 if late or dying else 0)
