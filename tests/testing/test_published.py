"""`published` and its assertions: what a transaction has published, and why something was not."""

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from sqla_pubsub import (
    Delete,
    Insert,
    Message,
    Update,
    after_delete,
    after_insert,
    after_update,
    on_message,
    publish,
    set_context,
)
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing import (
    assert_not_published,
    assert_published,
    assert_published_once,
    drain,
    published,
    spy,
)
from tests.deliver.notes import Notes
from tests.testing.conftest import awaited_session

pytestmark = pytest.mark.one_driver


@pytest.fixture
def listened(notes: Notes) -> Notes:
    """Notes with listeners of every operation, two of them for inserts."""
    for name in ("one", "two"):
        after_insert(notes.Note, name=name)(lambda new: None)
    after_update(notes.Note, of=[notes.Note.content], name="three")(lambda new: None)
    after_delete(notes.Note, name="four")(lambda old: None)
    notes.install()
    return notes


def test_events_are_found_decoded_and_each_once(listened: Notes, session: Session) -> None:
    note = listened.Note(content="a")
    session.add_all([note, listened.Note(content="b"), listened.Note(content="b")])
    session.flush()
    set_context(session, tenant="t")
    note.content = "c"
    session.flush()
    session.delete(note)
    events = published(session, listened.Note)
    assert [(type(event), (event.new or event.old).content) for event in events] == [
        (Insert, "a"),
        (Insert, "b"),
        (Insert, "b"),
        (Update, "c"),
        (Delete, "c"),
    ]
    [update] = published(session, listened.Note, op="update")
    assert (update.old.content, update.changed, update.context) == ("a", ("content",), {"tenant": "t"})
    assert (update.listener, update.attempt) == ("three", 1)


def test_they_are_still_known_after_they_were_handled(listened: Notes, session: Session) -> None:
    session.add(listened.Note(content="a"))
    drain(session, metadata=listened.metadata)
    session.add(listened.Note(content="b"))
    drain(session, metadata=listened.metadata)
    assert [event.new.content for event in published(session, listened.Note)] == ["a", "b"]
    assert_published_once(session, listened.Note, content="a")


def test_what_is_undone_was_never_published(listened: Notes, session: Session) -> None:
    session.add(listened.Note(content="a"))
    session.commit()
    session.add(listened.Note(content="b"))
    drain(session, metadata=listened.metadata)
    session.rollback()
    assert [event.new.content for event in published(session, listened.Note)] == ["a"]


def test_events_are_matched_by_all_that_is_given(listened: Notes, session: Session) -> None:
    set_context(session, tenant="t", user=1)
    note = listened.Note(content="a")
    session.add(note)
    session.flush()
    note.content = "b"
    assert_published(session, listened.Note, op="update", content="b", context={"user": 1}, changed="content")
    event = assert_published_once(session, listened.Note, content="a", listener="two")
    assert event.listener == "two"
    for wanted in (
        {"op": "delete"},
        {"content": "c"},
        {"context": {"user": 2}},
        {"op": "insert", "changed": ["content"]},
        {"listener": "four"},
        {"id": 0},
    ):
        assert_not_published(session, listened.Note, **wanted)
        with pytest.raises(AssertionError):
            assert_published(session, listened.Note, **wanted)


def test_messages_are_found_too(notes: Notes, session: Session) -> None:
    class Viewed(Message, metadata=notes.metadata, name="viewed"):
        note_id: int
        by: str = "ada"

    on_message(Viewed, name="count")(lambda new: None)
    notes.install()
    with pytest.raises(AssertionError, match=r"Nobody called publish\(\) with such a message"):
        assert_published(session, Viewed)
    publish(session, Viewed(note_id=7))
    drain(session, metadata=notes.metadata)
    event = assert_published_once(session, Viewed, note_id=7)
    assert event.new == Viewed(note_id=7)
    with pytest.raises(AssertionError, match=re.escape("  Viewed(note_id=7, by='ada'), for count")):
        assert_published(session, Viewed, by="grace")


def test_a_failure_says_what_was_published(listened: Notes, session: Session) -> None:
    set_context(session, tenant="t")
    note = listened.Note(content="a")
    session.add(note)
    session.flush()
    note.content = "b"
    session.flush()
    with pytest.raises(AssertionError) as caught:
        assert_published(session, listened.Note, op="delete", content="x")
    lines = str(caught.value).splitlines()
    assert lines[:4] == [
        "no delete of Note with content='x' was published.",
        "Of Note this transaction has published:",
        f"  insert of Note(id={note.id}, content='a'), context {{'tenant': 't'}}, for one, two",
        f"  update of Note(id={note.id}): content 'a' -> 'b', context {{'tenant': 't'}}, for three",
    ]
    with pytest.raises(AssertionError, match=r"insert of Note with content='a' was published\.\n  insert of"):
        assert_not_published(session, listened.Note, op="insert", content="a")
    session.add_all([listened.Note(content="twice"), listened.Note(content="twice")])
    with pytest.raises(AssertionError, match="was published 2 times, not once"):
        assert_published_once(session, listened.Note, content="twice")
    with pytest.raises(AssertionError, match="was published never, not once"):
        assert_published_once(session, listened.Note, content="never")


def failure(session: Session, model: Any, **wanted: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_published(session, model, **wanted)
    return str(caught.value)


def test_a_failure_says_that_nobody_listens(notes: Notes, session: Session) -> None:
    after_update(notes.Note, name="see")(lambda new: None)
    notes.install()
    session.add(notes.Note(content="a"))
    said = failure(session, notes.Note, op="insert")
    assert "Of Note this transaction has published nothing." in said
    assert "- No listener wants inserts of Note" in said
    assert "Call spy(session, Note)" in said


def test_a_failure_says_which_condition_does_not_hold(notes: Notes, session: Session) -> None:
    after_insert(notes.Note, name="long", when="length(new.content) > 5")(lambda new: None)
    notes.install()
    session.add(notes.Note(content="short"))
    said = failure(session, notes.Note, op="insert")
    assert (
        "- Listener 'long' wants an insert only when length(new.content) > 5; that is true of 0 rows now."
        in said
    )


def test_a_failure_says_that_nothing_changed(notes: Notes, session: Session) -> None:
    after_update(notes.Note, name="see", of=[notes.Note.content])(lambda new: None)
    notes.install()
    session.add(notes.Note(content="a"))
    session.flush()
    session.execute(text("UPDATE note SET content = 'a'"))
    said = failure(session, notes.Note, op="update", content="a")
    assert "- Listener 'see' wants an update only where one of content changes." in said
    assert "- An update that leaves all values as they were publishes nothing." in said
    assert "no such row" not in said
    assert "There is no such row in table 'note'" in failure(session, notes.Note, content="other")


def test_a_failure_says_what_is_not_installed(notes: Notes, session: Session) -> None:
    notes.install()
    after_insert(notes.Note, name="new_one")(lambda new: None)
    session.add(notes.Note(content="a"))
    said = failure(session, notes.Note)
    assert (
        "- In this database, trigger for listener 'new_one' is not installed: INSERT on table 'note'" in said
    )


def test_mistakes_are_told_from_what_was_not_published(notes: Notes, session: Session) -> None:
    notes.install()
    for wanted, said in (
        ({"contents": "a"}, r"Note has no attribute 'contents' .* Give some of: id, content"),
        ({"changed": ["contents"]}, "no attribute 'contents'"),
        ({"op": "upsert"}, "give one of insert, update, delete, truncate"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            assert_not_published(session, notes.Note, **wanted)
    with pytest.raises(ConfigurationError, match="Effect does not publish"):
        published(session, notes.Effect)
    with pytest.raises(ConfigurationError, match="Give a model or a Message class"):
        published(session, int)


def test_a_spy_sees_what_nobody_listens_to_and_is_gone_with_the_rollback(
    notes: Notes, session: Session, engine: Engine
) -> None:
    class Viewed(Message, metadata=notes.metadata, name="viewed"):
        note_id: int

    heard = []

    @after_insert(notes.Note)
    def hear(new: Any) -> None:
        heard.append(new.content)

    def installed() -> Any:
        query = "SELECT array_agg(tgname || md5(prosrc)) FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid"
        messages = "SELECT array_agg(md5(prosrc)) FROM pg_proc WHERE proname = 'pubsub_publish'"
        return notes.scalar(query), notes.scalar(messages)

    notes.install()
    before = installed()
    for model in (notes.Note, notes.Note, Viewed):
        spy(session, model)
    note = notes.Note(content="a")
    session.add(note)
    session.flush()
    note.content = "b"
    publish(session, Viewed(note_id=1))
    assert drain(session, metadata=notes.metadata).acknowledged == 1
    assert heard == ["a"]
    session.delete(note)
    assert [event.operation for event in published(session, notes.Note)] == ["INSERT", "UPDATE", "DELETE"]
    assert_published_once(session, notes.Note, op="insert", listener="hear")
    assert_published_once(session, Viewed, note_id=1)
    assert "for a spy" in failure(session, notes.Note, content="x")
    session.rollback()
    assert installed() == before
    session.add(notes.Note(content="c"))
    assert_not_published(session, notes.Note, op="update")
    assert_published_once(session, notes.Note, listener="hear")


def test_a_spy_may_look_for_one_operation(notes: Notes, session: Session) -> None:
    notes.install()
    spy(session, notes.Note, op="truncate")
    session.add(notes.Note(content="a"))
    session.flush()
    session.execute(text("TRUNCATE note"))
    assert [event.operation for event in published(session, notes.Note)] == ["TRUNCATE"]
    with pytest.raises(ConfigurationError, match="give one of"):
        spy(session, notes.Note, op="upsert")


@pytest.mark.parametrize("loop_driver", ["psycopg", "asyncpg"])
def test_all_of_it_is_awaited_on_a_loop(notes: Notes, engine: Engine, loop_driver: str) -> None:
    after_insert(notes.Note, name="see")(lambda new: None)

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            await spy(session, notes.Note, op="update")
            note = notes.Note(content="a")
            session.add(note)
            await session.flush()
            note.content = "b"
            await drain(session, metadata=notes.metadata)
            assert len(await published(session, notes.Note)) == 2
            event = await assert_published_once(session, notes.Note, content="b")
            assert event.old.content == "a"
            await assert_not_published(session, notes.Note, op="delete")
            with pytest.raises(AssertionError, match="No listener wants deletes of Note"):
                await assert_published(session, notes.Note, op="delete")

    notes.install()
    asyncio.run(test())
