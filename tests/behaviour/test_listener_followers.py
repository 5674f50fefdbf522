"""What an ordered listener takes with the first entry of a row: the entries of that row behind it."""

import threading
from collections import Counter
from datetime import timedelta
from typing import Any, Literal, get_args

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from sqla_pubsub import RetryPolicy, Update, after_insert, after_truncate, after_update
from tests.behaviour.test_listener_ordered import HOUR, workers
from tests.deliver.notes import DEADLINE, Notes
from tests.waiting import wait_until

pytestmark = pytest.mark.either_driver

TWICE = RetryPolicy(max_attempts=2, initial=timedelta(0), jitter=False)


def write_often(notes: Notes, count: int) -> None:
    """Let the first note change *count* times, to '1', '2', '3' and so on."""
    notes.execute(
        f"DO $$ BEGIN FOR n IN 1..{count:d} LOOP UPDATE note SET content = n::text WHERE id = 1; END LOOP; END $$"
    )


def write_down(notes: Notes, **options: Any) -> None:
    """Declare an ordered listener that writes what the first note was changed to."""

    @after_update(notes.Note, ordered=True, **options)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))


def in_order(count: int) -> list[str | None]:
    return [str(number) for number in range(1, count + 1)]


@pytest.mark.parametrize("transactional", [True, False])
def test_other_rows_are_found_far_behind_one_that_is_in_hand(notes: Notes, transactional: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @after_update(notes.Note, ordered=True, transactional=transactional)
    def handle(new: Any, session: Session) -> None:
        if new.content == "1":
            begun.set()
            assert go_on.wait(DEADLINE)
        session.add(notes.effect(f"row {new.id}", new.content))

    notes.write("a", "a")
    write_often(notes, 1000)
    notes.execute("UPDATE note SET content = 'other' WHERE id = 2")
    with workers(notes, 2):
        assert begun.wait(DEADLINE)
        wait_until(lambda: notes.effects("row 2") == ["other"], DEADLINE, "the other row to be handled")
        assert notes.effects("row 1") == []
        go_on.set()
        wait_until(lambda: len(notes.effects("row 1")) >= 20, DEADLINE, "the first row to go on")
    done = notes.effects("row 1")
    assert done == in_order(len(done))


def test_a_failure_among_many_events_of_a_row_holds_back_those_behind_it(notes: Notes) -> None:
    @after_update(notes.Note, ordered=True, retry=HOUR)
    def handle(new: Any, event: Update[Any], session: Session) -> None:
        if new.content == "70" and event.attempt == 1:
            raise ValueError
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    write_often(notes, 100)
    assert notes.drain() == 70
    assert notes.effects("handle") == in_order(69)
    notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    assert notes.drain() == 31
    assert notes.effects("handle") == in_order(100)


def test_what_cannot_be_written_among_many_events_of_a_row_holds_back_those_behind_it(notes: Notes) -> None:
    """It shows at the end of the group, when the handlers of those behind it were called."""

    @after_update(notes.Note, ordered=True, retry=HOUR)
    def handle(new: Any, event: Update[Any], session: Session) -> None:
        bad = new.content == "70" and event.attempt == 1
        session.add(notes.effect("handle", "\0" if bad else new.content))

    notes.write("a")
    write_often(notes, 100)
    assert notes.drain() == 70
    assert notes.effects("handle") == in_order(69)
    notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    assert notes.drain() == 31
    assert notes.effects("handle") == in_order(100)


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("UPDATE pubsub_outbox SET due_at = now() + interval '1 hour' WHERE id = 70", id="retry"),
        pytest.param("UPDATE pubsub_outbox SET crashes = 1, due_at = 'infinity' WHERE id = 70", id="crash"),
        pytest.param("UPDATE pubsub_outbox SET listener = 'count' WHERE id = 70", id="earlier name"),
        pytest.param("UPDATE pubsub_outbox SET key = '[9]', old_key = '[1]' WHERE id = 70", id="other row"),
    ],
)
def test_a_row_goes_on_up_to_an_obstacle(notes: Notes, obstacle: str) -> None:
    write_down(notes, previous_names=["count"])
    notes.write("a")
    write_often(notes, 100)
    notes.execute(obstacle)
    with notes.engine.connect() as other:
        other.execute(text("SELECT FROM pubsub_outbox WHERE id = 70 FOR UPDATE"))
        assert notes.drain() == 69
    assert notes.effects("handle") == in_order(69)


def test_an_entry_in_other_hands_holds_back_those_behind_it(notes: Notes) -> None:
    """A worker that does not know of the promise yet has it."""
    write_down(notes)
    notes.write("a")
    write_often(notes, 100)
    with notes.engine.connect() as other:
        other.execute(text("SELECT FROM pubsub_outbox WHERE id = 70 FOR UPDATE"))
        assert notes.drain() == 69
    assert notes.drain() == 31
    assert notes.effects("handle") == in_order(100)


Failure = Literal["error", "rollback", "connection", "commit"]


@pytest.mark.parametrize("failure", get_args(Failure))
def test_a_failure_that_throws_the_group_back_is_counted(notes: Notes, failure: Failure) -> None:
    """Although those before it in its row are thrown back with it."""
    called: Counter[str] = Counter()

    @after_update(notes.Note, ordered=True, retry=TWICE, effects="database" if failure == "error" else "any")
    def handle(new: Any, session: Session) -> None:
        called[new.content] += 1
        session.add(notes.effect("handle", new.content))
        if new.content == "30":
            match failure:
                case "error":
                    raise ValueError
                case "rollback":
                    session.connection().rollback()
                case "connection":
                    session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
                case "commit":
                    session.add(notes.effect("late", "1"))

    notes.write("a", "a")
    notes.execute("ALTER TABLE effect ADD UNIQUE (what) DEFERRABLE INITIALLY DEFERRED")
    write_often(notes, 50)
    assert notes.drain() == 51
    assert notes.effects("handle") == [what for what in in_order(50) if what != "30"]
    assert [letter.attempt for letter in notes.dead()] == [2]
    assert max(called.values()) <= 4


def test_an_entry_that_kills_a_process_meanwhile_holds_back_those_behind_it(notes: Notes) -> None:
    """The supervisor counts it after the worker has found it, and before the worker has it."""
    write_down(notes)
    notes.write("a")
    write_often(notes, 100)
    found: list[str] = []

    def count_crash(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "unbroken" in statement:
            found.append(statement)
        elif len(found) == 1 and "SKIP LOCKED" in statement:
            found.append(statement)
            notes.execute(
                "UPDATE pubsub_outbox SET crashes = 1 WHERE id = (SELECT min(id) + 3 FROM pubsub_outbox)"
            )

    event.listen(notes.engine, "before_cursor_execute", count_crash)
    try:
        assert notes.drain() == 100
    finally:
        event.remove(notes.engine, "before_cursor_execute", count_crash)
    assert len(found) >= 2
    assert notes.effects("handle") == in_order(100)


def test_a_retry_is_made_although_it_was_held_back_when_it_became_due(notes: Notes) -> None:
    write_down(notes)
    notes.write("a")
    write_often(notes, 3)
    notes.execute("UPDATE pubsub_outbox SET due_at = now(), attempt = 1 WHERE id = 2")
    assert notes.drain() == 3
    assert notes.effects("handle") == in_order(3)


def statements_of_a_drain(notes: Notes) -> tuple[int, int]:
    """Return how many entries a drain settles, and how many statements on the outbox it sends."""
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "pubsub_outbox" in statement:
            sent.append(statement)

    event.listen(notes.engine, "before_cursor_execute", note)
    try:
        return notes.drain(), len(sent)
    finally:
        event.remove(notes.engine, "before_cursor_execute", note)


def test_outside_of_a_transaction_a_row_that_changes_often_is_not_read_whole(notes: Notes) -> None:
    """As many statements for an event as of any row: to find it, take it, decode it, settle it, let go of it."""
    write_down(notes, transactional=False)
    notes.write("a")
    write_often(notes, 500)
    settled, statements = statements_of_a_drain(notes)
    assert settled == 500
    assert statements < 500 * 10
    assert notes.effects("handle") == in_order(500)


def test_what_a_truncate_holds_back_is_not_read(notes: Notes) -> None:
    @after_insert(notes.Note, ordered=True)
    @after_truncate(notes.Note, ordered=True)
    def handle() -> None: ...

    notes.install()
    notes.execute("TRUNCATE note")
    notes.write(*map(str, range(30_000)))
    notes.execute("UPDATE pubsub_outbox SET due_at = now() + interval '1 hour' WHERE operation = 'TRUNCATE'")
    settled, statements = statements_of_a_drain(notes)
    assert settled == 0
    assert statements < 15
