"""What a connection of the listener is set to, and how it becomes that again after a handler.

A handler may take on another role, search path or time limit for its own statements, by itself or in a
function that it calls. The next event, the acknowledgement and the next claim are to know nothing of it. So
the listener's settings are put back at the end of a group, and before, with the savepoint that moves on, where a
statement may have changed them.

Behind a transaction pooler the server's connection belongs to another program next: nothing is set there
that outlives the transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.io.driver import driver_of
from sqla_pubsub.deliver.io.preceding import Failed, Preceding
from sqla_pubsub.errors import sqlstate

_NAMES = (
    "search_path",
    "row_security",
    "session_replication_role",
    "statement_timeout",
    "lock_timeout",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
)
"""Settings on which our statements, or those of the next handler, depend."""

_PRESENT = text(
    "SELECT name, current_setting(name) AS value, source = 'session' AS changed FROM pg_catalog.pg_settings"
    " WHERE name = ANY(CAST(:names AS text[])) AND (context = 'user' OR has_parameter_privilege(name, 'SET'))"
    " ORDER BY name"
)
_IDENTITY = text(
    "SELECT pg_backend_pid() AS pid, CAST(session_user AS text) AS login, current_setting('role') AS role"
)
# Limits of a role or database would end a connection that a slow handler has, or that waits; the handler would
# be called again without end. How long one may take is what timeout= says.
_LIMITED = (
    "FROM pg_catalog.pg_settings WHERE name IN"
    " ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout') AND setting <> '0'"
)
UNLIMITED = text(f"SELECT set_config(name, '0', false) {_LIMITED}")
"""Lift the limits on time that would end the connection."""
LIMITS = text(f"SELECT name {_LIMITED}")
"""Name the limits that `UNLIMITED` lifts."""
# A host that loses its power or its network says no word, and the server would keep its claims for as long as the
# system's keepalive takes, two hours by default.
WATCHED = text(
    "SELECT set_config(v.name, v.value, false) FROM (VALUES ('tcp_keepalives_idle', '5'),"
    " ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '8000'),"
    " ('client_connection_check_interval', '5000')) AS v (name, value) WHERE pg_backend_pid() = :pid"
)
"""Let the server notice within 15 s that this client went away without a word. Parameter: pid, as the driver knows it."""
PROGRAM = "sqla-pubsub"
"""What the server calls our connections, where neither the application nor the URL has a name for them."""
NAMED = text(
    "SELECT set_config('application_name', :purpose, false)"
    f" WHERE current_setting('application_name') IN ('', '{PROGRAM}')"
    f" OR starts_with(current_setting('application_name'), '{PROGRAM} ')"
)
"""Let the server say what a connection is for, where nobody has named it. Parameter: purpose."""
_RELEASE = "RELEASE SAVEPOINT"


class OwnSettings:
    """The settings of a connection as they are now.

    Args:
        connection: In a transaction.
        pooled: Whether a transaction pooler stands before the server.
    """

    def __init__(self, connection: Connection, *, pooled: bool) -> None:
        self._pooled = pooled
        self._connection = connection
        self._driver = driver_of(connection)
        self.restore = "; ".join(self._statements(connection))
        """SQL that puts them back, as `Driver.script` takes it."""
        self.changed = False
        """Whether a handler may have changed settings since they were put back, as far as its statements show."""
        self.used = False
        """Whether a handler has used the connection since then: a function that it called may have changed some too."""
        self._joins = self._listens = self._restoring = self._handed_out = False
        self._preceding: Preceding | None = None
        self._failed: Failed

    def put_back(self) -> None:
        """Put the settings back now."""
        self._driver.script(self.restore)
        self.changed, self.used = self._handed_out, False

    def put_back_used(self) -> None:
        """Put them back if a handler has used the connection, or may have changed them otherwise."""
        if self.used or self.changed:
            self.put_back()

    def hand_out(self) -> None:
        """Nobody sees any more what is sent: a handler has the connection, and may keep it."""
        self.changed = self._handed_out = True

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What is sent meanwhile changes nothing that is put back."""
        changed = self.changed
        yield
        self.changed = changed

    def move_on(self, present: str, following: str, failed: Failed) -> None:
        """Move a savepoint to the present, ahead of the next statement or at once, and put back what may have changed.

        Args:
            present: Its name, quoted where that needs it.
            following: What it is called then.
            failed: Called with the SQLSTATE, if that or the statement behind it fails; what it returns is raised.
        """
        self._restoring, self.changed = self.changed, self._handed_out
        restore = [self.restore] if self._restoring else []
        sql = "; ".join([f"RELEASE SAVEPOINT {present}", *restore, f"SAVEPOINT {following}"])
        self._failed = failed
        if self._preceding is not None and not self._handed_out:
            self._preceding.hold(sql, failed)
        else:
            self._move(sql)

    def move_now(self) -> None:
        """Move the savepoint that was to move ahead of the next statement."""
        if self._preceding is not None and (sql := self._preceding.take()):
            self._move(sql)

    def _move(self, sql: str) -> None:
        try:
            self._driver.script(sql)
        except DBAPIError as error:
            if (raised := self._failed(sqlstate(error))) is None:
                raise
            raise raised from error

    def stay(self) -> bool:
        """Send nothing ahead of the next statement; return whether that was to be."""
        if self._preceding is None or not self._preceding.take():
            return False
        self.changed = self._restoring
        return True

    def travel(self) -> None:
        """Let savepoints move together with statements, where the driver can do that."""
        self._preceding = self._driver.preceding()

    def join_release(self) -> None:
        """Put the settings back together with the next savepoint that is released."""
        self._joins = True
        if not self._listens:
            # For that time only: what handlers send has no use for it.
            self._listens = True
            event.listen(self._connection, "before_cursor_execute", self._join, retval=True)
            event.listen(self._connection, "after_cursor_execute", self._follow)

    def begin(self) -> None:
        """A transaction begins: what an earlier one has done was put back, or undone with it."""
        self.used = False
        self.forget_join()

    def forget_join(self) -> None:
        """No savepoint is to be released any more, whether the one that `join_release` meant was or not."""
        self._joins = False
        if self._listens:
            self._listens = False
            event.remove(self._connection, "before_cursor_execute", self._join)
            event.remove(self._connection, "after_cursor_execute", self._follow)

    def _join(self, _c: Any, _r: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if self._joins and self._driver.joins and statement.startswith(_RELEASE):
            self._joins, self.changed, self.used = False, self._handed_out, False
            statement = f"{statement}; {self.restore}"
        return statement, parameters

    def _follow(self, _c: Any, _r: Any, statement: str, *_: Any) -> None:
        if self._joins and statement.startswith(_RELEASE):
            self._joins = False
            self.put_back()

    def _statements(self, connection: Connection) -> Iterator[str]:
        set_ = "SET LOCAL" if self._pooled else "SET"
        quote = connection.dialect.identifier_preparer.quote_identifier
        login, role = connection.execute(_IDENTITY).one()[1:]
        yield f"{set_} SESSION AUTHORIZATION {quote(login)}"
        yield f"{set_} ROLE {'NONE' if role == 'none' else quote(role)}"
        for name, value, changed in connection.execute(_PRESENT, {"names": list(_NAMES)}):
            if not changed and not self._pooled:
                # Not by its value: it goes on following the configuration of the server.
                yield f"RESET {name}"
            elif name == "search_path":
                local = str(self._pooled).lower()
                yield f"SELECT pg_catalog.set_config('{name}', {self._literal(value)}, {local})"
            else:
                yield f"{set_} {name} TO {self._literal(value)}"

    def _literal(self, value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace("'", "''").replace("%", self._driver.percent)
        return f"E'{escaped}'"


def is_pooled(connection: Connection) -> bool:
    """Whether a pooler stands before the server: it hands out a process id of its own."""
    return bool(connection.execute(_IDENTITY).one().pid != driver_of(connection).backend_pid)
