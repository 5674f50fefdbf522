"""Rows are made and attached the short way, and nobody can tell that from the long one."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, Text, create_engine, event, inspect, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    deferred,
    make_transient,
    make_transient_to_detached,
    mapped_column,
    object_session,
    relationship,
)
from sqlalchemy.orm.attributes import instance_state

from sqla_pubsub import Listener, Publish, PubSub, after_insert
from sqla_pubsub.deliver.handle import decoding
from sqla_pubsub.deliver.handle.decoding import RowDecoder
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)


class Page(Base):
    __tablename__ = "page"
    kind: Mapped[str]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column()
    title: Mapped[str | None]
    later: Mapped[str | None] = deferred(mapped_column())
    author: Mapped[Author | None] = relationship()
    double: Mapped[int] = column_property(number * 2)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "page"}  # noqa: RUF012


class Picture(Page):
    __mapper_args__ = {"polymorphic_identity": "picture"}  # noqa: RUF012
    width: Mapped[int | None]


class Pair(Base):
    __tablename__ = "pair"
    one: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None]
    two: Mapped[int] = mapped_column(primary_key=True)


class Only(Base):
    __tablename__ = "only"
    id: Mapped[int] = mapped_column(primary_key=True)


KEPT = {"kind": "page", "id": 7, "number": 4}
WHOLE = {"kind": "page", "author_id": 1, "id": 7, "number": 4, "title": "t", "later": "l", "width": None}
ROWS: dict[str, tuple[type[Any], Publish, dict[str, Any], bool]] = {
    "all of it": (Page, Publish(), WHOLE, True),
    "a subclass": (Page, Publish(), {**WHOLE, "kind": "picture", "width": 3}, True),
    "values that are NULL": (Page, Publish(), {**WHOLE, "title": None, "author_id": None}, True),
    "columns that are left out": (
        Page, Publish(exclude=["title", "later"]), {**dict.fromkeys(("author_id", "width")), **KEPT}, True,
    ),
    "a column that was not there": (Page, Publish(), {k: v for k, v in WHOLE.items() if k != "title"}, False),
    "two keys": (Pair, Publish(), {"one": 1, "text": "x", "two": 2}, True),
    "one column": (Only, Publish(), {"id": 5}, True),
    "a key that was not there": (Pair, Publish(), {"one": 1, "text": "x"}, False),
}  # fmt: skip


def facts(instance: Any) -> dict[str, Any]:
    state = instance_state(instance)
    return {
        "class": type(instance), "key": state.key, "detached": inspect(instance).detached,
        "values": {name: value for name, value in state.dict.items() if name != "_sa_instance_state"},
        "expired": state.expired_attributes, "unloaded": state.unloaded, "committed": state.committed_state,
        "flags": (state.modified, state.expired, state.identity_token, state.session_id),
    }  # fmt: skip


def hear(*_: Any) -> None: ...


@pytest.mark.parametrize("what", ROWS)
def test_an_instance_is_the_same_whichever_way_it_is_made(
    engine: Engine, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, publish, row, short = ROWS[what]
    payload = json.dumps(row)
    ways: list[Any] = []

    def long_way(instance: object) -> None:
        ways.append(instance)
        make_transient_to_detached(instance)

    monkeypatch.setattr(decoding, "make_transient_to_detached", long_way)
    decoder = RowDecoder(inspect(model), publish)
    with engine.connect() as connection:
        [values] = decoder.decode(connection, [payload])
        found = facts(decoder.hydrate(values, payload))
        assert bool(ways) is not short
        event.listen(model, "load", hear, propagate=True)
        try:
            # Whoever hears of loading may change anything, so it is told.
            expected = facts(decoder.hydrate(values, payload))
        finally:
            event.remove(model, "load", hear)
    assert ways
    assert found == expected


EVENTS = ("before_attach", "after_attach", "detached_to_persistent", "persistent_to_detached")


@pytest.mark.parametrize("name", EVENTS)
def test_whoever_hears_of_sessions_is_told_of_the_rows_of_events(notes: Notes, name: str) -> None:
    told: list[str] = []

    def note(_: Any, instance: Any) -> None:
        told.append(instance.content)

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        assert new.content

    notes.write("a", "b", "c")
    event.listen(Session, name, note)
    try:
        assert notes.drain() == 3
    finally:
        event.remove(Session, name, note)
    assert [content for content in told if content] == ["a", "b", "c"]


def test_a_class_of_sessions_is_asked_to_add_and_to_forget_rows(notes: Notes, url: str) -> None:
    asked: list[str] = []

    class Own(Session):
        def add(self, instance: object, *arguments: Any, **options: Any) -> None:
            asked.append("add")
            super().add(instance, *arguments, **options)

        def expunge_all(self) -> None:
            asked.append("expunge_all")
            super().expunge_all()

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        assert new.content

    notes.write("a", "b")
    engine = create_engine(url)
    assert Listener(engine, notes.metadata, session_class=Own).drain() == 2
    engine.dispose()
    assert asked.count("add") == 2
    assert asked.count("expunge_all") >= 2


def test_what_handlers_do_to_rows_and_their_sessions_is_theirs(notes: Notes) -> None:
    """They take rows out, put others in and change them, one event after the other."""
    kept: list[Any] = []
    own = Session()

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        match new.content:
            case "moved":
                session.expunge(new)
                own.add(new)
            case "replaced":
                session.expunge(new)
                make_transient(new)
                session.add(notes.effect("handle", "another"))
            case "swapped":
                session.expunge(new)
                session.merge(notes.Note(id=new.id, content="swapped"), load=True)
            case "changed":
                new.content = "changed by the handler"
            case _:
                pass
        kept.append(new)

    notes.write("moved", "plain", "replaced", "swapped", "changed", "plain")
    assert notes.drain() == 6
    assert kept[0] in own
    own.expunge_all()
    assert not any(inspect(each).persistent for each in kept)
    assert notes.effects("handle") == ["another"]
    assert notes.scalar("SELECT content FROM note WHERE id = 5") == "changed by the handler"
    assert notes.left() == 0


@pytest.mark.parametrize(
    "finds",
    [
        lambda new, session: new in session,
        lambda new, session: list(session) == [new],
        lambda new, session: list(session.identity_map.values()) == [new],
        lambda new, session: session.get(type(new), new.id) is new,
        lambda new, session: session.get_one(type(new), new.id, populate_existing=True) is new,
        lambda new, session: session.scalars(select(type(new)).where(type(new).id == new.id)).one() is new,
        lambda new, session: session.merge(type(new)(id=new.id, content=new.content)) is new,
        lambda new, session: not session.dirty and not session.is_modified(new) and inspect(new).persistent,
        lambda new, session: (session.refresh(new), new in session)[1],
        lambda new, session: (session.expunge_all(), new not in session and inspect(new).detached)[1],
    ],
    ids=[
        "in",
        "iterated",
        "map",
        "get",
        "read anew",
        "selected",
        "merged",
        "unchanged",
        "refreshed",
        "expunged",
    ],
)
@pytest.mark.parametrize("asks", [True, False], ids=["asks for a session", "has that of the row"])
def test_whoever_looks_for_the_row_finds_it(notes: Notes, finds: Any, asks: bool) -> None:
    found: list[bool] = []

    if asks:

        @after_insert(notes.Note, name="handle")
        def handle(new: Any, session: Session) -> None:
            found.append(finds(new, session))
    else:

        @after_insert(notes.Note, name="handle")
        def handle_row(new: Any) -> None:
            found.append(finds(new, object_session(new)))

    notes.write("a", "b")
    assert notes.drain() == 2
    assert found == [True, True]


def test_a_change_to_the_row_is_written_though_nobody_asked_for_a_session(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        if new.content == "a":
            new.content = "changed"

    notes.write("a", "b")
    assert notes.drain() == 2
    assert notes.scalar("SELECT array_agg(content ORDER BY id) FROM note") == ["changed", "b"]


def test_a_row_that_was_kept_changes_no_later_event(notes: Notes) -> None:
    kept: list[Any] = []

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        for earlier in kept:
            earlier.content = "too late"
        kept.append(new)
        assert new.content

    notes.write("a", "b", "c")
    assert notes.drain() == 3
    assert notes.left() == 0
    assert notes.scalar("SELECT count(*) FROM note WHERE content = 'too late'") == 0


def test_what_a_row_refers_to_loads_when_it_is_read(notes: Notes) -> None:
    """Also where nobody has asked for a session."""
    seen: list[Any] = []

    class Book(PubSub, notes.Base):  # type: ignore[misc,name-defined]
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        note_id: Mapped[int] = mapped_column(ForeignKey("note.id"))
        blurb: Mapped[str] = deferred(mapped_column(Text))
        note: Mapped[Any] = relationship(notes.Note)

    Book.__pubsub__ = Publish(exclude=["blurb"])

    @after_insert(Book)
    def handle(new: Any) -> None:
        seen.append((new.note.content, new.blurb))

    notes.write("a", "b")
    with Session(notes.engine) as session, session.begin():
        session.add_all([Book(note_id=1, blurb="x"), Book(note_id=2, blurb="y")])
    assert notes.drain() == 2
    assert seen == [("a", "x"), ("b", "y")]
