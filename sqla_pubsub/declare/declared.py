"""What a metadata declares, as trigger specifications."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import cast

from sqlalchemy import MetaData, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapper

from sqla_pubsub.contract.attributes import column_names, local_table
from sqla_pubsub.contract.names import MESSAGE, Operation
from sqla_pubsub.declare.capture.function import UPDATE_ROWS
from sqla_pubsub.declare.conditions.compiling import compile_condition, unvarying
from sqla_pubsub.declare.diff import Difference, Found
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import Capture, ListenerSpec, Publish, Registry, Subscription, registry_of

_NO_CONDITION = "It looks at no column: compare columns, such as new.state == 'paid', or leave it out"
_NO_HEARING = "It gets no event at all: compare columns, such as new.state == 'paid', or remove the listener"


def declared(metadata: MetaData, *, per_row: Collection[tuple[str | None, str]] = ()) -> list[TriggerSpec]:
    """Return one specification per table and operation that has a listener, in stable order.

    Args:
        metadata: What declares them.
        per_row: Schemas and names of tables that the database can only capture per row, whatever the model says.

    Raises:
        ConfigurationError: A condition cannot be written as SQL, or an ordered listener meets a
            table without a primary key.
    """
    registry = registry_of(metadata)
    wanted: dict[tuple[Table, str], list[tuple[ListenerSpec, Subscription]]] = defaultdict(list)
    for spec in registry.listeners.values():
        for subscription in spec.subscriptions:
            if subscription.mapper is not None and subscription.operation != MESSAGE:
                wanted[local_table(subscription.mapper), subscription.operation].append((spec, subscription))
    specs = [
        _trigger(registry, table, operation, pairs, per_row=(table.schema, table.name) in per_row)
        for (table, operation), pairs in wanted.items()
    ]
    return sorted(specs, key=lambda s: (s.schema or "", s.table, s.operation))


def trigger_for(spec: ListenerSpec, subscription: Subscription, *, per_row: bool) -> TriggerSpec:
    """Return the trigger for one listener alone, which need not be declared.

    Raises:
        ConfigurationError: As for `declared`.
    """
    assert subscription.mapper is not None
    table = local_table(subscription.mapper)
    registry = registry_of(table.metadata)
    return _trigger(registry, table, subscription.operation, [(spec, subscription)], per_row=per_row)


def declared_fan_out(metadata: MetaData) -> FanOut | None:
    """Return the fan-out of all messages of *metadata*, None if it declares none."""
    registry = registry_of(metadata)
    if not registry.messages:
        return None
    listeners: dict[str, list[tuple[str, str | None]]] = {name: [] for name in registry.messages}
    for spec in registry.listeners.values():
        for subscription in spec.subscriptions:
            if subscription.message is not None:
                listeners[subscription.source].append((spec.name, subscription.ordered_by))
    return FanOut(
        messages=tuple((name, tuple(sorted(found))) for name, found in sorted(listeners.items())),
        prefix=registry.settings.prefix,
        outbox_schema=registry.settings.schema,
    )


def constant_conditions(metadata: MetaData) -> list[Difference]:
    """Return the conditions that no row changes: most often Python decided what PostgreSQL should have.

    Raises:
        ConfigurationError: A condition cannot be written as SQL.
    """
    found: list[Difference] = []
    for spec in registry_of(metadata).listeners.values():
        for subscription in spec.subscriptions:
            if subscription.mapper is None:
                continue
            words = unvarying(subscription.when, subscription.mapper, spec.name)
            if words is not None:
                where = f"{subscription.operation} of table {subscription.source!r}"
                found.append(
                    Found(
                        kind="constant",
                        detail=f"when= of listener {spec.name!r} on {where} is {words}",
                        by_hand=_NO_HEARING if words == "never true" else _NO_CONDITION,
                    )
                )
    return found


def _trigger(
    registry: Registry,
    table: Table,
    operation: str,
    pairs: list[tuple[ListenerSpec, Subscription]],
    *,
    per_row: bool,
) -> TriggerSpec:
    by_name: dict[str, list[tuple[ListenerSpec, Subscription]]] = defaultdict(list)
    for spec, subscription in pairs:
        by_name[spec.name].append((spec, subscription))
    listeners = tuple(_listener(by_name[name]) for name in sorted(by_name))
    if any(item.ordered for item in listeners) and not table.primary_key.columns and operation != "TRUNCATE":
        raise ConfigurationError(
            f"an ordered listener needs a primary key, and table {table.fullname!r} has none. Add one, or drop ordered=."
        )
    publish = registry.published[table]
    capture = "row" if per_row else _capture(table, publish.capture)
    if operation == "UPDATE" and capture == "statement":
        _refuse_names_of_ours(table)
    key = tuple(column.name for column in table.primary_key.columns)
    columns, exclude = _stored(table, publish, pairs)
    ordered = any(item.ordered for item in listeners)
    narrowed = columns is not None or ordered
    return TriggerSpec(
        table=table.name,
        schema=table.schema,
        operation=cast("Operation", operation),
        listeners=listeners,
        key=key if narrowed else (),
        zoned=_zoned(table) if ordered else (),
        columns=columns,
        exclude=exclude,
        capture=capture,
        always=publish.always,
        prefix=registry.settings.prefix,
        outbox_schema=registry.settings.schema,
    )


def _stored(
    table: Table, publish: Publish, pairs: list[tuple[ListenerSpec, Subscription]]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the columns that the payload has, None for all, and those that it leaves out."""
    mapper = cast("Mapper[object]", pairs[0][1].mapper)
    key = tuple(column.name for column in table.primary_key.columns)
    identity = tuple(name for name in _identity(table, pairs) if name not in key)
    columns = None if publish.columns is None else _own(mapper, publish.columns, "__pubsub__ columns")
    if columns is not None:
        columns = tuple(dict.fromkeys((*columns, *identity)))
    excluded = _own(mapper, publish.exclude, "__pubsub__ exclude")
    return columns, tuple(name for name in excluded if name not in (*key, *identity))


def _identity(table: Table, pairs: list[tuple[ListenerSpec, Subscription]]) -> Iterator[str]:
    """Yield the columns by which mappers tell rows apart; ``__mapper_args__`` may name others than the table's key."""
    for _, subscription in pairs:
        assert subscription.mapper is not None
        for column in subscription.mapper.primary_key:
            if column.table is table:
                yield str(column.name)


def _zoned(table: Table) -> tuple[str, ...]:
    """Return the columns of the primary key whose text depends on the time zone of the session."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    found = []
    for column in table.primary_key.columns:
        kind = column.type.data_type if isinstance(column.type, postgresql.DOMAIN) else column.type
        written = kind.compile(dialect)
        if re.fullmatch(r"TIMESTAMP(\(\d+\))? WITH TIME ZONE", written):
            found.append(column.name)
        elif "TSTZ" in written or "WITH TIME ZONE[]" in written:
            raise ConfigurationError(
                f"an ordered listener cannot tell the rows of table {table.fullname!r} apart: its key {column.name!r} is "
                f"a {written}, which each writer shows in its own time zone. Drop ordered=, or choose another key."
            )
    return tuple(found)


def _own(mapper: Mapper[object], names: list[object], parameter: str) -> tuple[str, ...]:
    """Resolve what concerns this table; a joined subclass inherits names of its parent's table."""
    kept: list[str] = []
    for name in names:
        try:
            kept.extend(column_names(mapper, [name], parameter))
        except ConfigurationError:
            if mapper.inherits is None:
                raise
    return tuple(kept)


def _listener(pairs: list[tuple[ListenerSpec, Subscription]]) -> CapturedListener:
    """Fold the subscriptions of one listener on one trigger: two classes of one hierarchy, say."""
    spec = pairs[0][0]
    conditions: list[str | None] = []
    columns: list[tuple[str, ...]] = []
    for _, subscription in pairs:
        assert subscription.mapper is not None
        conditions.append(
            compile_condition(subscription.when, subscription.mapper, subscription.operation, spec.name)
        )
        columns.append(subscription.of)
    if len(pairs) > 1 and len(set(columns)) > 1:
        raise ConfigurationError(
            f"listener {spec.name!r} subscribes to {pairs[0][1].operation} of table {pairs[0][1].source!r} "
            "more than once with different of=. Give both the same of=, or make two listeners."
        )
    when = None if None in conditions else " OR ".join(dict.fromkeys(f"({c})" for c in conditions))
    if when is not None and len(set(conditions)) == 1:
        when = conditions[0]
    return CapturedListener(name=spec.name, of=columns[0], when=when, ordered=spec.ordered)


def _refuse_names_of_ours(table: Table) -> None:
    taken = sorted(UPDATE_ROWS & {column.name for column in table.columns})
    if taken:
        raise ConfigurationError(
            f"updates of table {table.fullname!r} cannot be captured per statement, because it has a column "
            f"{taken[0]!r}, which the capture needs for itself. Rename it, or set __pubsub__ = Publish(capture='row')."
        )


def _capture(table: Table, wanted: Capture | None) -> Capture:
    if table.dialect_options["postgresql"].get("partition_by") is not None:
        return "row"
    return wanted or "statement"
