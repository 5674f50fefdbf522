"""A migration takes no lock on a table that it can do without, and comparing takes none at all."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project

pytestmark = pytest.mark.one_driver

READER = "pubsub_comparing"
LOCKS = (
    "SELECT DISTINCT relation::regclass::text || ': ' || mode FROM pg_locks AS l JOIN pg_class AS c ON c.oid = relation"
    " WHERE pid = pg_backend_pid() AND relnamespace = 'public'::regnamespace AND relname {}"
)
TWO_LISTENERS = f"{COMMENT}{INSERT_LISTENER}\n\n@after_insert(Comment)\ndef audit(event): ...\n"
ON_DELETE = f"{COMMENT}{INSERT_LISTENER}\n\n@after_delete(Comment)\ndef audit(event): ...\n"
PER_ROW = COMMENT.replace('"comment"', '"comment"\n    __pubsub__ = Publish(capture="row")') + INSERT_LISTENER
FUNCTION = "FUNCTION pubsub_comment_insert()"

EXCLUSIVE = {"comment: AccessExclusiveLock"}
REPLACING = {"comment: ShareRowExclusiveLock"}
CHANGES: dict[str, tuple[str, list[str], set[str]]] = {
    "one more listener": (TWO_LISTENERS, [], set()),
    "another payload": (
        COMMENT.replace('"comment"', '"comment"\n    __pubsub__ = Publish(exclude=["stars"])')
        + INSERT_LISTENER,
        [],
        set(),
    ),
    "an edited function": (COMMENT + INSERT_LISTENER, [f"ALTER {FUNCTION} SECURITY INVOKER"], set()),
    "a function for everybody, and one more listener": (
        TWO_LISTENERS,
        [f"GRANT EXECUTE ON {FUNCTION} TO PUBLIC"],
        set(),
    ),
    "another operation": (ON_DELETE, [], REPLACING),
    "a disabled trigger": (
        COMMENT + INSERT_LISTENER,
        ["ALTER TABLE comment DISABLE TRIGGER pubsub_insert"],
        REPLACING,
    ),
    "a disabled trigger, and one more listener": (
        TWO_LISTENERS,
        ["ALTER TABLE comment DISABLE TRIGGER pubsub_insert"],
        REPLACING,
    ),
    "the last listener removed": (COMMENT, [], EXCLUSIVE),
    "another level of capture": (PER_ROW, [], EXCLUSIVE | REPLACING),
}


@contextmanager
def seen(project: Project, condition: str, keep: Callable[[str], bool]) -> Iterator[set[str]]:
    """Collect the locks that other engines than the project's own hold after their statements."""
    found: set[str] = set()

    def after(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if connection.engine is not project.engine and keep(statement):
            with closing(connection.connection.cursor()) as own:
                own.execute(LOCKS.format(condition))
                found.update(row[0] for row in own.fetchall())

    event.listen(Engine, "after_cursor_execute", after)
    try:
        yield found
    finally:
        event.remove(Engine, "after_cursor_execute", after)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_takes_the_weakest_lock_that_does_it(project: Project, change: str) -> None:
    models, damage, expected = CHANGES[change]
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.execute(*damage)
    project.models(models)
    project.revision()
    with seen(project, "= 'comment'", lambda statement: "pubsub_" in statement) as locks:
        project.upgrade()
    # A lock that every SELECT takes, and that excludes nothing but the strongest.
    assert locks - {"comment: AccessShareLock"} == expected
    assert project.differences() == []


def test_the_outbox_is_never_locked_against_writers(project: Project) -> None:
    project.models(COMMENT)
    project.migrate()
    project.models(ON_DELETE)
    project.revision()
    with seen(project, "LIKE 'pubsub_outbox%'", lambda _: True) as locks:
        project.upgrade()
    assert locks == set()


def test_comparing_reads_the_catalog_with_no_privilege_and_no_lock_that_anybody_waits_for(
    project: Project,
) -> None:
    project.models(ON_DELETE)
    project.migrate()
    project.execute(f"CREATE ROLE {READER}", f"GRANT SELECT ON alembic_version TO {READER}")
    try:
        project.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        opened = "with connectable.connect() as connection:"
        project.env(opened, f"{opened}\n        connection.exec_driver_sql('SET ROLE {READER}')")
        project.models(TWO_LISTENERS)
        with seen(project, "NOT LIKE 'alembic%'", lambda _: True) as locks:
            found = project.pending()
        assert "replace_pubsub_function" in found
        assert "drop_pubsub_trigger" in found
        assert {lock.partition(": ")[2] for lock in locks} <= {"AccessShareLock"}
    finally:
        project.execute(f"DROP OWNED BY {READER}", f"DROP ROLE {READER}")
