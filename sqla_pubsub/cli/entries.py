"""``sqla-pubsub entries`` and ``discard-entries``: what waits in the outbox, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import click
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.groups import ListsByDefault
from sqla_pubsub.cli.phrases import as_json as written
from sqla_pubsub.cli.phrases import counted, examples, json_option, moment, print_record, print_table
from sqla_pubsub.cli.project import Project, failed, module_option, open_project, url_option
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.admin import Admin, Choice, EntryView
from sqla_pubsub.operate.entries import STATES, State


@click.group(
    cls=ListsByDefault,
    short_help="Look at what waits in the outbox.",
    epilog=examples("entries", "entries --listener email_author --state failed", "entries show 4711"),
)
def entries() -> None:
    """Look at entries that wait in the outbox, and at why a try of one failed."""


@entries.command(
    "list",
    short_help="List entries, oldest first.",
    epilog=examples("entries list --state waiting", "entries list --json"),
)
@click.option("--listener", metavar="NAME", help="Only those of this listener.")
@click.option(
    "--state", type=click.Choice(STATES),
    help="Only those that a worker would take now, that wait for their retry, or of which a try has failed.",
)  # fmt: skip
@json_option
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most rows.")
@module_option
@url_option
def list_entries(
    *,
    listener: str | None,
    state: State | None,
    as_json: bool,
    limit: int,
    modules: Sequence[str],
    url: str | None,
) -> None:
    """List entries, oldest first, without what they carry."""
    project = open_project(url, modules)
    admin = Admin(project.engine(), project.metadata)
    choice = Choice(listener=listener, state=state)
    try:
        rows = admin.entries(choice, limit=limit)
        total = admin.count_entries(choice) if len(rows) == limit else len(rows)
    except DBAPIError as error:
        raise failed(project, error, "listener") from error
    if as_json:
        click.echo(written([row.as_json() for row in rows]))
        return
    if not rows:
        click.echo("No entries.")
        return
    heads = ("id", "listener", "event", "attempts", "occurred at", "state", "last error")
    failing = {number for number, row in enumerate(rows) if row.attempt}
    print_table(heads, map(_cells, rows), trouble=failing)
    if total > len(rows):
        click.echo(f"{len(rows)} of {total}; see more with --limit.")


def _cells(row: EntryView) -> tuple[str, ...]:
    return (
        str(row.id), row.listener, f"{row.operation} {row.source}", str(row.attempt),
        moment(row.occurred_at), "in hand" if row.holder else _state(row), row.error,
    )  # fmt: skip


def _state(row: EntryView) -> str:
    return f"waiting until {moment(row.due_at)}" if row.state == "waiting" else row.state


@entries.command(
    "show",
    short_help="Show them whole, with the last error.",
    epilog=examples("entries show 4711", "entries show 4711 --json"),
)
@click.argument("ids", nargs=-1, required=True, type=int)
@json_option
@module_option
@url_option
def show(*, ids: tuple[int, ...], as_json: bool, modules: Sequence[str], url: str | None) -> None:
    """Show entries whole: payload, context, the error of the last try."""
    project = open_project(url, modules)
    try:
        rows = Admin(project.engine(), project.metadata).entries(Choice(ids=ids), limit=None, payload=True)
    except DBAPIError as error:
        raise failed(project, error, "listener") from error
    missing = sorted({*ids} - {row.id for row in rows})
    if missing:
        raise ConfigurationError(
            f"there is no entry {missing[0]} in the outbox: it was handled, or is a dead letter. "
            "See: sqla-pubsub entries, and sqla-pubsub dead list"
        )
    if as_json:
        click.echo(written([row.as_json() for row in rows]))
        return
    for row in rows:
        print_record(f"entry {row.id}", _facts(row))


def _facts(row: EntryView) -> dict[str, object]:
    """Return what a person wants to know, the error last, where a terminal ends."""
    first = {
        "listener": row.listener, "event": f"{row.operation} {row.source}", "state": _state(row),
        "attempts": str(row.attempt), "occurred at": moment(row.occurred_at),
    }  # fmt: skip
    held = {"in hand of": row.holder} if row.holder else {}
    crashes = {"crashes": str(row.crashes)} if row.crashes else {}
    payload = {
        name: value for name in ("key", "context", "old", "new") if (value := getattr(row, name)) is not None
    }
    return {**first, **held, **crashes, **payload, "last error": row.last_error or "none"}


@click.command(
    "discard-entries",
    short_help="Delete what nobody will ever handle.",
    epilog=examples("discard-entries an_old_name", "discard-entries an_old_name --yes"),
)
@click.argument("listener")
@click.option(
    "--declared", is_flag=True, help="Also where LISTENER is declared, and its workers would handle them."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@module_option
@url_option
def discard_entries(
    *, listener: str, declared: bool, yes: bool, modules: Sequence[str], url: str | None
) -> None:
    """Delete the entries of LISTENER, which nobody declares any more, for good.

    Its dead letters stay: see dead discard. What a worker has in hand is left to it.
    """
    project = open_project(url, modules)
    admin = Admin(project.engine(), project.metadata)
    try:
        _discard(project, admin, listener, declared=declared, yes=yes)
    except DBAPIError as error:
        raise failed(project, error, "listener") from error


def _discard(project: Project, admin: Admin, listener: str, *, declared: bool, yes: bool) -> None:
    if listener in admin.declared() and not declared:
        raise ConfigurationError(
            f"listener {listener!r} is declared in {', '.join(project.modules)}, so its workers handle these entries. "
            "Give --declared to delete them unhandled."
        )
    choice = Choice(listener=listener)
    total = admin.count_entries(choice)
    if total == 0 and listener not in admin.declared():
        waiting = admin.abandoned()
        known = f" Such entries have: {', '.join(waiting)}." if waiting else ""
        raise ConfigurationError(f"there is no entry for a listener {listener!r}.{known}")
    if total and not yes:
        click.confirm(f"Delete {counted(total, 'entry', 'entries')} of {listener!r}?", abort=True, err=True)
    count = 0
    while deleted := admin.discard_entries(listener):
        count += deleted
    click.echo(f"{counted(count, 'entry', 'entries')} discarded.")
    if left := admin.count_entries(choice):
        click.echo(f"{counted(left, 'entry', 'entries')} left, which a worker has in hand.")
