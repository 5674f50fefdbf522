"""The command line: ``sqla-pubsub``."""

from __future__ import annotations

import sys

import click

from sqla_pubsub.cli.project import Unreachable
from sqla_pubsub.cli.root import cli
from sqla_pubsub.errors import PubSubError
from sqla_pubsub.process.logs import coloured
from sqla_pubsub.values import harmless

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command line; what went wrong is one sentence on stderr and exit code 2, or 1 for a server away."""
    try:
        cli.main(prog_name="sqla-pubsub", standalone_mode=True)
    except PubSubError as error:
        said = f"sqla-pubsub: {harmless(error)}"
        red = coloured(sys.stderr)
        click.echo(click.style(said, fg="red") if red else said, err=True, color=red)
        sys.exit(1 if isinstance(error, Unreachable) else 2)
