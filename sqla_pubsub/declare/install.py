"""Installing with ``create_all`` and comparing for ``check``.

The hook is on the metadata, because a table's own ``after_create`` does not fire a second time, when
a listener was added to a table that exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, MetaData, Table, event

from sqla_pubsub.contract.names import publish_function
from sqla_pubsub.declare.catalog import Names, existing, installed, installed_publish
from sqla_pubsub.declare.ddl import (
    CreateCapture,
    CreatePublish,
    DropCapture,
    DropPublish,
    DropTrigger,
    create,
)
from sqla_pubsub.declare.declared import constant_conditions, declared, declared_fan_out
from sqla_pubsub.declare.diff import Changed, Difference, Found, Missing, diff, diff_fan_out
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.relations import declared_in, refused, strays
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.open_schemas import open_schemas
from sqla_pubsub.registry import in_use, registry_of


def attach(metadata: MetaData) -> None:
    """Let ``create_all`` and ``drop_all`` of *metadata* carry the captures with them."""
    event.listen(metadata, "after_create", _after_create)
    event.listen(metadata, "before_drop", _before_drop)
    event.listen(metadata, "after_drop", _after_drop)
    # A copy by to_metadata() takes along what hangs on the table, and nothing that hangs on the metadata.
    entry = registry_of(metadata).outbox.Entry.__table__
    event.listen(entry, "after_create", _Original(metadata), propagate=True)


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


def originals(metadata: MetaData) -> list[MetaData]:
    """Return *metadata*, or what declares the listeners where it is a copy by ``to_metadata()``.

    Raises:
        ConfigurationError: The copy is for another schema, whose captures nobody declares.
    """
    if registry_of(metadata).in_use:
        return [metadata]
    found = {
        original.metadata: table
        for table in metadata.tables.values()
        for original in table.dispatch.after_create
        if isinstance(original, _Original)
    }
    for original, table in found.items():
        _refuse_moved(original, table)
    return list(found) or [metadata]


def check(connection: Connection, metadata: MetaData) -> list[Difference]:
    """Return what is declared and not installed, or installed and not as declared; empty if all is well.

    It only reads the catalog: no lock, no right to create anything. Import the modules with the
    listeners first, or they read as orphaned.

    Raises:
        ConfigurationError: The metadata is a copy for another schema, or a declaration cannot be captured.
    """
    return [item for each in originals(metadata) for item in _check(connection, each)]


def _check(connection: Connection, metadata: MetaData) -> list[Difference]:
    registry = registry_of(metadata)
    if not registry.in_use:
        return []
    outbox = registry.outbox
    ours = [outbox.Entry.__table__, outbox.DeadLetter.__table__]
    tables = (*ours, *outbox.of_operators, outbox.lanes)
    there = existing(connection, [(table.schema, table.name) for table in tables])
    missing = [
        Found(kind="table", detail=f"table {table.fullname!r} does not exist")
        for table in ours
        if (table.schema, table.name) not in there
    ]
    lacking = [table.fullname for table in outbox.of_operators if (table.schema, table.name) not in there]
    if lacking and not missing:
        missing = [Found(kind="operators", detail=_lacking(lacking))]
    sends = [spec.name for spec in registry.listeners.values() if spec.to is not None]
    if sends and (outbox.lanes.schema, outbox.lanes.name) not in there:
        missing.append(Found(kind="lanes", detail=_without_lanes(outbox.lanes.fullname, sends[0])))
    exposed = [
        Found(kind="exposed", detail=found.found, by_hand=found.remedy)
        for found in open_schemas(connection, metadata)
    ]
    return [*missing, *compare(connection, metadata), *constant_conditions(metadata), *exposed]


def _without_lanes(table: str, listener: str) -> str:
    return f"table {table!r} does not exist, without which listener {listener!r} sends nothing to its outlet"


def _lacking(tables: Sequence[str]) -> str:
    """An installation of an earlier release has none of them."""
    names = " and ".join(map(repr, tables))
    return f"{names} {'do' if len(tables) > 1 else 'does'} not exist: events are handled, but operators see and do less"


@dataclass(frozen=True)
class _Original:
    """Hangs on the outbox table, and on each copy of it: whose it is, and that a copy is created like it."""

    metadata: MetaData

    def __call__(self, table: Table, connection: Connection, **_: Any) -> None:
        if table.metadata is self.metadata or connection.dialect.name != "postgresql":
            return
        _refuse_moved(self.metadata, table)

        def install(_: MetaData, connection: Connection, **__: Any) -> None:
            _after_create(self.metadata, connection)

        # The copy's own event comes when all its tables are there.
        event.listen(table.metadata, "after_create", install, once=True)


def _refuse_moved(original: MetaData, copy: Table) -> None:
    entry = registry_of(original).outbox.Entry.__table__
    if copy.schema != entry.schema:
        raise ConfigurationError(
            f"table {copy.fullname!r} is a copy of {entry.fullname!r} in another schema, and the listeners are declared "
            "for the tables of the original. Use that, with the execution option schema_translate_map for each schema."
        )


def _after_create(metadata: MetaData, connection: Connection, **_: Any) -> None:
    if connection.dialect.name != "postgresql":
        return
    differences = compare(connection, metadata)
    wanted = [d.declared for d in differences if isinstance(d, Missing | Changed)]
    there = existing(
        connection, [(spec.schema, spec.table) for spec in wanted if isinstance(spec, TriggerSpec)]
    )
    for difference in differences:
        if difference.by_hand is not None and not set(difference.listeners) - set(difference.captured):
            continue
        match difference:
            case Missing(declared=FanOut() as fan_out) | Changed(declared=FanOut() as fan_out):
                _refuse_to_replace(difference, "messages")
                connection.execute(CreatePublish(fan_out))
            case Missing(declared=TriggerSpec() as spec) | Changed(declared=TriggerSpec() as spec):
                if (spec.schema, spec.table) in there:
                    _install(connection, difference, spec)
            case _:
                pass


def _install(connection: Connection, difference: Difference, spec: TriggerSpec) -> None:
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
