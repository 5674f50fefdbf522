"""How the server looks for work: by index, whatever else waits.

Read from EXPLAIN, because a backlog that makes a wrong plan slow takes a minute to write.
"""

from typing import Any

import pytest

from sqla_pubsub import after_insert, outbox
from sqla_pubsub.deliver.claim.ordered import OrderedStatements
from sqla_pubsub.deliver.claim.statements import Statements
from tests.deliver.notes import Notes

pytestmark = pytest.mark.either_driver

BACKLOG = (
    "INSERT INTO pubsub_outbox (listener, operation, source, key, new, due_at)"
    " SELECT name, 'INSERT', 'note', jsonb_build_array(n), '{}', due"
    " FROM generate_series(1, 5000) AS n,"
    " (VALUES ('handle', now() + interval '1 hour'), ('stopped', NULL)) AS backlog (name, due)"
)


def plan(notes: Notes, statement: Any) -> str:
    """Return the plan of a statement, with the values it has at run time."""
    values = statement.params(listener="handle", start=0, passed=[7, 8], size=20, window=220)
    return notes.plan(str(values.compile(notes.engine, compile_kwargs={"literal_binds": True})))


@pytest.fixture
def backlog(notes: Notes) -> Notes:
    """Thousands of retries that wait, and thousands of entries of a listener that nobody runs."""

    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.install()
    notes.execute(BACKLOG)
    notes.execute("ANALYZE pubsub_outbox")
    return notes


def test_due_retries_are_found_without_reading_those_that_still_wait(backlog: Notes) -> None:
    found = plan(backlog, Statements(outbox(backlog.metadata)).claim_due)
    assert "Index Cond: ((listener = 'handle'::text) AND (due_at <= statement_timestamp()))" in found


def test_what_a_listener_outside_of_a_transaction_may_take_is_found_by_index(backlog: Notes) -> None:
    statements = Statements(outbox(backlog.metadata))
    assert IN_TURN in plan(backlog, statements.candidates)
    found = plan(backlog, statements.candidates_due)
    assert "Index Cond: ((listener = 'handle'::text) AND (due_at <= statement_timestamp()))" in found
    assert "Sort" not in found


IN_TURN = "Index Cond: ((ROW(listener, id) >= ROW('handle'::text, 0)) AND (ROW(listener, id) <= "


def test_ready_entries_are_found_past_those_of_others(backlog: Notes) -> None:
    found = plan(backlog, Statements(outbox(backlog.metadata)).claim_ready)
    assert IN_TURN in found
    assert "Sort" not in found


@pytest.mark.parametrize("kind", ["firsts", "window_end"])
def test_an_ordered_listener_finds_ready_entries_past_those_of_others(backlog: Notes, kind: str) -> None:
    assert IN_TURN in plan(backlog, getattr(OrderedStatements(outbox(backlog.metadata)), kind))


def test_the_rivals_of_a_retry_are_found_by_index(backlog: Notes) -> None:
    rivals = OrderedStatements(outbox(backlog.metadata)).rivals.params(heads=[1, 2, 3])
    found = backlog.plan(str(rivals.compile(backlog.engine, compile_kwargs={"literal_binds": True})))
    assert "pubsub_outbox_key" in found
    assert "pubsub_outbox_old_key" in found
    assert "Seq Scan" not in found
