"""What Alembic calls during autogenerate: import the listeners, then compare triggers.

Comparing reads the catalog only. A trigger is ours when it writes into our outbox, or into one that
this very migration drops: several programs may share a database, and some of its tables.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING

from alembic.util import CommandError, PriorityDispatchResult
from sqlalchemy import MetaData, Table

from alembic_ext.filters import Filters
from alembic_ext.listeners import listener_modules, say_unheard
from alembic_ext.names import NAME
from alembic_ext.others import spare
from alembic_ext.plan import Plan, TableChanges, TableKey
from sqla_pubsub.contract.names import Operation, publish_function
from sqla_pubsub.declare.catalog import existing, installed, installed_publish
from sqla_pubsub.declare.declared import constant_conditions
from sqla_pubsub.declare.diff import Changed, Difference, Missing, Orphaned, diff
from sqla_pubsub.declare.install import compare_fan_out, originals
from sqla_pubsub.declare.relations import declared_in, refuse_views, refused, strays
from sqla_pubsub.declare.spec import Installed, TriggerSpec
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import registry_of
from sqla_pubsub.settings import import_modules

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps

    Schemas = set[str | None]
    Comparator = Callable[[AutogenContext, UpgradeOps, Schemas], None]

# The stock alembic.ini silences and hides every logger that is not Alembic's.
logger = logging.getLogger(NAME)


def _comparator(function: Comparator) -> Callable[..., PriorityDispatchResult]:
    @wraps(function)
    def compare(context: AutogenContext, upgrade_ops: UpgradeOps, schemas: Schemas) -> PriorityDispatchResult:
        try:
            function(context, upgrade_ops, schemas)
        except ConfigurationError as error:
            raise CommandError(str(error)) from error
        return PriorityDispatchResult.CONTINUE

    return compare


@_comparator
def import_listeners(context: AutogenContext, upgrade_ops: UpgradeOps, schemas: Schemas) -> None:
    """Import the modules that the project names, or their triggers would read as not wanted."""
    import_modules(listener_modules(context.migration_context.config))


@_comparator
def compare_triggers(context: AutogenContext, upgrade_ops: UpgradeOps, schemas: Schemas) -> None:
    """Put the operations on triggers around those that Alembic found."""
    comparison = _Comparison(context, TableChanges.of(upgrade_ops.ops), schemas)
    modules = listener_modules(context.migration_context.config)
    for metadata in comparison.metadata:
        before = Plan(head=[*comparison.plan.head], tail=[*comparison.plan.tail])
        # One warning for all is enough where nothing is declared at all.
        comparison.unheard = not modules and comparison.is_unheard(metadata)
        comparison.compare(metadata)
        comparison.compare_messages(metadata)
        if comparison.unheard:
            say_unheard(comparison.plan.given_up(since=before))
    comparison.unheard = False
    comparison.drop_with_tables()
    upgrade_ops.ops[:0] = comparison.plan.head
    upgrade_ops.ops.extend(comparison.plan.tail)


def spare_captures(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    """Take drops of our captures out of what other extensions found."""
    if context.dialect.name == "postgresql":
        assert context.connection is not None
        default_schema = context.dialect.default_schema_name or "public"
        metadata = [each for target in _all_metadata(context) for each in originals(target)]
        spare(upgrade_ops.ops, context.connection, metadata, default_schema)
    return PriorityDispatchResult.CONTINUE


class _Comparison:
    """One run of autogenerate."""

    def __init__(self, context: AutogenContext, changes: TableChanges, schemas: Schemas) -> None:
        assert context.connection is not None
        self.plan = Plan()
        self.unheard = False
        targets = _all_metadata(context)
        # A copy by to_metadata() has the tables, and its original the listeners.
        self.metadata = list(dict.fromkeys(each for target in targets for each in originals(target)))
        self._connection = context.connection
        self._default_schema = context.dialect.default_schema_name
        self._changes = changes
        self._schemas = schemas
        registries = [registry_of(metadata) for metadata in self.metadata]
        # Where nothing of ours is, the filters of env.py are asked nothing.
        ours = any(registry.in_use for registry in registries) or changes.outboxes
        tables = [table for target in targets for table in target.tables.values()] if ours else []
        self._filters = Filters(
            context, existing(self._connection, [TableKey(table.schema, table.name) for table in tables])
        )
        self._tables = {
            TableKey(table.schema, table.name): table for table in tables if self._filters.table(table)
        }
        self._renamed = {
            name
            for registry in registries
            for spec in registry.listeners.values()
            for name in spec.previous_names
        }
        entries = [registry.outbox.Entry.__table__ for registry in registries if registry.in_use]
        self._outboxes = {
            TableKey(entry.schema, entry.name).within(self._default_schema) for entry in entries
        }

    def compare(self, metadata: MetaData) -> None:
        """Compare the triggers on the tables of one metadata."""
        registry = registry_of(metadata)
        if not registry.in_use:
            return
        for constant in constant_conditions(metadata):
            logger.warning("condition.constant: %s", constant)
        names = [names for names, table in self._tables.items() if self._is_of(table, metadata)]
        known = {_key(item): item for item in installed(self._connection, names, registry.settings.prefix)}
        specs = declared_in(self._connection, metadata)
        refuse_views(self._connection, specs)
        wanted = [spec for spec in specs if self._wants(spec, there=_key(spec) in known)]
        for spec in specs:
            if spec not in wanted:
                known.pop(_key(spec), None)
        differences = refused(self._connection, diff(known.values(), wanted), specs)
        self._clear_partitions(differences)
        for difference in differences:
            match difference:
                case Changed(installed=Installed() as item) | Orphaned(installed=Installed() as item):
                    del known[_key(item)]
                case _:
                    pass
            self._settle(difference)
        for item in known.values():
            if item.spec is not None:
                key = TableKey(item.schema, item.table).within(self._default_schema)
                self.plan.keep(item.spec, self._changes.columns_of(key))

    def compare_messages(self, metadata: MetaData) -> None:
        """Compare the publish function of one metadata."""
        difference = compare_fan_out(self._connection, metadata)
        if difference is None:
            return
        if difference.by_hand is not None:
            logger.warning("messages.%s: %s", difference.kind, difference)
            return
        registry = registry_of(metadata)
        entry = registry.outbox.Entry.__table__
        table = self._tables.get(TableKey(entry.schema, entry.name))
        function = publish_function(registry.settings.prefix)
        if table is not None and self._filters.ours(table, function, "function"):
            logger.info("messages.%s: %s; a new revision installs it", difference.kind, difference.detail)
            self.plan.settle_messages(difference, self._lost(difference, f"messages by {function}()"))

    def is_unheard(self, metadata: MetaData) -> bool:
        """Whether *metadata* publishes, as far as it is compared, and has no listener."""
        registry = registry_of(metadata)
        if not registry.in_use or registry.listeners:
            return False
        outbox = registry.outbox.Entry.__table__
        return TableKey(outbox.schema, outbox.name) in self._tables and self._filters.names(outbox)

    def drop_with_tables(self) -> None:
        """Drop the triggers of tables that the migration drops, and all that write to a dropped outbox."""
        gone = self._changes.outboxes
        for prefix in sorted({key.prefix for key in gone | self._outboxes if key.prefix is not None}):
            names = sorted(self._changes.dropped, key=repr)
            if any(prefix == key.prefix for key in gone):
                names += self._tables
            for item in installed(self._connection, names, prefix):
                table = TableKey(item.schema, item.table)
                ours = gone | self._outboxes if table in self._changes.dropped else gone
                if item.spec is not None and self._outbox_of(item.spec) in ours:
                    self._drop(item.spec, table)
        for outbox in sorted(gone, key=repr):
            function = publish_function(outbox.prefix or "")
            found = installed_publish(self._connection, outbox, function)
            if (
                found is not None
                and found.fan_out is not None
                and self._gives_up(outbox, function, "function")
            ):
                lost = self._warned(found.fan_out.listener_names, f"messages by {function}()")
                self.plan.drop_messages(found.fan_out, lost)

    def _clear_partitions(self, differences: Sequence[Difference]) -> None:
        wanted = [d.declared for d in differences if isinstance(d, Missing | Changed) and not d.same_trigger]
        created = [spec for spec in wanted if isinstance(spec, TriggerSpec)]
        for spec, stray in strays(self._connection, created):
            logger.info(
                "trigger.partition: %s on %r gives way to that on %r",
                spec.operation,
                stray.source,
                spec.source,
            )
            left = set(stray.listener_names) - set(spec.listener_names) - self._renamed
            self.plan.drop(stray, self._warned(left, f"{spec.operation} on table {stray.source!r}"))

    def _settle(self, difference: Difference) -> None:
        match difference:
            case Missing(by_hand=str()):
                raise ConfigurationError(str(difference))
            case Changed(by_hand=str()) | Orphaned(by_hand=str()):
                logger.warning("trigger.%s: %s", difference.kind, difference)
            case Missing(declared=TriggerSpec() as spec) | Changed(declared=TriggerSpec() as spec):
                # Where a revision is written, what is missing is no trouble, but the reason for it.
                logger.info("trigger.%s: %s; a new revision installs it", difference.kind, difference.detail)
                key = TableKey.of(spec, self._default_schema)
                lost = self._lost(difference, f"{spec.operation} on table {spec.source!r}")
                changed = self._changes.columns_of(key)
                self.plan.settle(difference, changed, moved=self._moved(difference, key), lost=lost)
            case Orphaned(installed=Installed(spec=TriggerSpec() as spec) as item):
                if self._outbox_of(spec) in self._outboxes:
                    self._drop(spec, TableKey(item.schema, item.table))
            case _:
                raise TypeError(f"{difference} is not of a trigger")

    def _moved(self, difference: Missing | Changed, key: TableKey) -> bool:
        match difference:
            case Changed(installed=Installed(spec=TriggerSpec() as spec)):
                return TableKey.of(spec, self._default_schema) != key
            case _:
                return False

    def _outbox_of(self, spec: TriggerSpec) -> TableKey:
        return TableKey.of_outbox(spec, self._default_schema)

    def _drop(self, spec: TriggerSpec, table: TableKey) -> None:
        schema = table.within(self._default_schema).schema
        if schema in self._schemas and self._gives_up(table, spec.trigger, "trigger"):
            logger.info("trigger.orphaned: %s on table %r is dropped", spec.operation, spec.source)
            what = f"{spec.operation} on table {spec.source!r}"
            self.plan.drop(spec, self._warned(spec.listener_names, what))

    def _lost(self, difference: Difference, what: str) -> tuple[str, ...]:
        """Return the listeners that lose their capture of *what*, but for those that have another name now."""
        return self._warned(set(difference.captured) - set(difference.listeners) - self._renamed, what)

    def _warned(self, listeners: Iterable[str], what: str) -> tuple[str, ...]:
        lost = tuple(sorted(listeners))
        if lost and not self.unheard:
            logger.warning(
                "capture.lost: %s is captured no more for %s, which no imported module declares for it. If a module of "
                "listeners was only not imported, name it under listeners of [tool.sqla-pubsub] and begin again.",
                what, ", ".join(map(repr, lost)),
            )  # fmt: skip
        return lost

    def _gives_up(self, table: TableKey, name: str, kind: str) -> bool:
        stand_in = Table(table.table, MetaData(), schema=table.schema)
        return self._filters.ours(self._tables.get(table, stand_in), name, kind, reflected=True)

    def _wants(self, spec: TriggerSpec, *, there: bool) -> bool:
        table = self._tables.get(TableKey(spec.schema, spec.table))
        compare_to = table if there else None
        return table is not None and self._filters.ours(table, spec.trigger, "trigger", compare_to=compare_to)

    def _is_of(self, table: Table, metadata: MetaData) -> bool:
        return table.metadata is metadata or (
            table.metadata not in self.metadata and metadata.tables.get(table.key) is not None
        )


def _all_metadata(context: AutogenContext) -> list[MetaData]:
    target = context.metadata
    if target is None:
        return []
    return [target] if isinstance(target, MetaData) else list(target)


def _key(item: Installed | TriggerSpec) -> tuple[str | None, str, Operation]:
    return (item.schema, item.table, item.operation)
