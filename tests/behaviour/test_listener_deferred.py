"""What handlers only add to their session is written together, and still fails event by event."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from sqlalchemy import ForeignKey, Identity, event, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from sqla_pubsub import RetryPolicy, after_insert, after_update
from tests.deliver.notes import Notes

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
LONG = timedelta(seconds=30)


@contextmanager
def statements_on(notes: Notes, table: str) -> Iterator[list[str]]:
    """Record the statements that write to *table*."""
    seen: list[str] = []

    def record(*args: Any) -> None:
        if args[2].startswith(f"INSERT INTO {table}"):
            seen.append(args[2])

    event.listen(notes.engine, "before_cursor_execute", record)
    try:
        yield seen
    finally:
        event.remove(notes.engine, "before_cursor_execute", record)


def refused(notes: Notes) -> list[Any]:
    """Return what the dead letters are about, in order."""
    return [(letter.new or {}).get("content") for letter in notes.dead()]


@pytest.mark.parametrize("effects", ["any", "database"])
def test_rows_that_handlers_only_add_are_written_many_at_a_time(notes: Notes, effects: Any) -> None:
    @after_insert(notes.Note, effects=effects)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    contents = [str(number) for number in range(300)]
    notes.write(*contents)
    with statements_on(notes, "effect") as inserts:
        assert notes.drain(commit_every=LONG) == 300
    assert notes.effects("handle") == contents
    assert len(inserts) < 10


@pytest.mark.parametrize("effects", ["any", "database"])
def test_events_whose_rows_are_refused_fail_alone_and_no_handler_is_called_twice(
    notes: Notes, effects: Any
) -> None:
    calls: Counter[str] = Counter()

    @after_insert(notes.Note, retry=ONCE, effects=effects)
    def handle(new: Any, session: Session) -> None:
        calls[new.content] += 1
        session.add(notes.Effect(listener=None if "bad" in new.content else "handle", what=new.content))

    contents = [f"bad {number}" if number % 40 == 7 else str(number) for number in range(200)]
    notes.write(*contents)
    assert notes.drain(commit_every=LONG) == 200
    assert sorted(map(str, notes.effects("handle"))) == sorted(c for c in contents if "bad" not in c)
    assert refused(notes) == [c for c in contents if "bad" in c]
    assert all(letter.reason.startswith("IntegrityError") for letter in notes.dead())
    assert set(calls.values()) == {1}
    assert notes.left() == len(notes.dead())


def test_a_handler_that_looks_sees_what_earlier_events_added(notes: Notes) -> None:
    """Else a check before an insert would find nothing, and insert twice."""

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        if new.content != "blind":
            query = select(func.count()).select_from(notes.Effect).where(notes.Effect.listener == "handle")
            new.content = f"{new.content} after {session.scalar(query)}"
            session.expunge(new)
        session.add(notes.effect("handle", new.content))

    notes.write("first", *["blind"] * 10, "second", *["blind"] * 5, "third")
    assert notes.drain(commit_every=LONG) == 18
    seen = [what for what in notes.effects("handle") if what != "blind"]
    assert seen == ["first after 0", "second after 11", "third after 17"]


def test_a_refused_row_found_by_a_later_handler_is_the_failure_of_its_own_event(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "look":
            session.execute(select(notes.Effect))
        session.add(notes.Effect(listener=None if new.content == "bad" else "handle", what=new.content))

    notes.write("first", "a", "bad", "b", "look", "c")
    assert notes.drain(commit_every=LONG) == 6
    assert notes.effects("handle") == ["first", "a", "b", "look", "c"]
    assert refused(notes) == ["bad"]


def test_a_handler_that_raises_leaves_nothing_of_what_it_added(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        if new.content == "bad":
            raise RuntimeError("after the add")

    notes.write("first", "a", "bad", "b")
    assert notes.drain(commit_every=LONG) == 4
    assert notes.effects("handle") == ["first", "a", "b"]


def test_objects_that_refer_to_others_are_written_with_them(notes: Notes) -> None:
    class Parent(notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "parent"
        id: Mapped[int] = mapped_column(primary_key=True)
        children: Mapped[list["Child"]] = relationship(back_populates="parent")

    class Child(notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "child"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int] = mapped_column(ForeignKey("parent.id"))
        note_id: Mapped[int] = mapped_column(ForeignKey("note.id"))
        parent: Mapped[Parent] = relationship(back_populates="children")
        note: Mapped[Any] = relationship(notes.Note)

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(Parent(children=[Child(note=new), Child(note=new)]))

    notes.write(*map(str, range(20)))
    assert notes.drain(commit_every=LONG) == 20
    assert notes.scalar("SELECT count(*) FROM child JOIN parent ON parent.id = parent_id") == 40
    assert notes.scalar("SELECT count(DISTINCT (note_id, parent_id)) FROM child") == 20


def test_keys_given_by_a_write_that_failed_are_not_used_again(notes: Notes) -> None:
    """A column that is always generated refuses a value, whoever generated it."""

    class Receipt(notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "receipt"
        id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
        what: Mapped[str]

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(Receipt(what=new.content))
        session.add(notes.Effect(listener=None if new.content == "bad" else "handle", what=new.content))

    notes.write("first", "a", "b", "bad", "c")
    assert notes.drain(commit_every=LONG) == 5
    assert notes.scalar("SELECT string_agg(what, ',' ORDER BY what) FROM receipt") == "a,b,c,first"
    assert len(notes.dead()) == 1


def test_a_changed_row_is_written_with_its_own_event(notes: Notes) -> None:
    """Its state belongs to the event: the next one may look at the same row."""

    @after_update(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        row: Any = session.get(notes.Note, new.id)
        assert row is new
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    for content in ("b", "c", "d"):
        notes.execute("UPDATE note SET content = :content", content=content)
    assert notes.drain(commit_every=LONG) == 3
    assert notes.effects("handle") == ["b", "c", "d"]


def test_two_events_that_add_the_same_key_keep_the_first_and_fail_the_second(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        key = 7 if "twin" in new.content else 100 + new.id
        session.add(notes.Effect(id=key, listener="handle", what=new.content))

    notes.write("first", "a", "twin 'one' %", "b", 'twin "two" %', "c")
    assert notes.drain(commit_every=LONG) == 6
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "c", "first", "twin 'one' %"]
    assert refused(notes) == ['twin "two" %']


@pytest.mark.one_driver
@pytest.mark.parametrize("eager", ["auto", False])
def test_an_expression_is_evaluated_anew_by_the_write_that_stands(notes: Notes, eager: Any) -> None:
    """The write that failed leaves in the object what the server gave it, or nothing at all."""

    class Place(notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "place"
        __mapper_args__: ClassVar[Any] = {"eager_defaults": eager}
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        position: Mapped[int]

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        behind = select(func.coalesce(func.max(Place.position), 0) + 1).scalar_subquery()
        session.add(Place(name=None if new.content == "bad" else new.content, position=behind))

    notes.write("first", "a", "bad", "b", "c")
    assert notes.drain(commit_every=LONG) == 5
    assert notes.scalar("SELECT array_agg(position ORDER BY id) FROM place") == [1, 2, 3, 4]


@pytest.mark.one_driver
def test_a_hook_before_the_insert_finds_what_the_handler_set(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.Effect(listener=None if new.content == "bad" else "handle", what=new.content))

    def sign(_: Any, __: Any, effect: Any) -> None:
        effect.what = f"<{effect.what}>"

    event.listen(notes.Effect, "before_insert", sign)
    notes.write("first", "a", "b", "bad", "c")
    assert notes.drain(commit_every=LONG) == 5
    assert notes.effects("handle") == ["<first>", "<a>", "<b>", "<c>"]


@pytest.mark.one_driver
def test_a_hook_before_the_flush_finds_what_the_handler_told_the_session(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.info["user"] = f"user of {new.content}"
        session.add(notes.effect("handle", new.content))

    def sign(session: Session, *_: Any) -> None:
        for each in session.new:
            if isinstance(each, notes.Effect):
                each.what = session.info["user"]

    notes.install()
    event.listen(Session, "before_flush", sign)
    try:
        notes.execute("INSERT INTO note (content) VALUES ('a'), ('b'), ('c')")
        assert notes.drain(commit_every=LONG) == 3
    finally:
        event.remove(Session, "before_flush", sign)
    assert notes.effects("handle") == ["user of a", "user of b", "user of c"]
