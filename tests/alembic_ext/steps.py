"""Migrations watched step by step, as an application sees them that keeps writing meanwhile.

The migration runs in autocommit, so that each of its statements is a state in which the application
may find the database: one half of a migration, or a deployment between two of them. After each
statement a session that has been open since before the migration writes in every way that it can.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event, text

from tests.alembic_ext.project import Project

Entries = list[tuple[str, ...]]

_COLUMNS = text(
    "SELECT quote_ident(attname), format_type(atttypid, NULL) FROM pg_attribute"
    " WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
    " AND attgenerated = '' ORDER BY attnum"
)
_NEXT = {
    "integer": "{0} + 1",
    "bigint": "{0} + 1",
    "numeric": "{0} + 1",
    "text": "{0} || 'x'",
    "character varying": "{0} || 'x'",
}


def write(connection: Connection, tables: Sequence[str]) -> None:
    """Insert, update and delete in those of *tables* that exist; the update changes every column but the key."""
    for table in tables:
        columns = [tuple(row) for row in connection.execute(_COLUMNS, {"table": table})]
        changes = ", ".join(
            f"{name} = {_NEXT[kind].format(name)}" for name, kind in columns if kind in _NEXT and name != "id"
        )
        newest = f"WHERE id = (SELECT max(id) FROM {table})"
        if columns:
            connection.execute(text(f"INSERT INTO {table} DEFAULT VALUES"))
            if changes:
                connection.execute(text(f"UPDATE {table} SET {changes} {newest}"))
            connection.execute(text(f"DELETE FROM {table} {newest}"))


class Steps:
    """A project whose migrations commit each statement, and a session that writes after each.

    Args:
        project: The project.
        tables: The tables it writes, where they exist.
        connection: The session, in autocommit.
    """

    def __init__(self, project: Project, tables: Sequence[str], connection: Connection) -> None:
        self.seen: list[str] = []
        self._project = project
        self._tables = tables
        self._connection = connection

    def up(self) -> None:
        """Upgrade to the newest revision, writing after each statement."""
        with self._watched():
            self._project.upgrade()

    def down(self) -> None:
        """Downgrade by one revision, writing after each statement."""
        with self._watched():
            self._project.downgrade()

    def published(self) -> Entries:
        """Write once more, and return listener and operation of what that published."""
        there = self._connection.scalar(text("SELECT to_regclass('pubsub_outbox') IS NOT NULL"))
        if there:
            self._project.entries()
        write(self._connection, self._tables)
        return self._project.entries() if there else []

    @contextmanager
    def _watched(self) -> Iterator[None]:
        def after(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
            if connection.engine is self._project.engine or statement.lstrip().startswith("SELECT"):
                return
            self.seen.append(statement)
            write(self._connection, self._tables)

        event.listen(Engine, "after_cursor_execute", after)
        try:
            yield
        finally:
            event.remove(Engine, "after_cursor_execute", after)


@contextmanager
def stepwise(project: Project, *tables: str) -> Iterator[Steps]:
    """Let migrations of *project* commit each statement, and give a session that writes *tables* meanwhile."""
    project.env("poolclass=pool.NullPool,", 'poolclass=pool.NullPool, isolation_level="AUTOCOMMIT",')
    with project.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield Steps(project, tables, connection)
