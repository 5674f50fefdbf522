"""Why something was not published, as far as it can be found out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, FromClause, literal_column, select, text
from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.contract.attributes import columns_by_attribute, local_table
from sqla_pubsub.contract.names import MESSAGE
from sqla_pubsub.declare.conditions.compiling import compile_condition
from sqla_pubsub.declare.diff import Orphaned
from sqla_pubsub.declare.install import compare
from sqla_pubsub.event import Event
from sqla_pubsub.registry import ListenerSpec, Subscription
from sqla_pubsub.testing.events import SPY, Seen, Topic, values_of

_MOST = 100
"""Characters of a value."""


def shown(seen: Seen) -> str:
    """Return an event as a line."""
    event = seen.event
    what = "" if event.operation == MESSAGE else f"{event.operation.lower()} of "
    listeners = ", ".join("a spy" if name == SPY else name for name in seen.listeners)
    context = f", context {dict(event.context)!r}" if event.context else ""
    return f"{what}{_row(event)}{context}, for {listeners}"


def reasons(connection: Connection, topic: Topic, op: str | None, attributes: Mapping[str, Any]) -> list[str]:
    """Return what may be why nothing was published, most likely first."""
    wanting = [
        (spec, subscription)
        for spec in topic.registry.listeners.values()
        for subscription in spec.subscriptions
        if _is_of(subscription, topic) and op in (None, subscription.operation.lower())
    ]
    what = topic.name if topic.mapper is None else f"{op or 'change'}s of {topic.name}"
    if not wanting:
        nobody = f"No listener wants {what}, and what nobody wants is not published."
        return [
            f"{nobody} Call spy(session, {topic.name}) before it happens, or import the listener's module."
        ]
    return [*_not_installed(connection, topic), *_narrowed(connection, topic, wanting, attributes)]


def _row(event: Event[Any]) -> str:
    row = event.new if event.new is not None else event.old
    name = type(row).__name__ if row is not None else "all rows"
    values = {} if row is None else values_of(row)
    if event.operation == "UPDATE":
        before = values_of(event.old)
        unchanged = {key: value for key, value in values.items() if key not in event.changed}
        changes = (f"{key} {_short(before.get(key))} -> {_short(values.get(key))}" for key in event.changed)
        return f"{name}({_named(unchanged)}): {', '.join(changes)}"
    return f"{name}({_named(values)})"


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in values.items())


def _short(value: object) -> str:
    written = repr(value)
    return written if len(written) <= _MOST else f"{written[:_MOST]}..."


def _is_of(subscription: Subscription, topic: Topic) -> bool:
    if topic.mapper is None or subscription.mapper is None:
        return subscription.message is topic.model
    return subscription.source == topic.source


def _not_installed(connection: Connection, topic: Topic) -> Iterator[str]:
    for difference in compare(connection, topic.registry.metadata):
        declared = getattr(difference, "declared", None)
        source = getattr(declared, "source", None)
        concerned = source == topic.source if topic.mapper is not None else source is None
        if not isinstance(difference, Orphaned) and declared is not None and concerned:
            yield f"In this database, {difference}."


def _narrowed(
    connection: Connection,
    topic: Topic,
    wanting: list[tuple[ListenerSpec, Subscription]],
    attributes: Mapping[str, Any],
) -> Iterator[str]:
    if topic.mapper is None:
        yield "Nobody called publish() with such a message in this transaction."
        return
    table = local_table(topic.mapper)
    columns = columns_by_attribute(topic.mapper)
    new = table.alias("new")
    same = [new.c[columns[name].name] == value for name, value in attributes.items() if name in columns]
    rows = _count(connection, new, same)
    if rows == 0:
        yield f"There is no such row in table {table.name!r}: it was not written, or not in this transaction."
    for spec, subscription in wanting:
        operation = subscription.operation.lower()
        if subscription.of:
            yield f"Listener {spec.name!r} wants an {operation} only where one of {', '.join(subscription.of)} changes."
        condition = compile_condition(subscription.when, topic.mapper, subscription.operation, spec.name)
        if condition is not None:
            only = f"{_readable(condition)}{_tried(connection, new, condition)}"
            yield f"Listener {spec.name!r} wants an {operation} only when {only}."
    if any(subscription.operation == "UPDATE" for _, subscription in wanting):
        yield "An update that leaves all values as they were publishes nothing."


def _readable(condition: str) -> str:
    """Return a condition as its author thinks of it: a trigger names everything with its schema."""
    return re.sub(r"OPERATOR\(pg_catalog\.(\S+)\)", r"\1", condition).replace("pg_catalog.", "")


def _tried(connection: Connection, new: FromClause, condition: str) -> str:
    """Say for how many of the rows that are there a condition holds, where it needs no others."""
    holds = _count(connection, new, [literal_column(f"({condition}\n)")])
    return "" if holds is None else f"; that is true of {holds} rows now"


def _count(connection: Connection, new: FromClause, conditions: list[Any]) -> int | None:
    """Return how many rows there are, None where that cannot be asked."""
    try:
        with connection.begin_nested():
            found = select(text("count(*)")).select_from(new)
            for condition in conditions:
                found = found.where(condition)
            return int(connection.scalar(found) or 0)
    except SQLAlchemyError:
        return None
