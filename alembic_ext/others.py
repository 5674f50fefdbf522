"""Drops of ours among the operations of other extensions.

An extension that compares functions and triggers, such as alembic_utils or sqlalchemy-declarative-extensions, takes
each one for removed that its own registry does not know, ours among them. Their operations are told by what they
carry, so that none of these packages has to be there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from alembic.operations import MigrateOperation
from alembic.operations.ops import ExecuteSQLOp, OpContainer
from sqlalchemy import Connection, MetaData

from alembic_ext.names import NAME
from sqla_pubsub.declare.ddl import PUBLISH_ARGUMENTS
from sqla_pubsub.declare.declared import declared, declared_fan_out
from sqla_pubsub.declare.marked import Marked, marked

logger = logging.getLogger(NAME)

_Dropped = tuple[str, str, str | None]
"""A function with its arguments (None: any), or a table with the name of a trigger."""

_IDENTIFIER = r'((?:"(?:[^"]|"")+"|[^\s";(]+)+)'
_DROP = re.compile(
    rf"DROP\s+(?:(?:FUNCTION|ROUTINE)\s+(?:IF\s+EXISTS\s+)?{_IDENTIFIER}\s*(?:\(([^)]*)\))?"
    rf"|TRIGGER\s+(?:IF\s+EXISTS\s+)?{_IDENTIFIER}\s+ON\s+{_IDENTIFIER})\s*(?:CASCADE|RESTRICT)?",
    re.IGNORECASE,
)


def drops_of_others(operations: Iterable[MigrateOperation]) -> list[MigrateOperation]:
    """Return the operations, also those in containers, that drop a function or a trigger and are not ours."""
    found: list[MigrateOperation] = []
    for operation in operations:
        if isinstance(operation, OpContainer):
            found.extend(drops_of_others(operation.ops))
        elif any(True for _ in _dropped(operation)):
            found.append(operation)
    return found


def spare(
    operations: list[MigrateOperation],
    connection: Connection,
    metadata: Iterable[MetaData],
    default_schema: str,
) -> None:
    """Take out of *operations* every drop of a capture, and nothing else.

    Args:
        operations: Those of all comparators; changed in place.
        connection: Where captures are installed.
        metadata: What declares captures that may be damaged beyond recognition.
        default_schema: Where names without a schema are.
    """
    if not drops_of_others(operations):
        return
    ours = [*marked(connection), *_declared(metadata, default_schema)]
    _take_out(operations, {name for item in ours for name in _spellings(item)}, default_schema)


def _take_out(operations: list[MigrateOperation], ours: set[_Dropped], default_schema: str) -> None:
    kept = []
    for operation in operations:
        if isinstance(operation, OpContainer):
            _take_out(operation.ops, ours, default_schema)
        dropped = [_qualified(item, default_schema) for item in _dropped(operation)]
        if dropped and all(item in ours for item in dropped):
            logger.info(
                "capture.spared: %s of another extension would drop a capture, and is left out: %s",
                type(operation).__name__, ", ".join(name for _, name, _ in dropped),
            )  # fmt: skip
        else:
            kept.append(operation)
    operations[:] = kept


def _declared(metadata: Iterable[MetaData], default_schema: str) -> Iterator[Marked]:
    for each in metadata:
        for spec in declared(each):
            place = spec.outbox_schema or default_schema
            yield Marked(schema=place, name=spec.function, arguments=("",))
            yield Marked(schema=spec.schema or default_schema, name=spec.table, trigger=spec.trigger)
        fan_out = declared_fan_out(each)
        if fan_out is not None:
            place = fan_out.outbox_schema or default_schema
            yield Marked(schema=place, name=fan_out.function, arguments=(PUBLISH_ARGUMENTS,))


def _spellings(item: Marked) -> Iterator[_Dropped]:
    place = f"{item.schema}.{item.name}"
    if item.trigger is not None:
        yield ("trigger", place, item.trigger)
        return
    yield ("function", place, None)
    for arguments in item.arguments:
        yield ("function", place, arguments)


def _qualified(dropped: _Dropped, default_schema: str) -> _Dropped:
    kind, name, rest = dropped
    return (kind, name if "." in name else f"{default_schema}.{name}", rest)


def _dropped(operation: Any) -> Iterator[_Dropped]:
    """Yield what an operation drops, as far as it can be read from it."""
    if isinstance(operation, ExecuteSQLOp):
        yield from _of_sql(str(operation.sqltext))
        return
    if isinstance(operation, MigrateOperation) and type(operation).__module__.startswith("alembic_ext."):
        return
    if not type(operation).__name__.startswith("Drop"):
        return
    entity: Any = getattr(operation, "target", None)
    kind = getattr(entity, "type_", None)
    if kind == "function":
        # alembic_utils: PGFunction(schema, signature), in which the signature holds the arguments.
        name, _, arguments = str(entity.signature).partition("(")
        yield ("function", _bare(f"{entity.schema}.{name}"), arguments.rpartition(")")[0].strip())
    elif kind == "trigger":
        yield ("trigger", _bare(entity.on_entity), _bare(entity.signature))
    function, trigger = getattr(operation, "function", None), getattr(operation, "trigger", None)
    if function is not None and hasattr(function, "qualified_name"):
        # sqlalchemy-declarative-extensions, where a name without a schema is one of public.
        arguments = ", ".join(f"{item.name} {item.type}" for item in function.parameters or ())
        yield ("function", f"{function.schema or 'public'}.{function.name}", arguments)
    elif trigger is not None and hasattr(trigger, "on"):
        yield ("trigger", trigger.on if "." in trigger.on else f"public.{trigger.on}", trigger.name)


def _of_sql(text: str) -> Iterator[_Dropped]:
    statements = [item.strip() for item in text.split(";") if item.strip()]
    matches = [_DROP.fullmatch(item) for item in statements]
    for match in matches if all(matches) else ():
        assert match is not None
        function, arguments, trigger, table = match.groups()
        if function is not None:
            yield ("function", _bare(function), None if arguments is None else arguments.strip())
        else:
            yield ("trigger", _bare(table), _bare(trigger))


def _bare(name: str) -> str:
    return name.replace('"', "").strip()
