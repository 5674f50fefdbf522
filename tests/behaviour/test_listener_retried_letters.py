"""In order, a dead letter that came back is handled before or after the later events of its row, never beside one."""

import threading
from typing import Any

import pytest
from sqlalchemy import create_engine

from sqla_pubsub import Listener, ListenerConfig, Reject, after_truncate, after_update
from sqla_pubsub.deliver.handle.surroundings import Surroundings
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.run.work_connection import WorkConnection
from sqla_pubsub.operate.admin import Admin, Letters
from sqla_pubsub.registry import registry_of
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.either_driver

both_ways = pytest.mark.parametrize("transactional", [True, False])


class Handler:
    """Refuses what says "bad" until told otherwise, and keeps "held" in hand until it may go on."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.failing = True
        self.held = "later"
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.ended: list[str] = []

    def __call__(self, new: Any) -> None:
        content = "truncate" if new is None else new.content
        if self.failing and content in ("bad", "truncate"):
            raise Reject("not yet")
        if content == self.held:
            self.begun.set()
            assert self.go_on.wait(DEADLINE)
        self.ended.append(content)

    def retry_letters(self) -> None:
        """Put the dead letters back, which are good from now on."""
        self.failing = False
        assert Admin(self.notes.engine, self.notes.metadata).retry(Letters()) > 0

    def drain(self) -> int:
        """Work as another process would, with connections of its own."""
        engine = create_engine(self.notes.engine.url)
        try:
            return Listener(engine, self.notes.metadata).drain()
        finally:
            engine.dispose()


def declared(notes: Notes, transactional: bool) -> Handler:
    handler = Handler(notes)

    @after_update(notes.Note, ordered=True, transactional=transactional, name="handle")
    def handle(new: Any) -> None:
        handler(new)

    notes.write("a", "a")
    return handler


def update(notes: Notes, *contents: str) -> None:
    for content in contents:
        notes.execute("UPDATE note SET content = :content WHERE id = 1", content=content)


@both_ways
def test_a_letter_that_comes_back_waits_for_the_later_event_in_hand(
    notes: Notes, transactional: bool
) -> None:
    handler = declared(notes, transactional)
    update(notes, "bad")
    handler.drain()
    update(notes, "later", "last")
    with running(notes.listener()):
        assert handler.begun.wait(DEADLINE)
        handler.retry_letters()
        assert handler.drain() == 0
        assert handler.ended == []
        handler.go_on.set()
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")
    assert sorted(handler.ended) == ["bad", "last", "later"]
    assert handler.ended.index("later") < handler.ended.index("last")


@both_ways
def test_other_rows_go_on_while_a_letter_waits(notes: Notes, transactional: bool) -> None:
    handler = declared(notes, transactional)
    update(notes, "bad")
    handler.drain()
    update(notes, "later")
    with running(notes.listener()):
        assert handler.begun.wait(DEADLINE)
        handler.retry_letters()
        notes.execute("UPDATE note SET content = 'other' WHERE id = 2")
        assert handler.drain() == 1
        assert handler.ended == ["other"]
        handler.go_on.set()
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")


@both_ways
def test_no_later_event_is_taken_beside_a_letter_that_came_back(notes: Notes, transactional: bool) -> None:
    handler = declared(notes, transactional)
    update(notes, "bad")
    handler.drain()
    update(notes, "later", "last")
    handler.held = "bad"
    handler.retry_letters()
    with running(notes.listener()):
        assert handler.begun.wait(DEADLINE)
        assert handler.drain() == 0
        update(notes, "new")
        assert handler.drain() == 0
        handler.go_on.set()
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")
    assert handler.ended == ["bad", "later", "last", "new"]


def test_who_looked_before_a_letter_came_back_does_not_get_the_next_of_its_row(notes: Notes) -> None:
    """A claim finds what it takes in one snapshot and locks it a moment later."""
    handler = declared(notes, transactional=True)
    update(notes, "bad")
    handler.drain()
    update(notes, "later", "last")
    handler.held = "bad"
    found = [entry.id for entry in notes.entries()]
    handler.retry_letters()
    free = "SELECT array_agg(id) FROM (SELECT id FROM pubsub_outbox WHERE id = ANY(:ids) FOR UPDATE SKIP LOCKED) AS e"
    with running(notes.listener()):
        assert handler.begun.wait(DEADLINE)
        assert notes.scalar(free, ids=found[:1]) is None
        handler.go_on.set()
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")


def test_a_worker_whose_mark_is_above_a_letter_that_came_back_sees_it(notes: Notes) -> None:
    """It looks below its mark only now and then."""
    handler = declared(notes, transactional=True)
    update(notes, "bad")
    handler.drain()
    handler.retry_letters()
    update(notes, "new")
    registry = registry_of(notes.metadata)
    spec = registry.listeners["handle"]
    work = WorkConnection(notes.engine, registry.outbox, ListenerConfig(), Instrument())
    store = Store(work, Instrument(), Surroundings())
    try:
        with store.connection.begin():
            letter, new = (entry.id for entry in notes.entries())
            ready = store.claims.ready(spec, start=new, low_water=new, size=10)
            assert ready == []
            assert [entry.id for entry in store.claims.due(spec, size=10)] == [letter]
    finally:
        store.close()


@both_ways
def test_a_letter_waits_for_the_event_that_moves_its_row_to_another_key(
    notes: Notes, transactional: bool
) -> None:
    handler = declared(notes, transactional)
    update(notes, "bad")
    handler.drain()
    notes.execute("UPDATE note SET id = 3, content = 'later' WHERE id = 1")
    with running(notes.listener()):
        assert handler.begun.wait(DEADLINE)
        handler.retry_letters()
        assert handler.drain() == 0
        handler.go_on.set()
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")
    assert sorted(handler.ended) == ["bad", "later"]


@both_ways
def test_a_letter_that_moved_its_row_waits_for_events_of_both_keys(notes: Notes, transactional: bool) -> None:
    handler = declared(notes, transactional)
    notes.execute("UPDATE note SET id = 3, content = 'bad' WHERE id = 1")
    handler.drain()
    notes.execute("INSERT INTO note (id, content) VALUES (1, 'again')")
    update(notes, "later")
    with running(notes.listener()):
        assert handler.begun.wait(DEADLINE)
        handler.retry_letters()
        assert handler.drain() == 0
        handler.go_on.set()
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")
    assert sorted(handler.ended) == ["bad", "later"]


@both_ways
def test_a_truncate_that_comes_back_waits_for_all_that_is_in_hand(notes: Notes, transactional: bool) -> None:
    handler = Handler(notes)

    @after_update(notes.Note, ordered=True, transactional=transactional, name="handle")
    @after_truncate(notes.Note, ordered=True, transactional=transactional, name="handle")
    def handle(event: Any) -> None:
        handler(getattr(event, "new", None))

    notes.write("a", "a")
    notes.execute("TRUNCATE note")
    handler.drain()
    notes.write("a", "a")
    notes.execute("UPDATE note SET content = 'later' WHERE id = (SELECT min(id) FROM note)")
    with running(notes.listener()):
        assert handler.begun.wait(DEADLINE)
        handler.retry_letters()
        assert handler.drain() == 0
        handler.go_on.set()
        wait_until(lambda: not notes.left(), DEADLINE, "all to be handled")
    assert sorted(handler.ended) == ["later", "truncate"]
