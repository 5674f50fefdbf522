"""Looking for entries past those that were settled and that no vacuum may remove.

As long as an old transaction may still see them, they stay in the index. A worker need not read them each
time that it looks, and must not take an entry for settled whose transaction is still open.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from sqla_pubsub import RetryLater, after_insert, after_update
from sqla_pubsub.deliver.claim.cursor import CursorLimits
from sqla_pubsub.deliver.limits import Limits
from tests.behaviour.test_notifications import CHANNEL
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

HOUR = timedelta(hours=1)
SETTLED = 5_000
TRUSTING = Limits(cursor=CursorLimits(from_zero=3600.0))
"""Nothing mends a low-water mark that is too high."""
SURVEY_EVERY = TRUSTING.cursor.survey_every
READ = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE indexrelname LIKE 'pubsub_outbox_%'"


@pytest.fixture(params=[{}, {"ordered": True}, {"transactional": False}], ids=["plain", "ordered", "outside"])
def recording(notes: Notes, request: pytest.FixtureRequest) -> Notes:
    """Notes with a listener that records what it handles."""

    @after_insert(notes.Note, **request.param)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()
    return notes


@contextmanager
def old_transaction(notes: Notes) -> Iterator[Connection]:
    """Keep what is settled from being removed."""
    with notes.engine.connect().execution_options(isolation_level="REPEATABLE READ") as old:
        old.execute(text("SELECT FROM pubsub_outbox"))
        yield old


def handled(notes: Notes, content: str) -> None:
    """Write one note, and wait until it is handled."""
    notes.write(content)
    wait_until(lambda: content in notes.effects("record"), DEADLINE, f"{content} to be handled")


def read_for_ten_more(notes: Notes) -> int:
    """Return how many entries of the indexes are read for ten events more."""
    before = notes.scalar(READ)
    known = len(notes.effects("record"))
    for number in range(known, known + 10):
        handled(notes, f"note {number}")
    return int(notes.scalar(READ) - before)


def test_what_is_settled_is_not_read_for_each_event_while_vacuum_is_held_back(recording: Notes) -> None:
    """Else each event costs more than the one before it, until the worker does nothing else."""
    recording.execute(
        "INSERT INTO pubsub_outbox (listener, operation, source, key, new)"
        " SELECT 'record', 'INSERT', 'note', jsonb_build_array(n), json_build_object('id', n)"
        " FROM generate_series(1, :rows) AS n",
        rows=SETTLED,
    )
    # What is read is counted when a transaction has ended, not a second later.
    event.listen(recording.engine, "begin", lambda c: c.exec_driver_sql("SELECT pg_stat_force_next_flush()"))
    with old_transaction(recording):
        recording.execute("DELETE FROM pubsub_outbox")
        with running(recording.listener(limits=TRUSTING)):
            wait_until(lambda: read_for_ten_more(recording) < SETTLED, DEADLINE, "few entries to be read")


def test_in_order_the_settled_events_of_a_row_are_not_read_for_each_one_more(notes: Notes) -> None:
    """Although it is asked for each event what else of its row there is."""

    @after_update(notes.Note, ordered=True)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.write("draft")
    notes.execute(
        "INSERT INTO pubsub_outbox (listener, operation, source, key, new)"
        " SELECT 'record', 'UPDATE', 'note', '[1]', '{}' FROM generate_series(1, :rows)",
        rows=SETTLED,
    )
    event.listen(notes.engine, "begin", lambda c: c.exec_driver_sql("SELECT pg_stat_force_next_flush()"))

    def handle_one_more() -> None:
        known = len(notes.effects("record"))
        notes.execute("UPDATE note SET content = :content", content=f"version {known}")
        wait_until(lambda: len(notes.effects("record")) > known, DEADLINE, "the update to be handled")

    def read_for_ten() -> int:
        before = notes.scalar(READ)
        for _ in range(10):
            handle_one_more()
        return int(notes.scalar(READ) - before)

    with old_transaction(notes):
        notes.execute("DELETE FROM pubsub_outbox")
        with running(notes.listener(limits=TRUSTING)):
            wait_until(lambda: read_for_ten() < SETTLED, DEADLINE, "few entries to be read")


def test_in_order_a_retry_that_waits_holds_its_row_back_however_much_is_settled_after_it(
    notes: Notes,
) -> None:
    """It is the only one of its listener that is left from before."""
    failing = threading.Event()
    failing.set()

    @after_insert(notes.Note, ordered=True, name="record")
    @after_update(notes.Note, ordered=True, name="record")
    def record(new: Any, session: Session) -> None:
        if new.content == "first" and failing.is_set():
            raise RetryLater(after=HOUR)
        session.add(notes.effect("record", new.content))

    notes.install()
    with running(notes.listener(limits=TRUSTING)):
        notes.write("first")
        wait_until(
            lambda: [entry.attempt for entry in notes.entries()] == [1], DEADLINE, "the first one to fail"
        )
        for content in ("second", "third"):
            handled(notes, content)
            looked_again(notes)
        notes.execute("UPDATE note SET content = 'changed' WHERE content = 'first'")
        handled(notes, "fourth")
        looked_again(notes)
        handled(notes, "fifth")
        assert "changed" not in notes.effects("record")
        failing.clear()
        notes.execute("UPDATE pubsub_outbox SET due_at = now() WHERE due_at IS NOT NULL")
        wait_until(lambda: "changed" in notes.effects("record"), DEADLINE, "the row to go on")
    assert notes.effects("record") == ["second", "third", "fourth", "fifth", "first", "changed"]


@pytest.mark.parametrize("prepared", [False, True])
def test_an_entry_of_an_open_transaction_is_never_taken_for_settled(recording: Notes, prepared: bool) -> None:
    """However much is handled after it, and although those who look see nothing before it."""
    with recording.engine.connect() as late, running(recording.listener(limits=TRUSTING)):
        late.execute(text("SET LOCAL sqla_pubsub.notify = 'off'"))
        late.execute(text("INSERT INTO note (content) VALUES ('late')"))
        if prepared:
            late.execute(text("PREPARE TRANSACTION 'late'"))
        for content in ("first", "second", "third"):
            handled(recording, content)
            looked_again(recording)
        if prepared:
            # For SQLAlchemy it goes on; for the server this connection has none any more.
            late.rollback()
            with recording.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as second:
                second.execute(text("COMMIT PREPARED 'late'"))
        else:
            late.commit()
        wait_until(lambda: "late" in recording.effects("record"), DEADLINE, "the late one to be handled")
    assert sorted(map(str, recording.effects("record"))) == ["first", "late", "second", "third"]


def test_what_follows_in_a_row_and_was_claimed_later_proves_nothing_of_those_who_wrote_meanwhile(
    notes: Notes,
) -> None:
    """By then the claiming transaction has its id, and theirs are higher."""

    @after_insert(notes.Note, ordered=True, name="record")
    @after_update(notes.Note, ordered=True, name="record")
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()
    late = notes.engine.connect()

    def between(*arguments: Any) -> None:
        if "unbroken" in arguments[2] and not late.in_transaction():
            late.execute(text("SET LOCAL sqla_pubsub.notify = 'off'"))
            late.execute(text("INSERT INTO note (content) VALUES ('late')"))
            notes.execute("UPDATE note SET content = 'follower' WHERE content = 'head'")

    # However slowly the first ones are handled, there is room for followers then.
    with late, running(notes.listener(limits=TRUSTING, commit_every=timedelta(seconds=10))):
        # The first ones are claimed one by one, which leaves no room for followers.
        for content in ("first", "second", "third"):
            handled(notes, content)
            looked_again(notes)
        event.listen(notes.engine, "before_cursor_execute", between)
        handled(notes, "head")
        wait_until(lambda: "follower" in notes.effects("record"), DEADLINE, "the follower to be handled")
        looked_again(notes)
        notes.execute("UPDATE note SET content = 'again' WHERE content = 'follower'")
        wait_until(lambda: "again" in notes.effects("record"), DEADLINE, "one more to be handled")
        looked_again(notes)
        late.commit()
        wait_until(lambda: "late" in notes.effects("record"), DEADLINE, "the late one to be handled")
    assert notes.effects("record") == ["first", "second", "third", "head", "follower", "again", "late"]


def looked_again(notes: Notes) -> None:
    """Wait until the listener has looked back since it handled something."""
    began = notes.scalar("SELECT clock_timestamp()")
    after = "SELECT clock_timestamp() - :began > make_interval(secs => :pause)"
    wait_until(
        lambda: bool(notes.scalar(after, began=began, pause=2 * SURVEY_EVERY)), DEADLINE, "the next look"
    )


def test_ids_that_were_set_back_are_found(recording: Notes) -> None:
    """As by TRUNCATE .. RESTART IDENTITY in somebody's tests, beside a listener that goes on."""
    with running(recording.listener(limits=Limits(cursor=CursorLimits(from_zero=0.5)))):
        for content in ("first", "second", "third", "fourth", "fifth", "sixth"):
            handled(recording, content)
            looked_again(recording)
        with recording.engine.connect() as writer:
            # As long as it is open, no low-water mark can be raised anew.
            writer.execute(text("SELECT pg_current_xact_id()"))
            recording.execute("TRUNCATE pubsub_outbox RESTART IDENTITY")
            for content in ("first again", "second again", "third again"):
                handled(recording, content)
                # With nothing to be seen.
                recording.execute(f"SELECT pg_notify({CHANNEL}, '')")
                looked_again(recording)


@pytest.mark.parametrize("by", ["another worker", "this one"])
def test_what_is_adopted_from_an_earlier_name_may_have_any_id(notes: Notes, by: str) -> None:
    """Also where the listener has settled what came after it, and whoever adopted it."""

    @after_insert(notes.Note, previous_names=["chronicle"])
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()
    notes.execute(
        "INSERT INTO pubsub_outbox (listener, operation, source, new)"
        " VALUES ('another', 'INSERT', 'note', '{\"id\": 1, \"content\": \"old\"}')"
    )
    with running(notes.listener(limits=TRUSTING)):
        for content in ("first", "second", "third"):
            handled(notes, content)
            looked_again(notes)
        name = "record" if by == "another worker" else "chronicle"
        notes.execute("UPDATE pubsub_outbox SET listener = :name WHERE listener = 'another'", name=name)
        wait_until(lambda: "old" in notes.effects("record"), DEADLINE, "the old one to be handled")


def test_a_sleeper_looks_from_zero_now_and_then_and_not_each_time(notes: Notes) -> None:
    """It looks often while a writer with an open transaction keeps the sleep lock from it."""
    limits = Limits(cursor=CursorLimits(from_zero=1.0))
    low_waters: list[int] = []

    def note(*arguments: Any) -> None:
        if "pg_listening_channels" in arguments[2]:
            given = arguments[3]["low_waters"]
            low_waters.extend(given)

    @after_insert(notes.Note)
    def record(new: Any, session: Session) -> None:
        session.add(notes.effect("record", new.content))

    notes.install()
    event.listen(notes.engine, "before_cursor_execute", note)
    with running(notes.listener(limits=limits, poll_interval=timedelta(milliseconds=20))):
        for content in ("first", "second", "third"):
            handled(notes, content)
            looked_again(notes)
        del low_waters[:]
        wait_until(lambda: low_waters.count(0) >= 2 and len(low_waters) > 20, DEADLINE, "the sleeper to look")
    assert low_waters.count(0) < len(low_waters) / 4
