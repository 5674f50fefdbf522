"""One listener: what it is, what waits for it, what fails, and which rows are held back behind a failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, func, literal_column, select, true
from starlette.requests import Request

from sqla_pubsub.deliver.claim.statements import Statements
from sqla_pubsub.operate.dead_letters import Letters
from sqla_pubsub.operate.entries import Choice
from sqla_pubsub.operate.error_classes import error_class
from sqla_pubsub.registry import ListenerSpec, Subscription
from sqla_pubsub.web import overview
from sqla_pubsub.web.access import Person
from sqla_pubsub.web.desk import Desk
from sqla_pubsub.web.filters import id_of
from sqla_pubsub.web.pages import Page
from sqla_pubsub.web.shown import lasting

MOST = 10
"""Entries of each list."""
_MOST_BEHIND = 1_000
"""Entries behind one that are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A row of which entries are held back.

    Attributes:
        id: The entry that waits for its retry.
        due_at: When that is.
        attempt: Tries of it that failed.
        behind: How many entries of the same row wait behind it.
        capped: Whether there may be more.
    """

    id: int
    due_at: datetime
    attempt: int
    behind: int
    capped: bool


def show(desk: Desk, request: Request, person: Person) -> Page:
    """Show one listener."""
    name = request.query_params.get("name", "").replace("\0", "")
    after = id_of(request.query_params.get("after")) or 0
    spec, status = desk.registry.listeners.get(name), desk.status_of(name)
    if spec is None and status is None:
        return Page(template="missing", status=404, values={"what": f"There is no listener {name[:200]!r}."})
    see, reader = desk.shared.see, desk.reader
    ready = Choice(listener=name, state="ready")
    ordered = spec is not None and spec.ordered
    return Page(
        template="listener",
        values={
            "name": name,
            "spec": spec,
            "row": None if status is None else overview.shortened(status),
            "status": desk.status(),
            "facts": list(facts(spec)) if spec is not None else [],
            "subscriptions": list(map(subscribed, spec.subscriptions)) if spec is not None else [],
            "curve": overview.curves(desk.rates().value or (), datetime.now(UTC)).get(name),
            "entries": see(
                ("ready", name, after), lambda: reader.entries(ready, after=after, limit=MOST + 1)
            ),
            "after": after,
            "retries": see(("waiting", name), lambda: reader.retries(name, limit=MOST + 1)),
            "most": MOST,
            "errors": see(("errors", name), lambda: reader.errors(name)),
            "held": see(("held", name), lambda: _held(desk, name)) if ordered else None,
            "dead": see(("groups", name), lambda: reader.dead_groups(Letters(listener=name))),
            "class_of": error_class,
            "told": lambda source, text: desk.told(person, source, text),
            "done": request.query_params.get("done"),
            "count": id_of(request.query_params.get("count")),
        },
    )


def facts(spec: ListenerSpec) -> Iterator[tuple[str, str]]:
    """Yield the options of a listener, each with its value in words."""
    yield "handler", spec.where
    yield "kind", "async def" if spec.asynchronous else "def"
    retry = spec.retry
    yield (
        "attempts",
        f"{retry.max_attempts}, the first again after {lasting(retry.initial)}, {lasting(retry.max_delay)} at most",
    )
    yield "order", "the events of one row one after the other" if spec.ordered else "any"
    yield "transaction", "that of the acknowledgement" if spec.transactional else "none: transactional=False"
    if spec.batch is not None:
        yield "batch", f"{spec.batch:,} events a call at most"
    if spec.timeout is not None:
        yield "timeout", lasting(spec.timeout)
    if spec.concurrency is not None:
        yield "concurrency", f"{spec.concurrency:,} at most"
    if spec.effects != "any":
        yield "effects", "in the database only"
    if spec.previous_names:
        yield "earlier names", ", ".join(spec.previous_names)


def subscribed(subscription: Subscription) -> tuple[str, str, str]:
    """Return operation, source and filter of a subscription."""
    filters = []
    if subscription.of:
        filters.append(f"of {', '.join(subscription.of)}")
    if isinstance(subscription.when, str):
        filters.append(f"when {subscription.when}")
    elif subscription.when is not None:
        filters.append(f"when {getattr(subscription.when, '__name__', 'a function')}(old, new)")
    if subscription.ordered_by is not None:
        filters.append(f"ordered by {subscription.ordered_by}")
    return subscription.operation, subscription.source, "; ".join(filters)


def _held(desk: Desk, listener: str) -> list[Held]:
    with desk.place.connected() as (connection, statements):
        rows = connection.execute(_held_back(statements, listener)).all()
    return [
        Held(
            id=row.id,
            due_at=row.due_at,
            attempt=row.attempt,
            behind=min(row.behind, _MOST_BEHIND),
            capped=row.behind > _MOST_BEHIND,
        )
        for row in rows
    ]


def _held_back(statements: Statements, listener: str) -> Select[Any]:
    """Of the retries that are due first, those that entries of the same row wait behind."""
    waiting = statements.entry.alias("w")
    w = waiting.c
    first = (
        select(w.id, w.due_at, w.attempt, w.key)
        .where(w.listener == listener, w.due_at > func.clock_timestamp(), w.key.is_not(None))
        .order_by(w.due_at)
        .limit(200)
        .subquery("first")
    )
    behind = statements.entry.alias("b")
    b = behind.c
    # Only by the key that it has now: an entry that changed its key is found by `why`.
    found = (
        select(literal_column("1").label("one"))
        .where(b.listener == listener, b.key == first.c.key, b.id > first.c.id)
        .limit(_MOST_BEHIND + 1)
        .correlate(first)
        .subquery("found")
    )
    counted = select(func.count().label("behind")).select_from(found).lateral("counted")
    return (
        select(first.c.id, first.c.due_at, first.c.attempt, counted.c.behind)
        .select_from(first.join(counted, true()))
        .where(counted.c.behind > 0)
        .order_by(first.c.due_at)
        .limit(MOST)
    )
