"""``ordered=True``: the events of one row one at a time and in commit order; other rows in parallel."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import DateTime, create_engine, insert, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from sqla_pubsub import (
    Listener,
    ListenerConfig,
    PubSub,
    Reject,
    RetryPolicy,
    Update,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
)
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

SOON = RetryPolicy(initial=timedelta(milliseconds=30), jitter=False)
HOUR = RetryPolicy(initial=timedelta(hours=1), jitter=False)


@contextmanager
def workers(notes: Notes, count: int) -> Iterator[None]:
    """Run several listeners at once, each with connections of its own."""
    engines = [create_engine(notes.engine.url) for _ in range(count)]
    with running(*(Listener(engine, notes.metadata) for engine in engines)):
        yield
    for engine in engines:
        engine.dispose()


def test_events_of_a_row_keep_their_order_across_workers_and_retries(notes: Notes) -> None:
    in_hand: dict[int, int] = defaultdict(int)
    together: list[int] = []

    @after_update(notes.Note, ordered=True, retry=SOON)
    def handle(event: Update[Any], session: Session) -> None:
        note = event.new
        in_hand[note.id] += 1
        together.append(in_hand[note.id])
        try:
            if int(note.content) % 7 == 3 and event.attempt == 1:
                raise ValueError("once more")
            session.add(notes.effect(f"row {note.id}", note.content))
        finally:
            in_hand[note.id] -= 1

    notes.write(*["0"] * 5)
    for number in range(1, 13):
        notes.execute("UPDATE note SET content = :content", content=str(number))
    with workers(notes, 3):
        wait_until(lambda: notes.left() == 0, DEADLINE, "an empty outbox")
    for row in range(1, 6):
        assert notes.effects(f"row {row}") == [str(number) for number in range(1, 13)]
    assert set(together) == {1}


def test_batches_keep_the_order_of_each_row_across_workers_and_retries(notes: Notes) -> None:
    @after_update(notes.Note, ordered=True, batch=8, retry=SOON)
    def handle(events: list[Update[Any]], session: Session) -> None:
        for event in events:
            if int(event.new.content) % 7 == 3 and event.attempt == 1:
                raise ValueError("once more")
        session.execute(
            insert(notes.Effect),
            [{"listener": f"row {event.new.id}", "what": event.new.content} for event in events],
        )

    notes.write(*["0"] * 5)
    for number in range(1, 13):
        notes.execute("UPDATE note SET content = :content", content=str(number))
    with workers(notes, 3):
        wait_until(lambda: notes.left() == 0, DEADLINE, "an empty outbox")
    for row in range(1, 6):
        assert notes.effects(f"row {row}") == [str(number) for number in range(1, 13)]


def test_a_batch_in_order_that_fails_ends_each_of_its_events_by_itself(notes: Notes) -> None:
    @after_update(notes.Note, ordered=True, batch=10, retry=HOUR)
    def handle(events: list[Update[Any]], session: Session) -> None:
        for event in events:
            if event.new.content == "bad":
                raise ValueError
            session.add(notes.effect("handle", f"{event.new.id} {event.new.content}"))

    notes.write("a", "a")
    for content in ("good", "bad", "next"):
        notes.execute("UPDATE note SET content = :content WHERE id = 1", content=content)
    notes.execute("UPDATE note SET content = 'b' WHERE id = 2")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["1 good", "2 b"]
    assert [(entry.id, entry.attempt) for entry in notes.entries()] == [(2, 1), (3, 0)]


def test_an_event_that_waits_for_its_retry_holds_back_its_row_and_no_other(notes: Notes) -> None:
    @after_update(notes.Note, ordered=True, retry=HOUR)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise ValueError
        session.add(notes.effect("handle", f"{new.id} {new.content}"))

    notes.write("a", "a")
    for content in ("bad", "next"):
        notes.execute("UPDATE note SET content = :content WHERE id = 1", content=content)
    notes.execute("UPDATE note SET content = 'b' WHERE id = 2")
    assert notes.drain() == 2
    assert notes.effects("handle") == ["2 b"]
    assert [(entry.id, entry.attempt) for entry in notes.entries()] == [(1, 1), (2, 0)]
    notes.execute(
        'UPDATE pubsub_outbox SET due_at = clock_timestamp(), new = new::jsonb || \'{"content": "good"}\''
    )
    assert notes.drain() == 2
    assert notes.effects("handle") == ["2 b", "1 good", "1 good"]


def test_a_dead_letter_holds_nothing_back(notes: Notes) -> None:
    @after_update(notes.Note, ordered=True)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise Reject("never")
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    for content in ("bad", "next"):
        notes.execute("UPDATE note SET content = :content", content=content)
    assert notes.drain() == 2
    assert notes.effects("handle") == ["next"]


def test_the_event_in_hand_of_one_worker_holds_back_its_row_for_another(notes: Notes) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @after_update(notes.Note, ordered=True)
    def handle(new: Any, session: Session) -> None:
        if new.content == "first":
            begun.set()
            assert go_on.wait(DEADLINE)
        session.add(notes.effect("handle", new.content))

    notes.write("a", "a")
    notes.execute("UPDATE note SET content = 'first' WHERE id = 1")
    notes.execute("UPDATE note SET content = 'second' WHERE id = 1")
    notes.execute("UPDATE note SET content = 'other' WHERE id = 2")
    with workers(notes, 2):
        assert begun.wait(DEADLINE)
        wait_until(lambda: notes.effects("handle") == ["other"], DEADLINE, "the other row to be handled")
        go_on.set()
        wait_until(lambda: notes.left() == 0, DEADLINE, "an empty outbox")
    assert notes.effects("handle") == ["other", "first", "second"]


@pytest.mark.parametrize("transactional", [True, False])
def test_a_primary_key_change_keeps_the_order_of_both_keys(notes: Notes, transactional: bool) -> None:
    @after_update(notes.Note, ordered=True, retry=HOUR, transactional=transactional)
    @after_delete(notes.Note, ordered=True, retry=HOUR, transactional=transactional)
    @after_insert(notes.Note, ordered=True, retry=HOUR, transactional=transactional)
    def handle(event: Any, session: Session) -> None:
        if event.new is not None and event.new.content == "bad" and event.attempt == 1:
            raise ValueError
        session.add(notes.effect("handle", type(event).__name__))

    notes.install()
    notes.execute("INSERT INTO note (id, content) VALUES (1, 'bad')")
    notes.execute("UPDATE note SET id = 2, content = 'moved'")
    notes.execute("DELETE FROM note WHERE id = 2")
    notes.execute("INSERT INTO note (id, content) VALUES (1, 'again')")
    assert notes.drain() == 1
    assert notes.effects("handle") == []
    notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    assert notes.drain() == 4
    effects = notes.effects("handle")
    assert effects[:2] == ["Insert", "Update"]
    assert sorted(map(str, effects[2:])) == ["Delete", "Insert"]


def test_a_truncate_waits_for_what_came_before_and_holds_back_what_comes_after(notes: Notes) -> None:
    @after_insert(notes.Note, ordered=True, retry=HOUR)
    @after_truncate(notes.Note, ordered=True, retry=HOUR)
    def handle(event: Any, session: Session) -> None:
        if event.new is not None and event.new.content == "bad" and event.attempt == 1:
            raise ValueError
        session.add(notes.effect("handle", type(event).__name__))

    notes.write("bad", "good")
    notes.execute("TRUNCATE note")
    notes.execute("INSERT INTO note (content) VALUES ('after')")
    assert notes.drain() == 2
    assert notes.effects("handle") == ["Insert"]
    notes.execute("UPDATE pubsub_outbox SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["Insert", "Insert", "Truncate", "Insert"]


def test_a_listener_without_the_promise_goes_on_with_the_row(notes: Notes) -> None:
    @after_update(notes.Note, retry=HOUR)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise ValueError
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    for content in ("bad", "next"):
        notes.execute("UPDATE note SET content = :content", content=content)
    assert notes.drain() == 2
    assert notes.effects("handle") == ["next"]


def test_a_retry_is_made_when_it_is_due_although_its_successors_look_ready(notes: Notes) -> None:
    """They are claimed by nobody, and a listener that kept asking for them would not look at the clock."""

    @after_update(
        notes.Note, ordered=True, retry=RetryPolicy(initial=timedelta(milliseconds=300), jitter=False)
    )
    def handle(new: Any, event: Update[Any], session: Session) -> None:
        if new.content == "bad" and event.attempt == 1:
            raise ValueError
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    for content in ("bad", "next", "last"):
        notes.execute("UPDATE note SET content = :content", content=content)
    # No poll would find it before an hour is over.
    with running(Listener(notes.engine, notes.metadata, ListenerConfig(poll_interval=timedelta(hours=1)))):
        wait_until(lambda: notes.left() == 0, DEADLINE, "an empty outbox")
    assert notes.effects("handle") == ["bad", "next", "last"]


def test_writers_in_two_time_zones_write_one_row_in_one_order(notes: Notes) -> None:
    """The key of a row is a time, which each of them shows in a zone of its own."""

    class Reading(PubSub, notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "reading"
        at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
        value: Mapped[str]

    @after_update(Reading, ordered=True, retry=HOUR)
    def handle(new: Any, session: Session) -> None:
        if new.value == "bad":
            raise ValueError
        session.add(notes.effect("handle", new.value))

    notes.install()
    notes.execute("INSERT INTO reading VALUES ('2024-01-01 00:00+00', '')")
    for zone, value in (("Europe/Berlin", "bad"), ("Asia/Tokyo", "next")):
        notes.execute(
            "WITH here AS MATERIALIZED (SELECT set_config('TimeZone', :zone, true))"
            " UPDATE reading SET value = :value FROM here",
            zone=zone,
            value=value,
        )
    assert notes.drain() == 1
    assert notes.effects("handle") == []


def test_entries_from_before_the_promise_hold_nothing_back(notes: Notes) -> None:
    """They were written without a key, so nobody knows their rows."""

    @after_insert(notes.Note, ordered=True, retry=HOUR)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise ValueError
        session.add(notes.effect("handle", new.content))

    notes.write("bad", "a", "b")
    notes.execute("UPDATE pubsub_outbox SET key = NULL, old_key = NULL")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]


def test_a_renamed_listener_waits_for_what_an_old_worker_has_in_hand(notes: Notes) -> None:
    @after_update(notes.Note, ordered=True, previous_names=["count"])
    def tally(new: Any, session: Session) -> None:
        session.add(notes.effect("tally", new.content))

    notes.write("a", "a")
    notes.execute("UPDATE note SET content = 'b' WHERE id = 1")
    notes.execute("UPDATE note SET content = 'c' WHERE id = 1")
    notes.execute("UPDATE note SET content = 'other' WHERE id = 2")
    notes.execute("UPDATE pubsub_outbox SET listener = 'count'")
    with notes.engine.connect() as old_worker:
        old_worker.execute(text("SELECT FROM pubsub_outbox WHERE id = 1 FOR UPDATE"))
        assert notes.drain() == 1
        assert notes.effects("tally") == ["other"]
    assert notes.drain() == 2
    assert notes.effects("tally") == ["other", "b", "c"]
