"""What an operator reads of each listener: how much waits, who works on it, how fast, and what is wrong."""

import re
import time
from datetime import timedelta

import pytest
from sqlalchemy import create_engine

from sqla_pubsub import Admin, after_insert
from sqla_pubsub.operate.plain import CAP
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

FILL = """
    INSERT INTO pubsub_outbox (listener, operation, source, occurred_at, due_at)
    SELECT :listener, 'INSERT', 'note', clock_timestamp() - CAST(:age AS interval), {due}
    FROM generate_series(1, :number)
"""
READY, DUE = "NULL", "clock_timestamp() - interval '1 hour'"
LATER = "clock_timestamp() + interval '1 hour'"
LETTERS = """
    INSERT INTO pubsub_dead_letter (id, listener, operation, source, reason)
    SELECT -n, :listener, 'INSERT', 'note', 'ValueError: ' || n FROM generate_series(1, :number) AS n
"""


def fill(notes: Notes, listener: str, number: int, due: str = READY, age: str = "0 s") -> None:
    notes.execute(FILL.format(due=due), listener=listener, number=number, age=age)


def declare(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.install()


def test_each_kind_is_counted_as_far_as_the_cap_and_no_further_unless_exactly(
    notes: Notes, admin: Admin
) -> None:
    declare(notes)
    fill(notes, "handle", CAP)
    fill(notes, "handle", 3, due=LATER)
    notes.execute(LETTERS, listener="handle", number=CAP + 2)
    [row] = admin.status()
    assert (row.ready, row.waiting, row.dead) == (CAP, 3, CAP)
    assert (row.ready_capped, row.waiting_capped, row.dead_capped) == (False, False, True)
    fill(notes, "handle", 2, due=DUE)
    [row] = admin.status()
    assert (row.ready, row.ready_capped) == (CAP, True)
    [row] = admin.status(exact=True)
    assert (row.ready, row.waiting, row.dead) == (CAP + 2, 3, CAP + 2)
    assert not any((row.ready_capped, row.waiting_capped, row.dead_capped))


def test_listeners_are_found_by_entries_by_retries_and_by_dead_letters_alone(
    notes: Notes, admin: Admin
) -> None:
    declare(notes)
    for name, due in (("a", READY), ("b", LATER), ("c", DUE), (" backfill of x", LATER)):
        fill(notes, name, 2, due=due)
    notes.execute(LETTERS, listener="d", number=1)
    for exact in (False, True):
        found = {
            row.listener: (row.declared, row.ready, row.waiting, row.dead)
            for row in admin.status(exact=exact)
        }
        found.pop(" backfill of x", None)
        assert found == {
            "a": (False, 2, 0, 0), "b": (False, 0, 2, 0), "c": (False, 2, 0, 0), "d": (False, 0, 0, 1),
            "handle": (True, 0, 0, 0),
        }  # fmt: skip


def test_the_oldest_is_the_first_entry_or_the_retry_that_was_due_first(notes: Notes, admin: Admin) -> None:
    declare(notes)
    fill(notes, "handle", 1, age="10 minutes")
    fill(notes, "handle", 1, age="1 minute")
    [row] = admin.status()
    assert row.oldest is not None
    assert timedelta(minutes=10) < row.oldest < timedelta(minutes=11)
    fill(notes, "handle", 1, due=DUE)
    [row] = admin.status()
    assert row.oldest is not None
    assert timedelta(hours=1) < row.oldest < timedelta(hours=1, minutes=1)


def test_what_is_wrong_is_said_in_words(notes: Notes, admin: Admin) -> None:
    @after_insert(notes.Note, previous_names=["before"])
    def handle() -> None: ...

    notes.install()
    fill(notes, "handle", 2, age="1 hour")
    fill(notes, "before", 1)
    fill(notes, "nobody", 1)
    notes.execute(LETTERS, listener="handle", number=1)
    problems = {row.listener: row.problems for row in admin.status()}
    assert problems["before"] == (
        "an earlier name: a worker of its listener takes these over when it starts",
    )
    assert problems["nobody"] == ("not declared: nobody takes its entries",)
    unattended, behind, dead = problems["handle"]
    assert unattended == "no worker runs it, and 2 wait"
    assert re.fullmatch(r"behind: 2 ready, the first for 1:00:\d\d", behind)
    assert dead == "dead letters: see sqla-pubsub dead list --listener handle"
    admin.pause("handle", "the mail server is down", by="me")
    paused = {row.listener: row.problems for row in admin.status()}["handle"]
    assert paused[0].startswith("paused since ")
    assert paused[0].endswith(" by me: the mail server is down")
    assert not any(problem.startswith("behind") for problem in paused)


def test_workers_that_are_silent_are_not_counted(notes: Notes, admin: Admin) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    @after_insert(notes.Note, transactional=False, concurrency=3)
    def mail() -> None: ...

    notes.install()
    for number, (age, listeners) in enumerate((("0 s", '["handle", "mail"]'), ("1 hour", '["handle"]'))):
        notes.execute(
            "INSERT INTO pubsub_worker (id, host, pid, version, listeners, processes, slots, in_hand, seen_at) VALUES"
            " (:id, 'here', 1, '0', CAST(:listeners AS json), 2, 20, '[]', clock_timestamp() - CAST(:age AS interval))",
            id=str(number), listeners=listeners, age=age,
        )  # fmt: skip
    rows = {row.listener: (row.workers, row.slots, row.problems) for row in admin.status()}
    assert rows == {"handle": (1, 2, ()), "mail": (1, 6, ())}
    assert [worker.silent for worker in admin.workers()] == [False, True]


def test_rates_are_those_of_the_last_minutes(notes: Notes, admin: Admin) -> None:
    declare(notes)
    notes.execute(
        "INSERT INTO pubsub_history (listener, minute, handled, dead, retried, first_attempts)"
        " SELECT 'handle', date_trunc('minute', clock_timestamp()) - n * interval '1 minute', 600, 60, 7, 300"
        " FROM generate_series(0, 60) AS n"
    )
    [row] = admin.status()
    assert row.rate_in is not None
    assert row.rate_out is not None
    # Six minutes have begun in the five to six that are looked at, or five where one begins just now.
    assert 9.1 <= row.rate_out <= 13.2
    assert 4.1 <= row.rate_in <= 6.0
    fill(notes, "handle", 300)
    [row] = admin.status()
    assert row.rate_in is not None
    assert 5.1 <= row.rate_in <= 7.0


def test_the_rate_of_what_comes_is_that_of_the_newest_where_a_listener_is_behind(
    notes: Notes, admin: Admin
) -> None:
    declare(notes)
    fill(notes, "handle", 10, age="1 hour")
    fill(notes, "handle", 300, age="1 minute")
    [row] = admin.status()
    assert row.rate_in == pytest.approx(1.0, rel=0.1)
    began = time.monotonic()
    fill(notes, "handle", 1000, age="10 seconds")
    [row] = admin.status()
    assert row.rate_in is not None
    assert 1000 / (10 + time.monotonic() - began) - 1 <= row.rate_in <= 101


def test_all_results_become_json(notes: Notes, admin: Admin) -> None:
    declare(notes)
    fill(notes, "handle", 1, age="1 hour")
    admin.pause("handle", by="me")
    [row] = admin.status()
    plain = row.as_json()
    assert plain["oldest"] >= 3600
    assert plain["paused"] == {"since": row.paused.since.isoformat(), "note": None, "by": "me"}  # type: ignore[union-attr]
    assert plain["problems"] == list(row.problems)


def test_a_role_that_may_read_no_ids_counts_all(notes: Notes, database: str) -> None:
    """Who was granted what earlier releases needed goes on to see the backlog."""
    declare(notes)
    fill(notes, "handle", 2)
    role = f"probe_{database}"
    notes.execute(f"CREATE ROLE {role} LOGIN")
    notes.execute(f"GRANT SELECT (listener, operation, occurred_at, due_at) ON pubsub_outbox TO {role}")
    notes.execute(f"GRANT SELECT (listener) ON pubsub_dead_letter TO {role}")
    engine = create_engine(notes.engine.url.set(username=role))
    try:
        assert [(row.ready, row.dead) for row in Admin(engine, notes.metadata).status()] == [(2, 0)]
    finally:
        engine.dispose()
        notes.execute(f"DROP OWNED BY {role}")
        notes.execute(f"DROP ROLE {role}")
