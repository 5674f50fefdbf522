"""Dead letters that are put back are the same events, handled at once and in the order they had."""

from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from sqla_pubsub import Insert, Listener, Reject, Update, after_insert, after_update
from sqla_pubsub.errors import ConfigurationError, NotSettled
from sqla_pubsub.operate.admin import Admin, Letters
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.either_driver

LONG = timedelta(hours=1)


def look_after(notes: Notes, engine: Engine | None = None) -> Admin:
    return Admin(engine or notes.engine, notes.metadata)


@pytest.mark.parametrize("transactional", [True, False])
def test_a_sleeping_worker_handles_a_letter_that_is_put_back_at_once_as_the_same_event(
    notes: Notes, transactional: bool
) -> None:
    seen = []

    @after_insert(notes.Note, transactional=transactional)
    def handle(event: Insert[Any]) -> None:
        seen.append((event.id, event.occurred_at, event.attempt))
        if len(seen) == 1:
            raise Reject("not yet")

    notes.write("a")
    with running(notes.listener(poll_interval=LONG)):
        wait_until(notes.dead, DEADLINE, "the letter to be dead")
        asleep = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        wait_until(lambda: notes.scalar(asleep), DEADLINE, "the worker to sleep")
        assert look_after(notes).retry(Letters()) == 1
        wait_until(lambda: not notes.left(), DEADLINE, "it to be handled")
    assert seen[0] == seen[1]


@pytest.mark.parametrize("transactional", [True, False])
def test_letters_of_one_row_that_are_put_back_keep_their_order_in_one_drain(
    notes: Notes, transactional: bool
) -> None:
    """A claim that finds the first of them only is no sign that no other one is due."""
    failing, seen = [True], defaultdict(list)

    @after_update(notes.Note, ordered=True, transactional=transactional)
    def handle(event: Update[Any]) -> None:
        if failing[0]:
            raise Reject("not yet")
        seen[event.new.id].append(event.new.content)

    notes.write("0", "0")
    for number in range(1, 6):
        notes.execute("UPDATE note SET content = :content", content=str(number))
    assert notes.drain() == 10
    failing[0] = False
    notes.execute("UPDATE note SET content = 'last'")
    assert look_after(notes).retry(Letters()) == 10
    assert notes.drain() == 12
    assert seen == {row: ["1", "2", "3", "4", "5", "last"] for row in (1, 2)}
    assert notes.left() == 0


def test_ready_is_what_a_claim_would_take(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(session: Session) -> None: ...

    notes.write("ready", "overdue", "later")
    notes.execute(
        "UPDATE pubsub_outbox SET due_at = clock_timestamp() - interval '1 hour' WHERE new ->> 'content' = 'overdue'"
    )
    notes.execute(
        "UPDATE pubsub_outbox SET due_at = clock_timestamp() + interval '1 hour' WHERE new ->> 'content' = 'later'"
    )
    [row] = look_after(notes).status()
    assert (row.ready, row.waiting) == look_after(notes).pending(["handle"]) == (2, 1)
    assert row.oldest is not None
    assert timedelta(hours=1) <= row.oldest < timedelta(hours=2)
    assert notes.drain() == 2
    [row] = look_after(notes).status()
    assert (row.ready, row.waiting, row.oldest) == (0, 1, None)


def test_a_worker_waits_for_an_outbox_that_was_dropped_under_it(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is being restored, or another one takes its place."""

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    with running(notes.listener(poll_interval=timedelta(milliseconds=50))):
        wait_until(lambda: not notes.entries(), DEADLINE, "the worker to work")
        notes.execute("DROP TABLE pubsub_outbox, pubsub_dead_letter")
        wait_until(lambda: "connection.waiting" in caplog.text, DEADLINE, "it to wait")
        assert "'pubsub_outbox' does not exist" in caplog.text
        notes.metadata.create_all(notes.engine)
        notes.write("b")
        wait_until(lambda: notes.effects("handle") == ["a", "b"], DEADLINE, "the next event to be handled")


def test_a_url_with_an_unknown_option_is_refused_and_not_waited_for(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    url = notes.engine.url.update_query_dict({"nonsense": "1"})
    for act in (Listener.drain, Listener.run):
        with pytest.raises(ConfigurationError, match='invalid connection option "nonsense"'):
            act(Listener(create_engine(url), notes.metadata))


@pytest.mark.parametrize("swallowed", ["INSERT ON pubsub_outbox", "DELETE ON pubsub_dead_letter"])
def test_letters_that_cannot_be_put_back_stay_what_they_are(notes: Notes, swallowed: str) -> None:
    """A trigger that swallows them raises no error, and they would be gone."""

    @after_insert(notes.Note)
    def handle() -> None:
        raise Reject("not yet")

    notes.write("a", "b")
    notes.drain()
    notes.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    notes.execute(f"CREATE TRIGGER swallow BEFORE {swallowed} FOR EACH ROW EXECUTE FUNCTION swallow()")
    admin = look_after(notes)
    if swallowed.startswith("INSERT"):
        with pytest.raises(NotSettled):
            admin.retry(Letters())
    else:
        assert admin.retry(Letters()) == 0
    assert len(notes.dead()) == 2
    assert not notes.entries()


def test_a_crash_that_the_outbox_does_not_take_is_counted_later(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle() -> None: ...

    notes.write("a")
    notes.execute("UPDATE pubsub_outbox SET crashes = 3")
    notes.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    notes.execute(
        "CREATE TRIGGER swallow BEFORE INSERT ON pubsub_dead_letter FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    assert not look_after(notes).count_crash(1)
    assert [entry.crashes for entry in notes.entries()] == [3]
    notes.execute("DROP FUNCTION swallow CASCADE")
    assert look_after(notes).count_crash(1)
    assert [letter.id for letter in notes.dead()] == [1]


def test_the_outbox_that_was_found_first_stays_the_one(notes: Notes) -> None:
    """A later connection of the same engine may have another search path."""

    @after_insert(notes.Note)
    def handle() -> None:
        raise Reject("not yet")

    notes.write("a", "b")
    notes.drain()
    notes.execute("CREATE SCHEMA other")
    for table in ("pubsub_outbox", "pubsub_dead_letter"):
        notes.execute(f"CREATE TABLE other.{table} (LIKE {table} INCLUDING ALL)")
    admin = look_after(notes)
    assert admin.count_dead(Letters()) == 2
    with notes.engine.connect() as connection:
        connection.exec_driver_sql("SET search_path TO other")
        connection.commit()
    assert admin.count_dead(Letters()) == 2
    assert admin.retry(Letters(), limit=1) == 1
    assert admin.discard(Letters()) == 1
    assert [status.ready for status in admin.status()] == [1]
    with notes.engine.connect() as connection:
        connection.exec_driver_sql("RESET search_path")
        connection.commit()
    assert len(notes.entries()) == 1
