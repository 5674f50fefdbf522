"""``sqla-pubsub pause`` and ``resume``: let workers leave a listener alone for a while."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence

import click
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.phrases import examples, say
from sqla_pubsub.cli.project import failed, modules_argument, open_project, url_option
from sqla_pubsub.operate.admin import Admin
from sqla_pubsub.operate.problems import pausing


@click.command(
    "pause",
    short_help="Let no worker take the entries of a listener.",
    epilog=examples(
        "pause email_author --note 'the mail server is down'", "pause email_author myapp.listeners"
    ),
)
@click.argument("listener")
@modules_argument
@click.option("--note", metavar="TEXT", help="Why, for others to read.")
@url_option
def pause_command(listener: str, modules: Sequence[str], note: str | None, url: str | None) -> None:
    """Pause LISTENER for all workers, wherever they run, until it is resumed.

    What they have in hand is finished. Its events go on to be written, and wait. Restarts change nothing.
    """
    project = open_project(url, modules)
    admin = Admin(project.engine(), project.metadata)
    try:
        new = admin.pause(listener, note, by=_me())
        if new:
            say(f"listener {listener!r} is paused, until: sqla-pubsub resume {listener}")
        else:
            say(f"listener {listener!r} was already {pausing(admin.paused()[listener])}")
    except DBAPIError as error:
        raise failed(project, error, "operator") from error


@click.command(
    "resume",
    short_help="Let workers take them again.",
    epilog=examples("resume email_author", "resume email_author myapp.listeners"),
)
@click.argument("listener")
@modules_argument
@url_option
def resume_command(listener: str, modules: Sequence[str], url: str | None) -> None:
    """End the pause of LISTENER; workers that sleep go on with it at once."""
    project = open_project(url, modules)
    try:
        resumed = Admin(project.engine(), project.metadata).resume(listener)
    except DBAPIError as error:
        raise failed(project, error, "operator") from error
    say(f"listener {listener!r} {'is resumed' if resumed else 'was not paused'}")


def _me() -> str | None:
    """Return who runs the command and where, None where the system has no name for them."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError, ImportError):
        return None
