"""While a deployment rolls, a worker meets entries that it does not know: they are not its to judge."""

import json
import logging
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import (
    Listener,
    ListenerConfig,
    Message,
    PubSub,
    after_insert,
    after_update,
    on_message,
    publish,
)
from sqla_pubsub.deliver.handle import unknown
from tests.deliver.notes import DEADLINE, Notes, running
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver, pytest.mark.four_drivers, pytest.mark.either_driver]


ENTRY = (
    "INSERT INTO pubsub_outbox (listener, operation, source, key, new, format, due_at)"
    " VALUES ('handle', :operation, :source, CAST(:key AS jsonb), :new, :format, :due)"
)
KNOWN: dict[str, Any] = {"operation": "INSERT", "source": "note"}
NEWER: dict[str, dict[str, Any]] = {
    "an operation": {"operation": "DELETE", "source": "note"},
    "an operation of another release": {"operation": "MERGE", "source": "note"},
    "a table": {"operation": "INSERT", "source": "effect"},
    "a format": {"operation": "INSERT", "source": "note", "format": 99},
    "a message": {"operation": "MESSAGE", "source": "viewed"},
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "batch": {"batch": 5},
    "outside": {"transactional": False},
    "outside, ordered": {"transactional": False, "ordered": True},
}


def put(notes: Notes, content: str, *, key: int | None = None, due: bool = False, **columns: Any) -> None:
    notes.execute(
        ENTRY,
        **{"format": 1, "new": json.dumps({"id": 1, "content": content}), **columns},
        key=None if key is None else f"[{key}]",
        due="2020-01-01" if due else None,
    )


@pytest.fixture(params=KINDS)
def handled(request: pytest.FixtureRequest, notes: Notes) -> list[str]:
    """What listener ``handle`` of each kind was given."""
    seen: list[str] = []

    def handle(new: Any) -> None:
        seen.append(new.content)

    def handle_batch(events: Any) -> None:
        seen.extend(event.new.content for event in events)

    options = KINDS[request.param]
    after_insert(notes.Note, name="handle", **options)(handle_batch if "batch" in options else handle)
    notes.install()
    return seen


@pytest.mark.in_turn("due")
@pytest.mark.parametrize("newer", NEWER)
@pytest.mark.parametrize("due", [False, True])
def test_what_a_worker_does_not_know_is_left_alone(
    notes: Notes, handled: list[str], newer: str, due: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In front of what it knows, behind it, and among it; with one warning."""
    for number in range(30):
        put(notes, "strange", key=100 + number, due=due, **NEWER[newer])
        put(notes, str(number), key=number, **KNOWN)
    with caplog.at_level(logging.INFO):
        assert notes.drain() == 30
    assert sorted(handled, key=int) == list(map(str, range(30)))
    assert notes.dead() == []
    left = notes.entries()
    assert len(left) == 30
    assert {(entry.attempt, entry.crashes, entry.last_error) for entry in left} == {(0, 0, None)}
    assert all((entry.due_at is not None) == due for entry in left)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message.partition(":")[0] for record in warnings] == ["event.unknown"]
    assert "'handle'" in warnings[0].message
    assert NEWER[newer]["source"] in warnings[0].message


def test_what_is_left_alone_is_free_for_others_at_once(notes: Notes, handled: list[str]) -> None:
    put(notes, "strange", **NEWER["an operation"])
    with running(notes.listener()):
        put(notes, "known", **KNOWN)
        wait_until(lambda: handled == ["known"], DEADLINE, "the known one to be handled")
        free = "SELECT count(*) FROM (SELECT FROM pubsub_outbox FOR UPDATE SKIP LOCKED) AS free"
        wait_until(lambda: notes.scalar(free) == 1, DEADLINE, "the other one to be free")


@pytest.mark.plain_engine
def test_a_worker_beside_what_it_leaves_alone_does_not_spin(notes: Notes, handled: list[str]) -> None:
    for _ in range(50):
        put(notes, "strange", **NEWER["an operation"])
    sent: list[str] = []
    event.listen(notes.engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    with running(notes.listener(poll_interval=timedelta(seconds=1))):
        wait_until(lambda: len(sent) > 5, DEADLINE, "the listener to look")
        before = len(sent)
        threading.Event().wait(1.0)
        assert len(sent) - before < 60
    assert handled == []


def test_what_nobody_takes_in_its_time_is_a_dead_letter_with_the_reason(
    notes: Notes, handled: list[str]
) -> None:
    """So that it is seen at last, and can be tried again."""
    for number in range(30):
        put(notes, "strange", key=number, **NEWER["an operation" if number % 2 else "a format"])
    with running(notes.listener(unknown_grace=timedelta(milliseconds=300))):
        wait_until(lambda: len(notes.dead()) == 30, DEADLINE, "the entries to be given up")
    letters = notes.dead()
    assert {letter.attempt for letter in letters} == {1}
    reasons = {letter.id % 2: letter.reason for letter in letters}
    assert "has format 99, and this release reads up to 1. Upgrade sqla-pubsub" in reasons[1]
    assert "is DELETE of 'note', to which the listener does not subscribe" in reasons[0]
    assert handled == []


def test_an_entry_waits_its_own_time_and_not_that_of_its_kind(
    notes: Notes, handled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown, "EXAMINE_AGAIN", 0.1)
    put(notes, "old", **NEWER["an operation"])
    notes.execute("ALTER TABLE pubsub_outbox ALTER occurred_at SET DEFAULT now() + interval '1 hour'")
    put(notes, "young", **NEWER["an operation"])
    put(notes, "known", **KNOWN)
    with running(notes.listener(unknown_grace=timedelta(milliseconds=300))):
        wait_until(lambda: len(notes.dead()) == 1, DEADLINE, "the old one to be given up")
    assert [entry.id for entry in notes.entries()] == [2]
    assert handled == ["known"]


@pytest.mark.parametrize("transactional", [True, False])
def test_what_is_left_alone_holds_back_its_row(notes: Notes, transactional: bool) -> None:
    """In order, nothing of the row may be handled before it; other rows go on."""
    seen: list[str] = []

    @after_update(notes.Note, ordered=True, transactional=transactional)
    @after_insert(notes.Note, ordered=True, transactional=transactional)
    def handle(new: Any) -> None:
        seen.append(new.content)

    notes.install()
    for content, key in (("1a", 1), ("2a", 2)):
        put(notes, content, key=key, **KNOWN)
    put(notes, "1 strange", key=1, **NEWER["an operation"])
    for content, key in (("1b", 1), ("2b", 2), ("1c", 1), ("3a", 3), ("2c", 2)):
        put(notes, content, key=key, **KNOWN)
    assert notes.drain() == 5
    assert sorted(seen) == ["1a", "2a", "2b", "2c", "3a"]
    assert [content for content in seen if content[0] == "2"] == ["2a", "2b", "2c"]
    # A second worker, that has not met it yet.
    assert notes.drain() == 0
    assert [entry.id for entry in notes.entries()] == [3, 4, 6]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_thousand_of_them_do_not_hide_what_comes_behind(notes: Notes, ordered: bool) -> None:
    seen: list[str] = []

    @after_insert(notes.Note, ordered=ordered)
    def handle(new: Any) -> None:
        seen.append(new.content)

    notes.install()
    notes.execute(
        "INSERT INTO pubsub_outbox (listener, operation, source, key, new)"
        " SELECT 'handle', 'DELETE', 'note', jsonb_build_array(n), '{\"id\": 1}' FROM generate_series(1, 1000) AS n"
    )
    put(notes, "behind", key=5000, **KNOWN)
    assert notes.drain() == 1
    assert seen == ["behind"]
    assert len(notes.entries()) == 1000


class Items:
    """A program with a table ``item``, as an old release of it or as a new one."""

    def __init__(self, engine: Engine, *, table: str = "item", message: str = "viewed") -> None:
        class Base(DeclarativeBase):
            pass

        class Item(PubSub, Base):
            __tablename__ = table
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        class Viewed(Message, metadata=Base.metadata, name=message):
            name: str

        self.engine, self.Base, self.Item = engine, Base, Item
        self.Viewed: type[Any] = Viewed
        self.seen: list[str] = []

        def collect(new: Any) -> None:
            self.seen.append(new.name)

        after_insert(Item, name="collect")(collect)
        on_message(Viewed, name="hear")(collect)

    def install(self) -> None:
        self.Base.metadata.create_all(self.engine)

    def execute(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def drain(self) -> int:
        return Listener(self.engine, self.Base.metadata, ListenerConfig()).drain()


NOTE = (
    "CREATE TABLE note (id int, name text)",
    """INSERT INTO pubsub_outbox (listener, operation, source, new)
    VALUES ('collect', 'INSERT', 'note', '{"id": 1, "name": "a note"}')""",
)


def test_another_table_is_not_taken_for_a_renamed_one(engine: Engine) -> None:
    """The new release subscribed to one more; the old one has one candidate for all that it does not know."""
    items = Items(engine)
    items.install()
    items.execute(*NOTE, "INSERT INTO item (name) VALUES ('an item')")
    assert items.drain() == 1
    assert items.seen == ["an item"]


@pytest.mark.parametrize("schema", ["public", "apart"])
def test_nor_is_one_of_another_schema(engine: Engine, schema: str) -> None:
    items = Items(engine)
    items.install()
    items.execute(
        f"CREATE SCHEMA IF NOT EXISTS {schema}",
        f"CREATE TABLE {schema}.note (id int, name text)",
        "INSERT INTO pubsub_outbox (listener, operation, source, new)"
        f""" VALUES ('collect', 'INSERT', '{schema}.note', '{{"id": 1, "name": "a note"}}')""",
    )
    assert items.drain() == 0
    assert items.seen == []


def test_a_table_that_is_there_no_more_was_renamed(engine: Engine) -> None:
    old = Items(engine)
    old.install()
    old.execute("INSERT INTO item (name) VALUES ('waiting')", "ALTER TABLE item RENAME TO article")
    new = Items(engine, table="article")
    assert new.drain() == 1
    assert new.seen == ["waiting"]


def test_the_old_worker_leaves_the_entries_of_the_renamed_table(engine: Engine) -> None:
    """It has it by its old name, and the new one may read it better."""
    old = Items(engine)
    old.install()
    new = Items(engine, table="article")
    new.install()
    new.execute("DROP TABLE item", "INSERT INTO article (name) VALUES ('an article')")
    assert old.drain() == 0
    assert new.drain() == 1
    assert new.seen == ["an article"]


def test_a_table_that_comes_back_is_not_a_renamed_one_any_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not never: a claim goes on while it finds what is to be examined again.
    monkeypatch.setattr(unknown, "EXAMINE_AGAIN", 0.05)
    items = Items(engine)
    items.install()
    entry = NOTE[1]
    items.execute(entry)
    with running(Listener(engine, items.Base.metadata)):
        wait_until(lambda: items.seen == ["a note"], DEADLINE, "the entry to be handled")
        items.execute(NOTE[0])
        made = time.monotonic()
        wait_until(
            lambda: time.monotonic() > made + unknown.EXAMINE_AGAIN, DEADLINE, "it to be examined again"
        )
        items.execute(entry, "INSERT INTO item (name) VALUES ('an item')")
        wait_until(lambda: "an item" in items.seen, DEADLINE, "the item to be handled")
    assert items.seen == ["a note", "an item"]


def test_a_message_that_the_database_publishes_is_not_taken_for_another(engine: Engine) -> None:
    new = Items(engine, message="listed")
    new.install()
    with Session(engine) as session:
        publish(session, new.Viewed(name="a list"))
        session.commit()
    old = Items(engine)
    assert old.drain() == 0
    assert old.seen == []
    assert new.drain() == 1
    assert new.seen == ["a list"]


def test_a_message_that_the_database_knows_no_more_was_renamed(engine: Engine) -> None:
    old = Items(engine)
    old.install()
    with Session(engine) as session:
        publish(session, old.Viewed(name="waiting"))
        session.commit()
    old.execute("DROP FUNCTION pubsub_publish")
    new = Items(engine, message="listed")
    new.install()
    assert new.drain() == 1
    assert new.seen == ["waiting"]
