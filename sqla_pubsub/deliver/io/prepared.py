"""Statements that the server parses once for a connection of psycopg2.

What a listener asks for each group, and each time before it sleeps, is long: to parse it takes the server longer than to
plan and run it. psycopg and asyncpg see to that themselves; psycopg2 leaves it to SQL. It is done in psycopg2's cursor,
below SQLAlchemy: logs, errors and what listens to the engine show the statement itself.

A prepared statement may be gone: a handler executes ``DEALLOCATE ALL``, or a pooler that hides itself hands out another
server process. That costs the connection, and the next ones to the same engine prepare nothing.

Which plan serves a prepared statement is the server's choice, so it has to be planned well for few entries and for many:
see `at_most` in `sqla_pubsub.deliver.claim.bounds`.

Source: https://www.postgresql.org/docs/current/sql-prepare.html
"""

from __future__ import annotations

import itertools
import re
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event

from sqla_pubsub.sqlstates import UNPREPARED

_OPTION = "sqla_pubsub_prepared"
_PARAMETER = re.compile(r"%%|%\((\w+)\)s")
"""A parameter, or a percent sign of a name, which the driver makes a single one."""
_losing: WeakSet[Engine] = WeakSet()
"""Engines on whose connections one was gone."""


def prepared(purpose: str) -> dict[str, str]:
    """Return execution options of a statement that is sent again and again, and is called ``sqla_pubsub_<purpose>``."""
    return {_OPTION: purpose}


class _Prepared(str):
    """The text of a statement, which knows how it is prepared and executed."""

    purpose: str
    types: str
    body: str
    arguments: str
    name: str | None = None
    """By which it is prepared on its connection, None before."""


def keep_prepared(connection: Connection) -> None:
    """Prepare on *connection* what has the options `prepared`, the first time that it is sent."""
    if connection.engine in _losing:
        return
    known = dict[str, _Prepared]()

    def find(
        _c: Any, _cursor: Any, statement: str, parameters: Any, context: Any, _: bool
    ) -> tuple[str, Any]:
        # What another one has changed may be another text each time.
        if context is None or _OPTION not in context.execution_options or statement != context.statement:
            return statement, parameters
        if statement not in known:
            known[statement] = _made(statement, context)
        return known[statement], parameters

    event.listen(connection, "before_cursor_execute", find, retval=True)
    own: Any = connection.connection.driver_connection
    with own.cursor() as cursor:
        own.cursor_factory = _cursor_class(type(cursor), connection.engine)


def _made(statement: str, context: Any) -> _Prepared:
    names = list(dict.fromkeys(filter(None, _PARAMETER.findall(statement))))
    process, binds = context.dialect.type_compiler_instance.process, context.compiled.binds
    numbers = {each: f"${number}" for number, each in enumerate(names, 1)}
    made = _Prepared(statement)
    made.purpose = context.execution_options[_OPTION]
    made.types = ", ".join(process(binds[each].type) for each in names)
    made.body = _PARAMETER.sub(lambda found: numbers.get(found[1], "%%"), statement)
    made.arguments = ", ".join(f"%({each})s" for each in names)
    return made


def _cursor_class(base: Any, engine: Engine) -> Any:
    """Return a class of cursors that execute by its name what is prepared."""
    numbers = itertools.count(1)

    class PreparedCursor(base):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002
            if not isinstance(query, _Prepared):
                super().execute(query, vars)
            elif query.name is None:
                # In one text; if that fails, it is not known how far it came, and the next time has another name.
                name = f"sqla_pubsub_{query.purpose}_{next(numbers)}"
                declared = f"PREPARE {name} ({query.types}) AS {query.body}"
                super().execute(f"{declared}; EXECUTE {name} ({query.arguments})", vars)
                query.name = name
            else:
                self._execute_prepared(query, vars)

        def _execute_prepared(self, query: _Prepared, parameters: Any) -> None:
            try:
                super().execute(f"EXECUTE {query.name} ({query.arguments})", parameters)
            except self.connection.Error as error:
                if error.pgcode == UNPREPARED:
                    _losing.add(engine)
                    self.connection.close()
                raise

    return PreparedCursor
