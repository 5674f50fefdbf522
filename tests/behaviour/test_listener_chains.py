"""A listener that writes what it listens to calls itself: the log says so, and a depth may end it."""

import json
import logging
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_pubsub import (
    ConfigurationError,
    ListenerConfig,
    Message,
    RetryPolicy,
    after_insert,
    after_update,
    on_message,
    publish,
    set_context,
)
from tests.deliver.notes import Notes

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True},
    "outside": {"transactional": False},
    "effects": {"effects": "database"},
}
AGAIN = text("UPDATE note SET content = content || '.' WHERE id = :id")


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_that_updates_its_own_row_ends_at_the_depth(
    notes: Notes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    @after_insert(notes.Note, **KINDS[kind])
    @after_update(notes.Note, of=[notes.Note.content], **KINDS[kind])
    def touch(new: Any, session: Session) -> None:
        session.execute(AGAIN, {"id": new.id})

    notes.write("a")
    with caplog.at_level(logging.WARNING):
        assert notes.drain(max_depth=20) == 22
    assert notes.scalar("SELECT content FROM note") == "a" + 21 * "."
    [letter] = notes.dead()
    assert "a chain of 21 handlers, and max_depth is 20: 'touch', and now 'touch'" in letter.reason
    [record] = [record for record in caplog.records if record.message.startswith("event.chained")]
    assert "'touch' came about by a chain of 10 handlers: 'touch'" in record.message


def test_without_a_depth_only_the_log_says_so(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    @after_update(notes.Note)
    def touch(new: Any, session: Session) -> None:
        if len(new.content) < 150:
            session.execute(AGAIN, {"id": new.id})

    notes.write("a")
    notes.execute(AGAIN.text, id=1)
    with caplog.at_level(logging.WARNING):
        assert notes.drain() == 149
    chained = [record for record in caplog.records if record.message.startswith("event.chained")]
    assert [record.__dict__["depth"] for record in chained] == [10, 100]
    assert notes.left() == 0


def test_listeners_that_call_one_another_are_all_named(notes: Notes) -> None:
    class Ping(Message, metadata=notes.metadata, name="ping"):
        number: int

    @after_update(notes.Note)
    def update(new: Any, session: Session) -> None:
        publish(session, Ping(number=new.id))

    @on_message(Ping)
    def answer(new: Ping, session: Session) -> None:
        session.execute(AGAIN, {"id": new.number})

    notes.write("a")
    notes.execute(AGAIN.text, id=1)
    notes.drain(max_depth=6)
    [letter] = notes.dead()
    assert "a chain of 7 handlers, and max_depth is 6: 'update', 'answer', and now 'answer'" in letter.reason


def test_objects_that_are_only_added_carry_the_chain_of_their_event(notes: Notes) -> None:
    """Written together at the end of a group, each in the chain of its own."""
    depths: list[tuple[str, int]] = []

    @after_insert(notes.Note)
    def grow(new: Any, session: Session) -> None:
        if len(new.content) < 4:
            session.add(notes.Note(content=new.content + new.content[0]))

    @after_insert(notes.Note)
    def watch(new: Any) -> None: ...

    notes.write("a", "bb", "c", "ddd")
    notes.drain("grow")
    for entry in notes.entries():
        context = entry.context or {}
        depths.append((str((entry.new or {})["content"]), context.get("sqla_pubsub.chain", [0])[0]))
    grown = {"a": 3, "bb": 2, "c": 3, "ddd": 1}
    assert sorted(depths) == sorted(
        (key + n * key[0], n) for key, most in grown.items() for n in range(most + 1)
    )


def test_a_batch_has_the_longest_chain_of_its_events_and_only_the_long_ones_die(notes: Notes) -> None:
    @after_insert(notes.Note, batch=10)
    def handle(events: list[Any], session: Session) -> None:
        for event in events:
            session.add(notes.effect("handle", event.new.content))

    notes.write("a", "b", "c")
    notes.execute("""UPDATE pubsub_outbox SET context = '{"sqla_pubsub.chain": [6, "x"]}' WHERE id = 2""")
    assert notes.drain(max_depth=5) == 3
    assert sorted(map(str, notes.effects("handle"))) == ["a", "c"]
    assert [letter.id for letter in notes.dead()] == [2]


def test_handlers_see_the_context_without_the_chain(notes: Notes) -> None:
    seen: list[Any] = []

    @after_insert(notes.Note)
    def first(new: Any, session: Session, context: Any) -> None:
        seen.append(("first", dict(context)))
        set_context(session, tenant=new.content)
        session.execute(AGAIN, {"id": new.id})

    @after_update(notes.Note)
    def second(event: Any, session: Session) -> None:
        seen.append(("second", dict(event.context)))
        session.add(notes.effect("second", None))

    @after_update(notes.Note)
    def failing(context: Any, session: Session) -> None:
        session.execute(text("SELECT 1/0"))

    notes.write("a", "b")
    notes.drain("first")
    notes.drain("second")
    assert seen == [("first", {}), ("first", {}), ("second", {"tenant": "a"}), ("second", {"tenant": "b"})]
    chains = [json.dumps(entry.context) for entry in notes.entries()]
    assert len(chains) == 2
    assert all('"sqla_pubsub.chain": [1, "first"]' in chain for chain in chains)


def test_an_event_that_was_undone_leaves_the_chain_to_the_next(notes: Notes) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def handle(new: Any, session: Session) -> None:
        set_context(session, of=new.content)
        session.execute(AGAIN, {"id": new.id})
        if new.content == "bad":
            raise ValueError

    @after_update(notes.Note)
    def updated() -> None: ...

    notes.write("a", "bad", "c", "bad", "e")
    notes.drain("handle")
    contexts = [entry.context for entry in notes.entries()]
    assert contexts == [{"of": of, "sqla_pubsub.chain": [1, "handle"]} for of in "ace"]


@pytest.mark.parametrize(
    "forged",
    [
        '"text"',
        "[1]",
        '{"sqla_pubsub.chain": "x"}',
        '{"sqla_pubsub.chain": [-1]}',
        '{"sqla_pubsub.chain": []}',
    ],
)
def test_a_context_that_somebody_else_wrote_fails_nothing(notes: Notes, forged: str) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session, context: Any) -> None:
        session.add(notes.effect("handle", json.dumps(context)))

    notes.write("a")
    notes.execute("UPDATE pubsub_outbox SET context = CAST(:forged AS json)", forged=forged)
    assert notes.drain(max_depth=3) == 1
    assert notes.effects("handle") == ["{}"]


def test_a_session_that_goes_back_to_its_pool_has_no_chain(notes: Notes) -> None:
    @after_insert(notes.Note, transactional=False)
    def handle(session: Session) -> None:
        session.execute(text("SELECT 1"))

    notes.write("a")
    assert notes.drain() == 1
    for _ in range(5):
        assert not notes.scalar("SELECT current_setting('sqla_pubsub.context', true)")


@pytest.mark.parametrize("value", [0, -1, True, "10", 1.5])
def test_a_depth_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_depth"):
        ListenerConfig(max_depth=value)
