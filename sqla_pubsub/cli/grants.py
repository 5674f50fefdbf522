"""``sqla-pubsub grants``: the rights of a deployment whose roles have no more than they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import click
from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.phrases import examples
from sqla_pubsub.cli.project import failed, modules_argument, open_projects, url_option
from sqla_pubsub.contract.quoting import quoted
from sqla_pubsub.contract.tables import absence
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.open_schemas import open_schemas
from sqla_pubsub.registry import outbox
from sqla_pubsub.rights import DUTIES, Duty, needed, statements


@click.command(
    short_help="Print the rights that roles need.",
    epilog=examples("grants --listener-role app_worker --operator-role admin | psql"),
)
@modules_argument
@click.option(
    "--listener-role", "listener", multiple=True, metavar="ROLE",
    help="Runs listen, entries and discard-entries; may be repeated, as the others.",
)  # fmt: skip
@click.option(
    "--operator-role", "operator", multiple=True, metavar="ROLE", help="Runs dead, pause and resume."
)
@click.option(
    "--monitor-role",
    "monitor",
    multiple=True,
    metavar="ROLE",
    help="Runs status, health, check, workers and why.",
)
@click.option(
    "--writer-role", "writer", multiple=True, metavar="ROLE",
    help="Calls publish(); changing rows needs nothing.",
)  # fmt: skip
@url_option
def grants(modules: Sequence[str], url: str | None, **chosen: Sequence[str]) -> None:
    """Print GRANT statements for roles that listen, look after the outbox, watch it or publish.

    They are for psql, run by the owner of the tables. Nothing is granted here.
    """
    roles: list[tuple[Duty, str]] = [(duty, role) for duty in get_args(Duty) for role in chosen[duty]]
    if not roles:
        raise ConfigurationError(
            "no role is given. Name at least one with --listener-role, --operator-role, --monitor-role or --writer-role."
        )
    for _, role in roles:
        if not role or not role.isprintable():
            raise ConfigurationError(f"role {role!r} is no name. Give that of a role of the database.")
    for project in open_projects(url, modules):
        try:
            with project.engine().connect() as connection:
                lines = list(_lines(connection, project.metadata, roles))
        except DBAPIError as error:
            raise failed(project, error) from error
        click.echo("\n".join(lines))


def _lines(connection: Connection, metadata: MetaData, roles: Sequence[tuple[Duty, str]]) -> Iterator[str]:
    entry = outbox(metadata).Entry.__table__
    if not needed(connection, metadata, "listener"):
        raise ConfigurationError(absence(entry))
    for found in open_schemas(connection, metadata):
        yield f"-- {found.found}."
        yield f"-- {found.remedy}"
    for duty, role in roles:
        rights = needed(connection, metadata, duty)
        yield f"-- {quoted(role)} runs {DUTIES[duty]}"
        if duty == "listener":
            yield "-- Its handlers need rights of their own: SELECT on tables whose rows they load, and so on."
        if not rights:
            yield "-- It needs no right of ours: captures run as their owner, and there are no messages."
        yield from statements(rights, role)
