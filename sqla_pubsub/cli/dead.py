"""``sqla-pubsub dead``: look at the dead letters, try them again, or discard them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.age import Age
from sqla_pubsub.cli.groups import ListsByDefault
from sqla_pubsub.cli.phrases import as_json as written
from sqla_pubsub.cli.phrases import counted, examples, json_option, moment, print_record, print_table
from sqla_pubsub.cli.project import failed, module_option, open_project, url_option
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.admin import Admin, DeadLetterView, Letters


@click.group(
    cls=ListsByDefault,
    short_help="Look at dead letters, retry or discard.", epilog=examples(
        "dead list --listener email_author --older-than 1d", "dead show 4711", "dead retry 4711 4712",
        "dead discard --all --older-than 4w",
    ),
)  # fmt: skip
def dead() -> None:
    """Look at dead letters, try them again, or discard them."""


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose dead letters, and open the project."""

    @module_option
    @url_option
    @click.option("--listener", metavar="NAME", help="Only those of this listener.")
    @click.option("--older-than", type=Age(), help="Only those that died before, such as 12h or 7d.")
    @wraps(command)
    def run(
        *,
        modules: Sequence[str],
        url: str | None,
        listener: str | None,
        older_than: timedelta | None,
        **others: Any,
    ) -> None:
        project = open_project(url, modules)
        letters = Letters(listener=listener, older_than=older_than, ids=tuple(others.pop("ids", ())))
        admin = Admin(project.engine(), project.metadata)
        try:
            _refuse_unknown_listener(admin, listener)
            command(admin, letters, **others)
        except DBAPIError as error:
            raise failed(project, error, "operator") from error

    return run


@dead.command("list", epilog=examples("dead list", "dead list --listener email_author --json"))
@json_option
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most rows.")
@_common
def list_letters(admin: Admin, letters: Letters, *, as_json: bool, limit: int) -> None:
    """List dead letters, oldest first."""
    rows = admin.dead_letters(letters, after=0, limit=limit, payload=as_json)
    if as_json:
        click.echo(written([row.as_json() for row in rows]))
        return
    if not rows:
        click.echo("No dead letters.")
        return
    cells = [
        (
            str(row.id), row.listener, f"{row.operation} {row.source}", str(row.attempt),
            moment(row.died_at), row.reason,
        )
        for row in rows
    ]  # fmt: skip
    print_table(("id", "listener", "event", "attempts", "died at", "reason"), cells)
    total = admin.count_dead(letters)
    if total > len(rows):
        click.echo(f"{len(rows)} of {total}; see more with --limit.")


@dead.command(
    "show",
    short_help="Show them whole, with the traceback.",
    epilog=examples("dead show 4711", "dead show 4711 --json"),
)
@click.argument("ids", nargs=-1, required=True, type=int)
@json_option
@_common
def show(admin: Admin, letters: Letters, *, as_json: bool) -> None:
    """Show dead letters whole: payload, context, reason, traceback."""
    rows = admin.dead_letters(letters, after=0, limit=None, payload=True)
    _refuse_unknown(letters, rows)
    if as_json:
        click.echo(written([row.as_json() for row in rows]))
        return
    for row in rows:
        print_record(f"dead letter {row.id}", _facts(row))


def _facts(row: DeadLetterView) -> dict[str, object]:
    """Return what a person wants to know, and why it died last, where a terminal ends."""
    first = {
        "listener": row.listener, "event": f"{row.operation} {row.source}", "attempts": str(row.attempt),
        "occurred at": moment(row.occurred_at), "died at": moment(row.died_at),
    }  # fmt: skip
    payload = {
        name: value for name in ("key", "context", "old", "new") if (value := getattr(row, name)) is not None
    }
    crashes = {"crashes": str(row.crashes)} if row.crashes else {}
    return {**first, **crashes, **payload, "reason": row.reason, "traceback": row.traceback or "none"}


@dead.command(
    "retry",
    short_help="Put them back into the outbox.",
    epilog=examples("dead retry 4711 4712", "dead retry --all --listener email_author"),
)
@click.argument("ids", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="All that the filters leave.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_common
def retry(admin: Admin, letters: Letters, *, everything: bool, yes: bool) -> None:
    """Put dead letters back into the outbox: the same events, with the same ids."""
    _apply(
        admin,
        letters,
        admin.retry,
        "retry",
        "back in the outbox",
        everything=everything,
        yes=yes,
    )


@dead.command("discard", epilog=examples("dead discard 4711", "dead discard --all --older-than 4w --yes"))
@click.argument("ids", nargs=-1, type=int)
@click.option("--all", "everything", is_flag=True, help="All that the filters leave.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_common
def discard(admin: Admin, letters: Letters, *, everything: bool, yes: bool) -> None:
    """Delete dead letters for good."""
    _apply(admin, letters, admin.discard, "discard", "discarded", everything=everything, yes=yes)


def _apply(
    admin: Admin,
    letters: Letters,
    action: Callable[[Letters], int],
    verb: str,
    done: str,
    *,
    everything: bool,
    yes: bool,
) -> None:
    if not letters.ids and not everything:
        raise ConfigurationError(f"nothing is chosen to {verb}. Give ids, or --all with or without filters.")
    if letters.ids:
        _refuse_unknown(letters, admin.dead_letters(letters, limit=None))
    total = admin.count_dead(letters)
    if total > 1 and not yes:
        click.confirm(f"{verb.capitalize()} {total} dead letters?", abort=True, err=True)
    count = 0
    try:
        with Progress(console=Console(stderr=True), disable=total < 1000) as progress:
            task = progress.add_task(verb, total=total)
            while moved := action(letters):
                count += moved
                progress.update(task, completed=count)
    finally:
        # Also where it ends with an error: each step was committed.
        click.echo(f"{counted(count, 'dead letter')} {done}.")


def _refuse_unknown_listener(admin: Admin, listener: str | None) -> None:
    if listener is None:
        return
    known = admin.listeners()
    if listener not in known:
        raise ConfigurationError(
            f"listener {listener!r} is not declared and has no dead letters. Known are: {', '.join(sorted(known))}."
        )


def _refuse_unknown(letters: Letters, rows: Sequence[DeadLetterView]) -> None:
    missing = sorted(set(letters.ids) - {row.id for row in rows})
    if missing:
        raise ConfigurationError(f"there is no dead letter {missing[0]} here. See: sqla-pubsub dead list")
