"""``sqla-pubsub listen``: run the listeners of some modules."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, nap, retry_if_exception_type, wait_random_exponential

from sqla_pubsub.cli.project import Project, modules_argument, open_project, unreachable, url_option
from sqla_pubsub.declare.diff import Difference
from sqla_pubsub.declare.install import check
from sqla_pubsub.deliver.listener import chosen, say_waiting
from sqla_pubsub.deliver.maintenance import Maintenance
from sqla_pubsub.deliver.supervisor import Counts, Supervisor
from sqla_pubsub.deliver.worker import Plan
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.subscription import registry_of

logger = logging.getLogger(__name__)


@click.command()
@modules_argument
@click.option(
    "--processes", type=click.IntRange(1, 1024), default=1, show_default=True, help="Worker processes."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 1024), default=1, show_default=True,
    help="Threads per process, for transactional=False listeners only.",
)  # fmt: skip
@click.option(
    "--listener", "listeners", multiple=True, metavar="NAME", help="Run only this one; may be repeated."
)
@click.option("--drain", is_flag=True, help="Handle what is due, then exit.")
@click.option("--no-check", is_flag=True, help="Do not compare the installed triggers first.")
@click.option("--exit-on-error", is_flag=True, help="Exit when the server cannot be reached at the start.")
@click.option("-v", "--verbose", is_flag=True, help="Log every step.")
@url_option
def listen(
    *,
    modules: Sequence[str],
    processes: int,
    concurrency: int,
    listeners: Sequence[str],
    drain: bool,
    no_check: bool,
    exit_on_error: bool,
    verbose: bool,
    url: str | None,
) -> None:
    """Handle the events of the listeners declared in MODULES, such as myapp.listeners."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    level = logging.DEBUG if verbose else logging.WARNING if drain else logging.INFO
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(process)d %(message)s"
    )
    project = open_project(url, modules, listeners)
    engine = project.engine()
    _await_server(project, engine, patient=not (drain or exit_on_error))
    if not no_check:
        _refuse_without_capture(project, engine, listeners)
    plan = Plan(
        modules=project.modules, url=project.url, listeners=tuple(listeners), concurrency=concurrency,
        drain=drain, config=project.config, log_level=level,
    )  # fmt: skip
    sys.exit(_supervise(project, engine, plan, processes))


def _await_server(project: Project, engine: Engine, *, patient: bool) -> None:
    def connect() -> None:
        with engine.connect():
            pass

    try:
        if not patient:
            connect()
            return
        Retrying(
            retry=retry_if_exception_type(DBAPIError),
            wait=wait_random_exponential(multiplier=0.2, max=5.0),
            sleep=nap.sleep,
            before_sleep=say_waiting,
        )(connect)
    except DBAPIError as error:
        raise unreachable(project.url, error) from error


def _refuse_without_capture(project: Project, engine: Engine, listeners: Sequence[str]) -> None:
    wanted = {spec.name for spec in chosen(registry_of(project.metadata).listeners, listeners)}
    with engine.connect() as connection:
        differences = check(connection, project.metadata)
    fatal = [d for d in differences if d.kind == "table" or wanted & _uncaptured(d)]
    if fatal:
        raise ConfigurationError("\n".join(str(difference) for difference in fatal))
    for difference in differences:
        logger.warning("capture.differs: %s", difference)


def _uncaptured(difference: Difference) -> set[str]:
    """Return the listeners that get nothing at all because of a difference."""
    return set(difference.listeners) - set(difference.captured)


def _supervise(project: Project, engine: Engine, plan: Plan, processes: int) -> int:
    maintenance = Maintenance(engine, project.metadata)
    bar: AbstractContextManager[Any] = nullcontext()
    on_progress = None
    if plan.drain and sys.stderr.isatty():
        names = [spec.name for spec in chosen(registry_of(project.metadata).listeners, plan.listeners)]
        bar, on_progress = _progress_bar(maintenance.pending(names))
    with bar:
        supervisor = Supervisor(plan, processes, count_crash=maintenance.count_crash, on_progress=on_progress)
        code = supervisor.run()
    if plan.drain:
        click.echo(summary(supervisor.counts), err=True)
    return code


def summary(counts: Sequence[Counts]) -> str:
    """Say in one line what was settled.

    >>> summary([(3, 1, 0), (2, 0, 1)])
    '5 events handled, 1 failed and waiting for a retry, 1 dead letter'
    """
    done, retried, dead = (sum(column) for column in zip(*counts, strict=True))
    return (
        f"{done} event{'s' * (done != 1)} handled, {retried} failed and waiting for a retry, "
        f"{dead} dead letter{'s' * (dead != 1)}"
    )


def _progress_bar(total: int) -> tuple[AbstractContextManager[Any], Any]:
    columns = (TextColumn("handling events"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("events", total=total)
    return progress, partial(_advance, progress, task)


def _advance(progress: Any, task: Any, counts: Sequence[Counts]) -> None:
    progress.update(task, completed=sum(sum(row) for row in counts))
