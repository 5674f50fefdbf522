"""What ``include_name`` and ``include_object`` of env.py say of our objects.

They were written for Alembic's own types of objects, and are called with a table as the object. A filter that lists
the types it wants has no opinion of a trigger when it says no, and neither has one that fails on it: there the answer
for the table counts. Only who takes other triggers, or types that it cannot know, and not this one, has decided.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table

from alembic_ext.names import NAME
from sqla_pubsub.declare.catalog import Names

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

    Ask = Callable[[str, Any], bool]

_UNKNOWN = "another type of object"
_OTHER = "another"

logger = logging.getLogger(NAME)


class Filters:
    """The filters of one run.

    Args:
        context: Alembic's.
        there: Tables that the database has; names are asked for those only, as Alembic does.
    """

    def __init__(self, context: AutogenContext, there: Container[Names]) -> None:
        self._context = context
        self._there = there
        self._default_schema = context.dialect.default_schema_name

    def names(self, table: Table) -> bool:
        """Whether the name of *table* is wanted."""
        return self._context.run_name_filters(table.name, "table", self._parents(table))

    def table(self, table: Table) -> bool:
        """Whether *table* is compared."""
        if (table.schema, table.name) in self._there and not self.names(table):
            return False
        return self._context.run_object_filters(table, table.name, "table", False, None)

    def ours(
        self, table: Table, name: str, kind: str, *, reflected: bool = False, compare_to: Table | None = None
    ) -> bool:
        """Whether our object *name* on *table* may be created, changed or dropped.

        Args:
            table: The table, or a stand-in for one that no model declares.
            name: Of the trigger or the function.
            kind: ``"trigger"`` or ``"function"``.
            reflected: Whether only the database has it.
            compare_to: The table, where both have it.
        """

        def ask_name(name: str, kind: Any) -> bool:
            parents = self._parents(table)
            if kind != "table":
                parents["table_name"] = table.name
            elif (table.schema, table.name) not in self._there:
                return True
            return self._context.run_name_filters(name, kind, parents)

        def ask_object(name: str, kind: Any) -> bool:
            return self._context.run_object_filters(table, name, kind, reflected, compare_to)

        taken = all(_answer(ask, table.name, name, kind) for ask in (ask_name, ask_object))
        if not taken:
            logger.info(
                "filter.excluded: %s %r of table %r is left out by env.py", kind, name, table.fullname
            )
        return taken

    def _parents(self, table: Table) -> Any:
        return {"schema_name": None if table.schema == self._default_schema else table.schema}


def _answer(ask: Ask, table: str, name: str, kind: str) -> bool:
    answer = _tried(ask, name, kind)
    if answer is False and (_tried(ask, _OTHER, kind) or _tried(ask, name, _UNKNOWN)):
        return False
    return answer or ask(table, "table")


def _tried(ask: Ask, name: str, kind: str) -> bool | None:
    """Return what a filter says, None where it cannot take the type: a KeyError or AttributeError, most likely."""
    try:
        return bool(ask(name, kind))
    except Exception:
        logger.debug("filter.failed: a filter of env.py knows no %s", kind, exc_info=True)
        return None
