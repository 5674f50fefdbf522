"""Retries in the order in which they are due, and what an operator does with one entry."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from sqla_pubsub import Admin, RetryPolicy, after_insert
from sqla_pubsub.operate.admin import Letters
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

HOUR = timedelta(hours=1)


@pytest.fixture
def failed(notes: Notes) -> Notes:
    """Three entries that wait for their retry, the last one first, and one that is ready."""

    @after_insert(notes.Note, retry=RetryPolicy(initial=HOUR, max_delay=HOUR, jitter=False))
    def handle(new: Any) -> None:
        if new.content != "d":
            raise ValueError(new.content)

    notes.write("a", "b", "c")
    notes.drain()
    notes.write("d")
    with notes.engine.begin() as connection:
        connection.execute(
            text("UPDATE pubsub_outbox SET due_at = due_at - id * interval '1 minute' WHERE id < 4")
        )
    return notes


def test_retries_come_in_the_order_in_which_they_are_due(failed: Notes, admin: Admin) -> None:
    assert [(entry.id, entry.state, entry.error) for entry in admin.retries("handle")] == [
        (3, "waiting", "ValueError: c"),
        (2, "waiting", "ValueError: b"),
        (1, "waiting", "ValueError: a"),
    ]
    assert [entry.id for entry in admin.retries("handle", limit=1)] == [3]
    assert admin.retries("nobody") == []


def test_one_entry_is_made_due_or_discarded(failed: Notes, admin: Admin) -> None:
    assert admin.retry_entry(2)
    assert not admin.retry_entry(2)
    assert not admin.retry_entry(4)
    assert not admin.retry_entry(99)
    entry = admin.entry(2)
    assert entry is not None
    assert entry.state == "ready"
    assert admin.discard_entry(1)
    assert not admin.discard_entry(1)
    assert [entry.id for entry in admin.entries()] == [2, 3, 4]


def test_an_entry_that_somebody_has_in_hand_is_left_to_them(failed: Notes, admin: Admin) -> None:
    with failed.engine.begin() as worker:
        worker.execute(text("SELECT id FROM pubsub_outbox WHERE id = 2 FOR UPDATE"))
        assert not admin.retry_entry(2)
        assert not admin.discard_entry(2)
    assert admin.retry_entry(2)


def test_a_retry_that_is_made_due_wakes_who_sleeps(notes: Notes, admin: Admin) -> None:
    failing = [True]

    @after_insert(notes.Note, retry=RetryPolicy(initial=HOUR, jitter=False))
    def handle(new: Any) -> None:
        if failing[0]:
            raise ValueError(new.content)

    notes.write("a")
    notes.drain()
    failing[0] = False
    with running(notes.listener(poll_interval=HOUR)):
        asleep = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        wait_until(lambda: notes.scalar(asleep), DEADLINE, "the worker to sleep")
        assert admin.retry_entry(1)
        wait_until(lambda: not notes.left(), DEADLINE, "it to be handled")


def test_what_python_does_not_read_is_text_and_hides_nothing_else(notes: Notes, admin: Admin) -> None:
    """A number of many digits, a deep document: PostgreSQL stores both."""

    @after_insert(notes.Note)
    def handle(new: Any) -> None: ...

    notes.write("a")
    digits, deep = "7" * 5_000, "[" * 5_000 + "]" * 5_000
    with notes.engine.begin() as connection:
        stored = text("UPDATE pubsub_outbox SET new = CAST(:new AS json), old = CAST(:old AS json)")
        connection.execute(stored, {"new": f'{{"id": {digits}, "n": 1}}', "old": f'{{"deep": {deep}}}'})
    entry = admin.entry(1)
    assert entry is not None
    assert entry.new == {"id": digits, "n": 1}
    assert str(entry.old).startswith('{"deep": [[[[')


def test_a_context_with_the_escape_of_a_null_character_is_no_obstacle_to_choosing_by_context(
    notes: Notes, admin: Admin
) -> None:
    """PostgreSQL stores it in json, and refuses to look into that."""
    notes.install()
    letter = (
        "INSERT INTO pubsub_dead_letter (id, listener, operation, source, context, reason)"
        " VALUES (:id, 'handle', 'INSERT', 'note', CAST(:context AS json), 'x')"
    )
    with notes.engine.begin() as connection:
        for number, context in enumerate((r'{"tenant": "a\u0000"}', '{"tenant": "acme"}'), 1):
            connection.execute(text(letter), {"id": number, "context": context})
    found = admin.dead_letters(Letters(context=("tenant", "acme")))
    assert [each.id for each in found] == [2]
    assert admin.count_dead(Letters(context=("tenant", "a"))) == 0
