"""``sqla-pubsub listen``: run the listeners of some modules."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, nap, retry_if_exception, wait_random_exponential

from sqla_pubsub.cli.backlog import Backlog
from sqla_pubsub.cli.captures import Captures
from sqla_pubsub.cli.endpoints import Endpoints
from sqla_pubsub.cli.phrases import counted, examples
from sqla_pubsub.cli.project import Project, failed, modules_argument, open_project, url_option
from sqla_pubsub.declare.covered import is_covered
from sqla_pubsub.declare.diff import Difference
from sqla_pubsub.declare.install import check
from sqla_pubsub.deliver.arguments import chosen
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.io.reconnect import Outage, is_away
from sqla_pubsub.operate.admin import Admin
from sqla_pubsub.operate.problems import pausing
from sqla_pubsub.outlet import settings_of
from sqla_pubsub.process.heartbeat import Heartbeat
from sqla_pubsub.process.logs import FORMATS, LEVELS, Format, LogSettings
from sqla_pubsub.process.report import Counts, total
from sqla_pubsub.process.supervisor import Supervisor
from sqla_pubsub.process.worker import Plan
from sqla_pubsub.registry import ListenerSpec, registry_of
from sqla_pubsub.rights import refuse_without_rights

logger = logging.getLogger(__name__)


@click.command(
    short_help="Handle the events of listeners.",
    epilog=examples(
        "listen myapp.listeners --processes 2", "listen --listener email_author --verbose", "listen --drain",
    ),
)  # fmt: skip
@modules_argument
@click.option(
    "--processes", type=click.IntRange(1, 1024), default=1, show_default=True, help="Worker processes."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 1024), default=1, show_default=True,
    help="Events in hand per process: threads for transactional=False functions, tasks for async def ones.",
)  # fmt: skip
@click.option(
    "--listener", "listeners", multiple=True, metavar="NAME", help="Run only this one; may be repeated."
)
@click.option("--drain", is_flag=True, help="Handle what is due, then exit.")
@click.option("--no-check", is_flag=True, help="Do not compare the installed triggers first.")
@click.option(
    "--wait-for-migration", is_flag=True, help="Start when every listener has its triggers, not before."
)
@click.option("--health-port", type=click.IntRange(1, 65535), help="Answer GET /health and /live here.")
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Answer GET /metrics for Prometheus here, and the probes too.",
)
@click.option(
    "--health-host", default="127.0.0.1", show_default=True, help="Address for both; 0.0.0.0 for all."
)
@click.option("--exit-on-error", is_flag=True, help="Exit when the server cannot be reached at the start.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    help="Least level of our lines. Default: info; with --drain warning.",
)
@click.option(
    "--log-format", type=click.Choice(FORMATS),
    help="Lines on stderr in this form. Default: text, where the application configures no logging.",
)  # fmt: skip
@click.option(
    "--log-config", type=click.Path(exists=True, dir_okay=False, resolve_path=True), metavar="FILE",
    help="Configure logging by this file, a .json or .toml one for dictConfig, else one for fileConfig.",
)  # fmt: skip
@click.option(
    "-v", "--verbose", is_flag=True,
    help="As --log-level debug: each group of events, and all frames of a traceback.",
)  # fmt: skip
@url_option
def listen(
    *,
    modules: Sequence[str],
    processes: int,
    concurrency: int,
    listeners: Sequence[str],
    drain: bool,
    no_check: bool,
    wait_for_migration: bool,
    exit_on_error: bool,
    health_port: int | None,
    metrics_port: int | None,
    health_host: str,
    log_level: str | None,
    log_format: Format | None,
    log_config: str | None,
    verbose: bool,
    url: str | None,
) -> None:
    """Handle the events of the listeners declared in MODULES, such as myapp.listeners."""
    _on_signals(partial(_stop_at_once, 1 if drain else 0))
    logs = _log_settings("debug" if verbose else log_level, log_format, log_config, drain=drain)
    project = open_project(url, modules, listeners)
    engine = project.engine()
    # Not before: the application configures logging when it is imported.
    logs.apply()
    # Before the server is waited for: that takes as long as it takes, and a probe wants to know.
    endpoints = Endpoints(health_host, health_port, metrics_port)
    specs = chosen(registry_of(project.metadata).listeners, listeners)
    _warn_of_covered(specs)
    _refuse_outlets(specs, project)
    captures = Captures(specs)
    compare = partial(_differences, project, engine, comparing=wait_for_migration or not no_check)
    patiently = partial(compare, patient=not (drain or exit_on_error))
    missing = captures.accept(captures.wait(patiently) if wait_for_migration else patiently())
    plan = _plan(project, specs, listeners, concurrency=concurrency, drain=drain, logs=logs)
    captures.watch(missing, partial(compare, patient=False))
    if not drain:
        Backlog(Admin(engine, project.metadata), plan.listeners, registry_of(project.metadata)).say()
    _exit(_supervise(project, engine, plan, processes, endpoints))


def _log_settings(
    level: str | None, log_format: Format | None, config: str | None, *, drain: bool
) -> LogSettings:
    return LogSettings(
        default=logging.WARNING if drain else logging.INFO,
        level=None if level is None else logging.getLevelNamesMapping()[level.upper()],
        format=log_format,
        config=config,
    )


def _warn_of_covered(specs: Sequence[ListenerSpec]) -> None:
    for spec in specs:
        if is_covered(spec.handler):
            logger.warning(
                "listener.covered: a decorator stands above that of listener %r, at %s, and is not called for its events. "
                "Put it below, if it is meant for them",
                spec.name, spec.where, extra={"listener": spec.name},
            )  # fmt: skip


def _refuse_outlets(specs: Sequence[ListenerSpec], project: Project) -> None:
    """Refuse settings of an outlet here, with their sentence, and not in each worker."""
    for spec in specs:
        if spec.to is not None:
            spec.to.sender(settings_of(spec.to, project.outlets), spec.name)


def _plan(
    project: Project, specs: Sequence[ListenerSpec], asked: Sequence[str], *, concurrency: int, drain: bool,
    logs: LogSettings,
) -> Plan:  # fmt: skip
    """Return what the workers do; *asked* are the names that were asked for, none for all."""
    return Plan(
        modules=project.modules, url=project.url, awaited=project.awaited, awaited_direct=project.awaited_direct,
        application=project.application, names=project.names, outlets=project.outlets,
        listeners=tuple(asked), runs=tuple(spec.name for spec in specs), concurrency=concurrency, drain=drain,
        config=project.config, logs=logs,
    )  # fmt: skip


def _exit(code: int) -> NoReturn:
    # Python gives signals back to the system before it ends, and the next one would decide the exit code.
    _on_signals(signal.SIG_IGN)
    sys.exit(code)


def _stop_at_once(code: int, _signal: int, _frame: FrameType | None) -> None:
    """Nothing is begun that had to be ended; an exception might come up where Python drops it."""
    os._exit(code)


def _on_signals(handler: signal.Handlers | Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _differences(project: Project, engine: Engine, *, patient: bool, comparing: bool) -> list[Difference]:
    """Compare the installed triggers with the declared ones, as soon as the server lets us."""

    def compare() -> list[Difference]:
        with engine.connect() as connection:
            refuse_without_rights(connection, project.metadata, "listener")
            return check(connection, project.metadata) if comparing else []

    try:
        if not patient:
            return compare()
        outage = Outage(engine, project.metadata, Instrument())
        found = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, DBAPIError) and is_away(error)),
            wait=wait_random_exponential(multiplier=0.2, max=5.0),
            sleep=nap.sleep,
            before_sleep=outage.waiting,
        )(compare)
    except DBAPIError as error:
        raise failed(project, error, "listener") from error
    outage.over()
    return found


def _supervise(project: Project, engine: Engine, plan: Plan, processes: int, endpoints: Endpoints) -> int:
    admin = Admin(engine, project.metadata)
    specs = chosen(registry_of(project.metadata).listeners, plan.listeners)
    names = [spec.name for spec in specs]
    bar: AbstractContextManager[Any] = nullcontext()
    on_progress = None
    if plan.drain and sys.stderr.isatty():
        try:
            bar, on_progress = _progress_bar(admin.pending(names)[0])
        except DBAPIError as error:
            raise failed(project, error, "listener") from error
    with bar:
        heartbeat = Heartbeat(
            engine, project.metadata, listeners=names, processes=processes, concurrency=plan.concurrency,
            counts=lambda: supervisor.totals().counts,
        )  # fmt: skip
        supervisor = Supervisor(
            plan, processes, count_crash=admin.count_crash, on_progress=on_progress, heartbeat=heartbeat
        )
        endpoints.show(supervisor, plan, specs, engine, project.metadata)
        code = supervisor.run()
    if plan.drain:
        click.echo(summary(supervisor.counts), err=True)
        if code == 0:
            _say_what_is_left(admin, names)
    return code


def _say_what_is_left(admin: Admin, names: Sequence[str]) -> None:
    """Entries of an earlier run too, which this one had no reason to try."""
    # The events were handled, whether or not they can be counted.
    with suppress(DBAPIError):
        ready, waiting = admin.pending(names)
        if ready or waiting:
            left = counted(ready + waiting, "entry", "entries")
            click.echo(f"{left} left in the outbox: {ready} ready, {waiting} waiting for a retry", err=True)
        for name, paused in admin.paused().items():
            if name in names:
                click.echo(f"listener {name!r} is {pausing(paused)}; its entries are left", err=True)


def summary(counts: Sequence[Counts]) -> str:
    """Say in one line what was settled.

    >>> summary([(3, 1, 0), (2, 0, 1)])
    '5 events handled, 1 failed and waiting for a retry, 1 dead letter'
    """
    done, retried, dead = total(counts)
    return (
        f"{counted(done, 'event')} handled, {retried} failed and waiting for a retry, "
        f"{counted(dead, 'dead letter')}"
    )


def _progress_bar(total: int) -> tuple[AbstractContextManager[Any], Any]:
    columns = (TextColumn("handling events"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("events", total=total)
    return progress, partial(_advance, progress, task)


def _advance(progress: Any, task: Any, counts: Sequence[Counts]) -> None:
    progress.update(task, completed=sum(sum(row) for row in counts))
