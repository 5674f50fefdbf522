"""Which operations a migration needs, and on which side of Alembic's own. Values in, values out.

Alembic makes the downgrade by reversing the list of operations. So what drops or loosens a trigger
stands at the head, before any table changes, and what creates or tightens one at the tail: both
directions then meet the tables in the shape they need.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from alembic.operations import MigrateOperation
from alembic.operations.ops import AlterColumnOp, DropColumnOp, DropTableOp, OpContainer

from alembic_ext.operations import CreateTriggerOp, DropTriggerOp, PubSubOperation, ReplaceFunctionOp
from alembic_ext.publish import CreatePublishOp, DropPublishOp
from sqla_pubsub.declare.diff import Changed, Difference, Missing, Orphaned
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import Installed, TriggerSpec

_OUTBOX = "outbox"


class TableKey(NamedTuple):
    """A table by schema and name, as Alembic writes it: None is the default schema."""

    schema: str | None
    table: str

    @classmethod
    def of(cls, spec: TriggerSpec, default_schema: str | None) -> TableKey:
        """Return the table that *spec* captures."""
        return cls(spec.schema, spec.table).within(default_schema)

    @classmethod
    def of_outbox(cls, spec: TriggerSpec, default_schema: str | None) -> TableKey:
        """Return the outbox that *spec* writes."""
        return cls(spec.outbox_schema, spec.outbox).within(default_schema)

    def within(self, default_schema: str | None) -> TableKey:
        """Return the same table where *default_schema* is the default one."""
        return self._replace(schema=None) if self.schema == default_schema else self

    @property
    def prefix(self) -> str | None:
        """The prefix of our names where this may be an outbox, by its name."""
        return self.table.removesuffix(_OUTBOX) if self.table.endswith(_OUTBOX) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChanges:
    """What a migration does to tables, as far as it concerns triggers.

    Attributes:
        dropped: Tables that it drops.
        columns: Per table, the columns that it drops, retypes or renames.
    """

    dropped: frozenset[TableKey]
    columns: dict[TableKey, frozenset[str]]

    @classmethod
    def of(cls, operations: Iterable[MigrateOperation]) -> TableChanges:
        """Collect the changes from *operations* and the containers among them."""
        dropped: set[TableKey] = set()
        columns: dict[TableKey, set[str]] = defaultdict(set)
        for operation in _flat(operations):
            if isinstance(operation, DropTableOp):
                dropped.add(TableKey(operation.schema, operation.table_name))
            elif isinstance(operation, DropColumnOp) or (
                isinstance(operation, AlterColumnOp)
                and (operation.modify_type is not None or operation.modify_name is not None)
            ):
                columns[TableKey(operation.schema, operation.table_name)].add(operation.column_name)
        return cls(
            dropped=frozenset(dropped), columns={table: frozenset(names) for table, names in columns.items()}
        )

    @property
    def outboxes(self) -> frozenset[TableKey]:
        """Those of the dropped tables that may be an outbox."""
        return frozenset(key for key in self.dropped if key.prefix is not None)

    def columns_of(self, key: TableKey) -> frozenset[str]:
        """Return the columns of one table that it drops, retypes or renames."""
        return self.columns.get(key, frozenset())


@dataclass(frozen=True, slots=True)
class Plan:
    """The operations, in two lists around Alembic's own."""

    head: list[PubSubOperation] = field(default_factory=list)
    tail: list[PubSubOperation] = field(default_factory=list)

    def keep(self, spec: TriggerSpec, changed: Iterable[str]) -> None:
        """Keep a trigger that is as declared, while the columns *changed* are."""
        relaxed = self._relax(spec, changed)
        if relaxed != spec or _looks_up(spec, changed):
            self.tail.append(ReplaceFunctionOp(spec, previous=relaxed))

    def settle(
        self, difference: Missing | Changed, changed: Iterable[str], *, moved: bool, lost: Sequence[str] = ()
    ) -> None:
        """Turn what is installed into what is declared.

        Args:
            difference: One of a trigger.
            changed: Columns of the table that the migration drops, retypes or renames.
            moved: Whether the table got its name since the trigger was installed.
            lost: Listeners that have a capture now and are not declared.
        """
        match difference:
            case Missing(declared=TriggerSpec() as wanted):
                self.tail.append(CreateTriggerOp(wanted))
            case Changed(
                declared=TriggerSpec() as wanted, installed=Installed(spec=TriggerSpec() as current)
            ) if not moved:
                self._change(difference, current, wanted, changed)
            case Changed(declared=TriggerSpec() as wanted):
                # What was there cannot be written down, so the downgrade leaves what is declared.
                self.tail.append(CreateTriggerOp(wanted, previous=wanted))
            case _:
                raise TypeError(f"{difference} is not of a trigger")
        if lost:
            self.tail[-1].lost = tuple(lost)

    def _change(
        self, difference: Changed, current: TriggerSpec, wanted: TriggerSpec, changed: Iterable[str]
    ) -> None:
        if difference.same_trigger:
            relaxed = self._relax(current, changed)
            if relaxed != wanted or difference.kind == "damaged" or _looks_up(current, changed):
                self.tail.append(ReplaceFunctionOp(wanted, previous=relaxed))
        elif difference.same_function:
            # Replacing a trigger lets readers of the table pass; a drop would not.
            self.tail.append(CreateTriggerOp(wanted, previous=self._relax(current, changed)))
        else:
            self.drop(current)
            self.tail.append(CreateTriggerOp(wanted))

    def settle_messages(self, difference: Difference, lost: Sequence[str] = ()) -> None:
        """Turn the installed publish function into what is declared; *lost* is as above."""
        match difference:
            case Missing(declared=FanOut() as wanted):
                self._create_messages(wanted, None, lost)
            case Changed(declared=FanOut() as wanted, installed=FanOut() as current):
                self._create_messages(wanted, current, lost)
            case Changed(declared=FanOut() as wanted):
                self._create_messages(wanted, wanted, lost)
            case Orphaned(installed=FanOut() as current):
                self.drop_messages(current, lost)
            case _:
                raise TypeError(f"{difference} is not of messages")

    def _create_messages(self, wanted: FanOut, previous: FanOut | None, lost: Sequence[str]) -> None:
        create = CreatePublishOp(wanted, previous=previous)
        create.lost = tuple(lost)
        self.tail.append(create)

    def given_up(self, *, since: Plan) -> list[tuple[str, ...]]:
        """Return, for each capture that serves nobody any more, whom it served; *since* holds what to leave out."""
        lost = []
        for operation in (*self.head[len(since.head) :], *self.tail[len(since.tail) :]):
            match operation:
                case DropTriggerOp():
                    lost.append(operation.spec.listener_names)
                case DropPublishOp():
                    lost.append(operation.fan_out.listener_names)
                case CreatePublishOp(previous=FanOut() as previous) if not operation.fan_out.listener_names:
                    lost.append(previous.listener_names)
        return [names for names in lost if names]

    def drop(self, spec: TriggerSpec, lost: Sequence[str] = ()) -> None:
        """Drop a trigger, once."""
        known = [op.spec for op in self.head if isinstance(op, DropTriggerOp)]
        if spec not in known:
            drop = DropTriggerOp(spec)
            drop.lost = tuple(lost)
            self.head.append(drop)

    def drop_messages(self, fan_out: FanOut, lost: Sequence[str] = ()) -> None:
        """Drop a publish function."""
        drop = DropPublishOp(fan_out)
        drop.lost = tuple(lost)
        self.head.append(drop)

    def _relax(self, spec: TriggerSpec, changed: Iterable[str]) -> TriggerSpec:
        # A condition on a column that is gone or of another type would fail the application's writes.
        relaxed = spec.unconditional(sorted(changed))
        if relaxed != spec or _looks_up(spec, changed):
            self.head.append(ReplaceFunctionOp(relaxed, previous=spec))
        return relaxed


def _looks_up(spec: TriggerSpec, changed: Iterable[str]) -> bool:
    """Whether the function was made from what the catalog said of one of the columns *changed*.

    It is made anew at both ends of the migration then: the downgrade meets the columns as they were.
    """
    return bool(set(spec.exclude) & set(changed))


def _flat(operations: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
    for operation in operations:
        if isinstance(operation, OpContainer):
            yield from _flat(operation.ops)
        else:
            yield operation
