"""Installing with ``create_all`` and comparing for ``check``.

The hook is on the metadata, because a table's own ``after_create`` does not fire a second time, when
a listener was added to a table that exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, MetaData, Table, event

from sqla_pubsub.declare.catalog import Names, existing, installed, installed_publish
from sqla_pubsub.declare.ddl import (
    CreateCapture,
    CreatePublish,
    DropCapture,
    DropPublish,
    DropTrigger,
    create,
)
from sqla_pubsub.declare.declared import declared, declared_fan_out
from sqla_pubsub.declare.diff import Difference, diff, diff_fan_out
from sqla_pubsub.declare.relations import declared_in, refused, strays
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.names import publish_function
from sqla_pubsub.subscription import in_use, registry_of


def attach(metadata: MetaData) -> None:
    """Let ``create_all`` and ``drop_all`` of *metadata* carry the captures with them."""
    event.listen(metadata, "after_create", _after_create)
    event.listen(metadata, "before_drop", _before_drop)
    event.listen(metadata, "after_drop", _after_drop)


in_use.append(attach)


def compare(connection: Connection, metadata: MetaData) -> list[Difference]:
    """Return how the triggers on the metadata's tables differ from what is declared."""
    names: list[Names] = [(table.schema, table.name) for table in metadata.tables.values()]
    prefix = registry_of(metadata).settings.prefix
    specs = declared_in(connection, metadata)
    differences = refused(connection, diff(installed(connection, names, prefix), specs), specs)
    fan_out = compare_fan_out(connection, metadata)
    return [*differences, *([fan_out] if fan_out is not None else [])]


def compare_fan_out(connection: Connection, metadata: MetaData) -> Difference | None:
    """Return how the publish function of the metadata's outbox differs from what is declared."""
    registry = registry_of(metadata)
    if not registry.in_use:
        return None
    table = registry.outbox.Entry.__table__
    found = installed_publish(
        connection, (table.schema, table.name), publish_function(registry.settings.prefix)
    )
    return diff_fan_out(
        None if found is None else found.fan_out,
        () if found is None else found.faults,
        exists=found is not None,
        declared=declared_fan_out(metadata),
    )


def check(connection: Connection, metadata: MetaData) -> list[Difference]:
    """Return what is declared and not installed, or installed and not as declared; empty if all is well.

    It only reads the catalog: no lock, no right to create anything. Import the modules with the
    listeners first, or they read as orphaned.
    """
    registry = registry_of(metadata)
    if not registry.in_use:
        return []
    ours = [registry.outbox.Entry.__table__, registry.outbox.DeadLetter.__table__]
    there = existing(connection, [(table.schema, table.name) for table in ours])
    missing = [
        Difference(kind="table", detail=f"table {table.fullname!r} does not exist")
        for table in ours
        if (table.schema, table.name) not in there
    ]
    return missing + compare(connection, metadata)


def _after_create(metadata: MetaData, connection: Connection, **_: Any) -> None:
    if connection.dialect.name != "postgresql":
        return
    differences = compare(connection, metadata)
    tables = [(d.declared.schema, d.declared.table) for d in differences if d.declared is not None]
    there = existing(connection, tables)
    for difference in differences:
        if difference.by_hand is not None and not set(difference.listeners) - set(difference.captured):
            continue
        if difference.fan_out is not None:
            _refuse_to_replace(difference, "messages")
            connection.execute(CreatePublish(difference.fan_out))
        spec = difference.declared
        if spec is None or (spec.schema, spec.table) not in there:
            continue
        _refuse_to_replace(difference, f"table {spec.source!r}")
        if difference.same_trigger:
            connection.execute(CreateCapture(spec))
        else:
            _clear_partitions(connection, spec)
            create(connection, spec)


def _clear_partitions(connection: Connection, spec: TriggerSpec) -> None:
    for _, stray in strays(connection, [spec]):
        _refuse_to_lose(stray.listener_names, spec.listener_names, f"table {stray.source!r}")
        connection.execute(DropTrigger(stray))


def _refuse_to_replace(difference: Difference, what: str) -> None:
    if difference.by_hand is not None:
        raise ConfigurationError(str(difference))
    _refuse_to_lose(difference.captured, difference.listeners, what)


def _refuse_to_lose(captured: Iterable[str], declared: Iterable[str], what: str) -> None:
    """create_all only adds: another program's listeners must not vanish because it was not imported."""
    lost = sorted(set(captured) - set(declared))
    if lost:
        raise ConfigurationError(
            f"create_all would remove the capture of {', '.join(map(repr, lost))} on {what}, "
            "which this process does not declare. Import the modules that declare them, or remove them by a migration."
        )


def _before_drop(metadata: MetaData, connection: Connection, tables: Iterable[Table] = (), **_: Any) -> None:
    """Take the captures off the *tables*, those of listeners that were not imported too."""
    if connection.dialect.name != "postgresql":
        return
    names: list[Names] = [(table.schema, table.name) for table in tables]
    for item in installed(connection, names, registry_of(metadata).settings.prefix):
        if item.spec is not None:
            connection.execute(DropTrigger(replace(item.spec, schema=item.schema, table=item.table)))
            connection.execute(DropCapture(item.spec))


def _after_drop(metadata: MetaData, connection: Connection, **_: Any) -> None:
    if connection.dialect.name != "postgresql":
        return
    specs = declared(metadata)
    there = existing(connection, [(spec.schema, spec.table) for spec in specs])
    for spec in specs:
        if (spec.schema, spec.table) not in there:
            connection.execute(DropCapture(spec))
    fan_out = declared_fan_out(metadata)
    if fan_out is not None:
        entry = registry_of(metadata).outbox.Entry.__table__
        if not existing(connection, [(entry.schema, entry.name)]):
            connection.execute(DropPublish(fan_out))
