"""Several events in one transaction: how many, and what happens when one of them spoils it."""

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from sqla_pubsub import Insert, RetryPolicy, Update, after_delete, after_insert, after_update
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
LONG = timedelta(seconds=20)
NEXT_TO_NOTHING = timedelta(microseconds=1)
"""Beside which every handler is slow."""


def transaction_of(session: Session) -> str:
    return str(session.scalar(text("SELECT pg_current_xact_id()")))


def test_fast_handlers_share_a_commit(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", transaction_of(session)))

    notes.write(*map(str, range(120)))
    assert notes.drain(commit_every=LONG) == 120
    assert len(set(notes.effects("handle"))) < 12


def test_a_slow_handler_has_its_own_transaction(notes: Notes) -> None:
    """A crash repeats at most the outside work since the last commit."""

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", transaction_of(session)))

    notes.write(*map(str, range(8)))
    assert notes.drain(commit_every=NEXT_TO_NOTHING) == 8
    assert len(set(notes.effects("handle"))) == 8


def test_a_transaction_ends_when_its_time_is_spent_and_not_when_its_events_are(notes: Notes) -> None:
    """A handler that turns slow within a group does not keep what was handled before it waiting."""
    slow, go_on = threading.Event(), threading.Event()

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        if new.content == "20":
            threading.Event().wait(0.15)
        if new.content == "21":
            slow.set()
            assert go_on.wait(DEADLINE)

    notes.write(*map(str, range(30)))
    with running(notes.listener(commit_every=timedelta(milliseconds=100))):
        assert slow.wait(DEADLINE)
        assert notes.effects("handle") == [str(number) for number in range(21)]
        go_on.set()
        wait_until(lambda: notes.left() == 0, DEADLINE, "the rest")


def test_a_listener_claims_one_event_first_and_more_when_it_is_known_to_be_fast(notes: Notes) -> None:
    claimed: list[int] = []
    others = "SELECT count(*) FROM (SELECT FROM pubsub_outbox FOR UPDATE SKIP LOCKED) AS free"

    @after_insert(notes.Note)
    def handle() -> None:
        claimed.append(int(notes.scalar(others)))

    notes.write(*map(str, range(100)))
    notes.drain(commit_every=LONG)
    assert claimed[0] == 99
    assert min(claimed[1:50]) < 90


def test_a_listener_with_a_slow_handler_leaves_the_backlog_to_others(notes: Notes) -> None:
    free: list[int] = []
    others = "SELECT count(*) FROM (SELECT FROM pubsub_outbox FOR UPDATE SKIP LOCKED) AS free"

    @after_insert(notes.Note)
    def handle() -> None:
        free.append(int(notes.scalar(others)))

    notes.write(*map(str, range(10)))
    notes.drain(commit_every=NEXT_TO_NOTHING)
    assert free == list(range(9, -1, -1))


def test_the_claim_size_is_bounded_by_the_setting(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", transaction_of(session)))

    notes.write(*map(str, range(40)))
    notes.drain(claim_size=4, commit_every=LONG)
    assert max(Counter(notes.effects("handle")).values()) <= 4


def test_no_transaction_has_more_than_fifty_events_with_savepoints(notes: Notes) -> None:
    """Beyond 64 subtransactions the snapshots of every backend slow down."""

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        session.add(notes.effect("handle", transaction_of(session)))

    notes.write(*map(str, range(200)))
    notes.drain(commit_every=LONG)
    assert max(Counter(notes.effects("handle")).values()) <= 50


def test_a_failing_event_does_not_end_the_group(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", transaction_of(session)))
        if int(new.content) % 10 == 5:
            session.execute(text("SELECT 1 / 0"))

    notes.write(*map(str, range(100)))
    assert notes.drain(commit_every=LONG) == 100
    assert len(notes.effects("handle")) == 90
    assert len(set(notes.effects("handle"))) < 12
    assert len(notes.dead()) == 10


@pytest.fixture
def deferred(notes: Notes) -> Notes:
    """Effects that refuse "bad" at COMMIT only."""
    notes.install()
    notes.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.what = 'bad' THEN RAISE EXCEPTION 'refused at commit'; END IF; RETURN NULL; END $$"
    )
    notes.execute(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON effect DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    return notes


@pytest.mark.parametrize("effects", ["any", "database"])
def test_when_the_commit_fails_only_the_guilty_event_is_counted(deferred: Notes, effects: Any) -> None:
    notes = deferred
    attempts: Counter[str] = Counter()

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=2, initial=timedelta(0)), effects=effects)
    def handle(new: Any, event: Insert[Any], session: Session) -> None:
        attempts[new.content] = event.attempt
        session.add(notes.effect("handle", new.content))

    contents = [str(number) for number in range(20)]
    notes.write(*contents[:10], "bad", *contents[10:])
    assert notes.drain(commit_every=LONG) == 22
    assert sorted(map(str, notes.effects("handle"))) == sorted(contents)
    assert attempts.pop("bad") == 2
    assert set(attempts.values()) == {1}
    (letter,) = notes.dead()
    assert "refused at commit" in letter.reason


def test_effects_in_the_database_alone_need_no_savepoint(notes: Notes) -> None:
    statements: list[str] = []

    @after_insert(notes.Note, effects="database")
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()

    notes.write(*map(str, range(30)))
    event.listen(notes.engine, "savepoint", lambda *_: statements.append("savepoint"))
    assert notes.drain(commit_every=LONG) == 30
    assert len(notes.effects("handle")) == 30
    assert statements == []


def test_a_failing_event_without_a_savepoint_is_counted_alone_and_with_its_own_error(notes: Notes) -> None:
    attempts: Counter[str] = Counter()

    @after_insert(notes.Note, effects="database", retry=RetryPolicy(max_attempts=2, initial=timedelta(0)))
    def handle(new: Any, event: Insert[Any], session: Session) -> None:
        attempts[new.content] = event.attempt
        session.add(notes.effect("handle" if new.content != "bad" else None, new.content))  # type: ignore[arg-type]
        session.flush()

    contents = [str(number) for number in range(20)]
    notes.write(*contents[:10], "bad", *contents[10:])
    assert notes.drain(commit_every=LONG) == 22
    assert sorted(map(str, notes.effects("handle"))) == sorted(contents)
    assert attempts.pop("bad") == 2
    assert set(attempts.values()) == {1}
    (letter,) = notes.dead()
    assert letter.reason.startswith("IntegrityError")


def test_a_batch_handler_gets_many_events_in_one_transaction(notes: Notes) -> None:
    sizes: list[int] = []

    @after_insert(notes.Note, batch=20)
    def handle(events: list[Insert[Any]], session: Session) -> None:
        sizes.append(len(events))
        transaction = transaction_of(session)
        session.add_all(notes.effect("handle", f"{e.new.content} in {transaction}") for e in events)

    notes.write(*map(str, range(50)))
    assert notes.drain() == 50
    assert sizes == [20, 20, 10]
    assert len({str(what).split()[-1] for what in notes.effects("handle")}) == 3


def test_a_failing_batch_is_replayed_one_by_one_and_only_the_bad_event_is_counted(notes: Notes) -> None:
    sizes: list[int] = []

    @after_insert(notes.Note, batch=10, retry=ONCE)
    def handle(events: list[Insert[Any]], session: Session) -> None:
        sizes.append(len(events))
        for each in events:
            session.add(notes.effect("handle", each.new.content))
            session.flush()
            if each.new.content == "bad":
                raise ValueError("bad content")

    notes.write("a", "b", "bad", "c")
    assert notes.drain() == 4
    assert notes.effects("handle") == ["a", "b", "c"]
    assert sizes == [4, 1, 1, 1, 1]
    assert [(letter.id, letter.reason) for letter in notes.dead()] == [(3, "ValueError: bad content")]


def test_a_batch_with_a_swallowed_database_error_is_replayed_too(notes: Notes) -> None:
    @after_insert(notes.Note, batch=10, retry=ONCE)
    def handle(events: list[Insert[Any]], session: Session) -> None:
        for each in events:
            session.add(notes.effect("handle", each.new.content))
            if each.new.content == "bad":
                try:
                    session.execute(text("SELECT 1 / 0"))
                except Exception:
                    return

    notes.write("a", "b", "bad", "c")
    assert notes.drain() == 4
    assert notes.effects("handle") == ["a", "b", "c"]
    assert [letter.id for letter in notes.dead()] == [3]


def test_in_a_batch_every_event_has_its_own_state_of_the_row(notes: Notes) -> None:
    seen: list[Any] = []

    @after_insert(notes.Note, batch=10)
    @after_update(notes.Note, batch=10)
    @after_delete(notes.Note, batch=10)
    def handle(events: list[Any], session: Session) -> None:
        seen.extend((e.old and e.old.content, e.new and e.new.content) for e in events)
        # Only the last event of a row is attached: the identity map holds one object of it.
        assert session.get(notes.Note, 1) is events[-1].old

    notes.write("a")
    notes.execute("UPDATE note SET content = 'b'")
    notes.execute("UPDATE note SET content = 'c'")
    notes.execute("DELETE FROM note")
    assert notes.drain() == 4
    assert seen == [(None, "a"), ("a", "b"), ("b", "c"), ("c", None)]


def test_an_unreadable_entry_in_a_batch_is_found_and_the_others_are_handled(notes: Notes) -> None:
    @after_insert(notes.Note, batch=10)
    def handle(events: list[Insert[Any]], session: Session) -> None:
        session.add_all(notes.effect("handle", each.new.content) for each in events)

    notes.write("a", "b", "c")
    notes.execute("UPDATE pubsub_outbox SET new = '[]' WHERE id = 2")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "c"]
    assert [letter.id for letter in notes.dead()] == [2]


@pytest.mark.parametrize("waiting", [False, True])
def test_an_entry_that_killed_a_process_before_runs_alone_and_is_not_forgotten(
    notes: Notes, waiting: bool
) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", f"{new.content} in {transaction_of(session)}"))

    notes.write("a", "b", "c", "d")
    notes.execute("UPDATE pubsub_outbox SET crashes = 1 WHERE id IN (2, 4)")
    if waiting:
        notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp()")
    assert notes.drain(commit_every=LONG) == 4
    transactions = {str(what)[0]: str(what)[5:] for what in notes.effects("handle")}
    count = Counter(transactions.values())
    assert sorted(transactions) == ["a", "b", "c", "d"]
    assert count[transactions["b"]] == count[transactions["d"]] == 1


def test_nothing_but_entries_that_killed_a_process_is_drained_too(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    notes.execute("UPDATE pubsub_outbox SET crashes = 1")
    assert notes.drain() == 1
    assert notes.effects("handle") == ["a"]


def test_an_event_replayed_by_one_worker_keeps_the_delay_that_another_gave_it(notes: Notes) -> None:
    """What is waiting for its retry is not tried early because it once stood in a failing group."""
    tries: list[str] = []

    @after_insert(notes.Note, batch=3, retry=RetryPolicy(initial=timedelta(hours=1), jitter=False))
    def handle(events: list[Insert[Any]]) -> None:
        tries.append(" ".join(each.new.content for each in events))
        if len(events) == 1 and events[0].new.content == "a":
            notes.execute(
                "UPDATE pubsub_outbox SET due_at = clock_timestamp() + interval '1 hour' WHERE id = 3"
            )
        if len(events) > 1:
            raise ValueError

    notes.write("a", "b", "c")
    assert notes.drain() == 2
    assert tries == ["a b c", "a", "b"]


def test_updates_of_one_row_arrive_with_the_states_they_had(notes: Notes) -> None:
    seen: list[tuple[str, str]] = []

    @after_update(notes.Note)
    def handle(event: Update[Any]) -> None:
        seen.append((event.old.content, event.new.content))

    notes.write("0")
    for number in range(1, 6):
        notes.execute("UPDATE note SET content = :content", content=str(number))
    assert notes.drain(commit_every=LONG) == 5
    assert seen == [(str(n), str(n + 1)) for n in range(5)]
