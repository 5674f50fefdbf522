"""The command group, to which all commands are added."""

from __future__ import annotations

import click

from sqla_pubsub import __version__
from sqla_pubsub.cli.backfill import backfill
from sqla_pubsub.cli.dead import dead
from sqla_pubsub.cli.demo import demo
from sqla_pubsub.cli.entries import discard_entries, entries
from sqla_pubsub.cli.grants import grants
from sqla_pubsub.cli.inspect import check_command, health_command
from sqla_pubsub.cli.listen import listen
from sqla_pubsub.cli.pause import pause_command, resume_command
from sqla_pubsub.cli.status import status_command
from sqla_pubsub.cli.web import web
from sqla_pubsub.cli.workers import why_command, workers_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sqla-pubsub")
def cli() -> None:
    """Row changes in PostgreSQL become Python events, exactly once per listener."""


cli.add_command(listen)
cli.add_command(check_command)
cli.add_command(status_command)
cli.add_command(health_command)
cli.add_command(workers_command)
cli.add_command(pause_command)
cli.add_command(resume_command)
cli.add_command(entries)
cli.add_command(why_command)
cli.add_command(discard_entries)
cli.add_command(dead)
cli.add_command(backfill)
cli.add_command(grants)
cli.add_command(web)
cli.add_command(demo)
