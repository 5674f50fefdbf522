"""Statements that the server parses once for a connection of psycopg2.

What a listener asks for each group, and each time before it sleeps, is long: to parse it takes the server longer than to
plan and run it. psycopg and asyncpg see to that themselves; psycopg2 leaves it to SQL. It is done in psycopg2's cursor,
below SQLAlchemy: logs, errors and what listens to the engine show the statement itself.

Which plan serves a prepared statement is the server's choice, so it has to be planned well for few entries and for many:
see `at_most` in `sqla_pubsub.deliver.claim.statements`.

Source: https://www.postgresql.org/docs/current/sql-prepare.html
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, event

_OPTION = "sqla_pubsub_prepared"
_PARAMETER = re.compile(r"%\((\w+)\)s")


def prepared(purpose: str) -> dict[str, str]:
    """Return execution options of a statement that is sent again and again, and is called ``sqla_pubsub_<purpose>``."""
    return {_OPTION: purpose}


class _Prepared(str):
    """The text of a statement, which knows how it is prepared and executed."""

    declared: str
    call: str
    sent: bool = False


def keep_prepared(connection: Connection) -> None:
    """Prepare on *connection* what has the options `prepared`, the first time that it is sent."""
    known = dict[str, _Prepared]()

    def find(
        _c: Any, _cursor: Any, statement: str, parameters: Any, context: Any, _: bool
    ) -> tuple[str, Any]:
        # What another one has changed may be another text each time.
        if context is None or _OPTION not in context.execution_options or statement != context.statement:
            return statement, parameters
        if statement not in known:
            purpose = context.execution_options[_OPTION]
            known[statement] = _made(f"sqla_pubsub_{purpose}_{len(known) + 1}", statement, context)
        return known[statement], parameters

    event.listen(connection, "before_cursor_execute", find, retval=True)
    own: Any = connection.connection.driver_connection
    with own.cursor() as cursor:
        own.cursor_factory = _cursor_class(type(cursor))


def _made(name: str, statement: str, context: Any) -> _Prepared:
    names = list(dict.fromkeys(_PARAMETER.findall(statement)))
    types = [
        context.dialect.type_compiler_instance.process(context.compiled.binds[each].type) for each in names
    ]
    numbers = {each: f"${number}" for number, each in enumerate(names, 1)}
    body = _PARAMETER.sub(lambda found: numbers[found[1]], statement)
    made = _Prepared(statement)
    made.declared = f"PREPARE {name} ({', '.join(types)}) AS {body}"
    made.call = f"EXECUTE {name} ({', '.join(f'%({each})s' for each in names)})"
    return made


def _cursor_class(base: Any) -> Any:
    """Return a class of cursors that execute by its name what is prepared."""

    class PreparedCursor(base):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002
            if isinstance(query, _Prepared):
                # The first time in one text. If that fails, the next time there may be none, and the connection is given up.
                text = query.call if query.sent else f"{query.declared}; {query.call}"
                query.sent, query = True, text
            super().execute(query, vars)

    return PreparedCursor
