"""The state of the tables, and who keeps vacuum from its work."""

import pytest
from sqlalchemy import create_engine, text

from sqla_pubsub import Admin, after_insert
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver


def declare(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.install()


def test_the_oldest_transaction_is_named_with_who_holds_it(notes: Notes, admin: Admin) -> None:
    declare(notes)
    engine = create_engine(notes.engine.url, connect_args={"application_name": "a long report"})
    with engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        connection.execute(text("SELECT count(*) FROM pubsub_outbox"))
        for content in "abc":
            notes.write(content)
        system = admin.system()
    engine.dispose()
    assert system.oldest is not None
    assert (system.oldest.kind, system.oldest.application) == ("session", "a long report")
    assert system.oldest.age >= 3
    assert system.oldest_for is not None
    assert system.as_json()["oldest"]["application"] == "a long report"


def test_size_and_vacuum_of_the_tables_are_told(notes: Notes, admin: Admin) -> None:
    declare(notes)
    notes.write("a", "b")
    before = admin.system()
    assert (before.outbox.table, before.dead_letters.table) == ("pubsub_outbox", "pubsub_dead_letter")
    assert before.outbox.vacuumed is None
    assert before.outbox.bytes > 0
    with notes.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # What this connection has inserted would be added to what VACUUM counts.
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        connection.exec_driver_sql("VACUUM ANALYZE pubsub_outbox")
    after = admin.system()
    assert after.outbox.vacuumed is not None
    assert after.outbox.live == 2
    assert after.missing == ()
    notes.execute("DROP TABLE pubsub_history, pubsub_listener")
    assert admin.system().missing == ("pubsub_listener", "pubsub_history")


def test_a_backfill_that_is_not_at_its_end_is_named(notes: Notes, admin: Admin) -> None:
    declare(notes)
    assert admin.system().backfills == ()
    notes.execute(
        "INSERT INTO pubsub_outbox (listener, operation, source, due_at)"
        " VALUES (' backfill of handle', 'BACKFILL', 'note', '9000-01-01 00:00:00+00')"
    )
    [found] = admin.system().backfills
    assert (found.listener, found.source) == ("handle", "note")
