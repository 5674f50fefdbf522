"""SQL that goes ahead of the next statement of a psycopg2 connection, in the same round trip.

psycopg2 puts the parameters into a statement before it sends it, so its text may hold others. That is done in its
cursor, below SQLAlchemy: what a handler sends by the driver itself is preceded too, and what SQLAlchemy shows of a
statement, in logs and errors, is that statement alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqla_pubsub.errors import sqlstate

Failed = Callable[[str | None], Exception | None]
"""Is told the SQLSTATE of a text that failed; what it returns is raised in the place of the error."""

_JOINED = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES)\b", re.IGNORECASE)
"""What is sent in one text: nothing that commands the transaction, whose savepoint must be there by then."""
IN_TRANSACTION = 2
"""libpq's PQTRANS_INTRANS: no error has aborted it."""
_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)


class Preceding:
    """What goes ahead of the next statement.

    Args:
        connection: That of psycopg2.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sql = ""
        self._failed: Failed
        with connection.cursor() as cursor:
            self._base: Any = type(cursor)
        connection.cursor_factory = _cursor_class(self._base, self)

    def hold(self, sql: str, failed: Failed) -> None:
        """Send *sql* ahead of the next statement.

        Args:
            sql: Statements; a percent sign in them is doubled.
            failed: Called if they or the statement behind them fail.
        """
        self._sql, self._failed = sql, failed

    def take(self) -> str:
        """Return what was to be sent, which is not sent then."""
        sql, self._sql = self._sql, ""
        return sql

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self._sql)

    def send(self, execute: Callable[[Any, Any], None], query: object, parameters: Any) -> bool:
        """Send it, and *query* with it if that may be in the same text; return whether it was.

        Args:
            execute: Sends a text and its parameters.
            query: The statement, None for none.
            parameters: Its parameters, None where the percent signs in it are single.
        """
        sql = self.take()
        joined = isinstance(query, str) and _JOINED.match(query) is not None
        try:
            if joined:
                # A line of its own, so that the error of the statement shows its own lines only.
                ahead = sql if parameters is not None else sql.replace("%%", "%")
                execute(f"{ahead};\n{query}", parameters)
            else:
                execute(sql, ())
        except Exception as error:
            state = sqlstate(error)
            if state is None and self._connection.info.transaction_status == IN_TRANSACTION:
                # What psycopg2 cannot make a text of was not sent.
                self._sql = sql
                raise
            if (raised := self._failed(state)) is not None:
                raise raised from error
            if joined:
                _show_own_lines(error)
            raise
        return joined

    def send_alone(self) -> None:
        """Send it by itself."""
        with self._connection.cursor(cursor_factory=self._base) as cursor:
            self.send(cursor.execute, None, None)


def _show_own_lines(error: Any) -> None:
    """Let an error that shows a line of the text show the number that it has in the statement."""
    if error.args and error.diag.statement_position is not None:
        error.args = (_LINE.sub(_line_before, str(error.args[0]), count=1), *error.args[1:])


def _line_before(found: re.Match[str]) -> str:
    return f"LINE {int(found[1]) - 1}:".ljust(len(found[0]))


def _cursor_class(base: Any, preceding: Preceding) -> Any:
    """Return a class of cursors that send what *preceding* holds ahead of what they send."""

    class PrecededCursor(base):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002
            if preceding.waits:
                if self.name is not None:
                    # What this one sends goes into the declaration of a cursor of the server.
                    preceding.send_alone()
                elif preceding.send(super().execute, query, vars):
                    return
            super().execute(query, vars)

    def ahead(name: str) -> Any:
        own = getattr(base, name)

        def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if preceding.waits:
                preceding.send_alone()
            return own(self, *arguments, **keywords)

        return call

    for name in ("executemany", "callproc", "copy_from", "copy_to", "copy_expert"):
        setattr(PrecededCursor, name, ahead(name))
    return PrecededCursor
