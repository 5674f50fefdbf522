"""``sqla-pubsub backfill``: events for the rows that were there before a listener."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.phrases import examples
from sqla_pubsub.cli.project import failed, module_option, open_project, url_option
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError, sqlstate
from sqla_pubsub.operate.backfill.progress import Progress as Done
from sqla_pubsub.operate.backfill.service import Backfill
from sqla_pubsub.sqlstates import DENIED

_AGAIN = "Run the same command again to go on where it stopped, or with --abandon to give it up."


@click.command(
    "backfill",
    short_help="Report the rows from before a listener.",
    epilog=examples("backfill email_author", "backfill email_author --skip-changed --yes"),
)
@click.argument("listener")
@module_option
@url_option
@click.option(
    "--batch-size", type=click.IntRange(1, 100_000), default=1000, show_default=True,
    help="Rows in one transaction.",
)  # fmt: skip
@click.option(
    "--include-changed/--skip-changed", default=None,
    help="Report, or leave out, rows without an entry that came or changed after the listener was installed.",
)  # fmt: skip
@click.option("--abandon", is_flag=True, help="Give up a backfill that was begun, and clean up after it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def backfill(
    listener: str,
    modules: Sequence[str],
    url: str | None,
    batch_size: int,
    include_changed: bool | None,
    abandon: bool,
    yes: bool,
) -> None:
    """Write an insert event for every row that existed before LISTENER did.

    Stopped anywhere, it goes on where it was when it is run again. Writers and workers may run meanwhile.
    """
    project = open_project(url, modules, [listener]).direct()
    try:
        with Backfill(project.engine(), project.metadata, listener) as work:
            if abandon:
                found = work.abandon()
                click.echo(
                    f"The backfill of {listener!r} was abandoned."
                    if found
                    else "There was nothing to abandon."
                )
                return
            work.prepare()
            _begin(work, include_changed, yes=yes)
            done = _run(work, batch_size)
            work.end()
    except DBAPIError as error:
        if sqlstate(error) == DENIED:
            raise ConfigurationError(
                f"{describe(error.orig or error)}. Backfill {listener!r} as the role that runs the migrations: "
                "it creates a trigger and functions, and reads and writes the outbox."
            ) from error
        raise failed(project, error) from error
    click.echo(_summary(done, listener))


def _begin(work: Backfill, include_changed: bool | None, *, yes: bool) -> None:
    begun = work.begun()
    if begun is not None:
        if include_changed is not None and include_changed != begun.include_changed:
            chosen = "--include-changed" if begun.include_changed else "--skip-changed"
            raise ConfigurationError(
                f"the backfill of {work.listener!r} was begun with {chosen}. Go on with that, or --abandon it first."
            )
        click.echo(f"Going on after {begun.passed} of {begun.total} rows.", err=True)
        return
    measure = work.measure()
    if measure.changed and include_changed is None:
        raise ConfigurationError(work.choice(measure))
    events = measure.old + (measure.changed if include_changed else 0)
    if events > 1 and not yes:
        click.confirm(f"Write {events} events for listener {work.listener!r}?", abort=True, err=True)
    work.begin(include_changed=include_changed)


def _run(work: Backfill, batch_size: int) -> Done:
    done = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("rows")
            for done in work.run(batch_size):
                progress.update(task, completed=done.passed, total=done.total)
    except KeyboardInterrupt:
        click.echo(_AGAIN, err=True)
        raise
    assert done is not None
    return done


def _summary(done: Done, listener: str) -> str:
    text = f"{done.written} event{'s' * (done.written != 1)} written for listener {listener!r}."
    if done.left_out:
        text += (
            f" {done.left_out} row{'s' * (done.left_out != 1)} that came or changed after it was installed "
            "may have been reported, and were left out."
        )
    return text
