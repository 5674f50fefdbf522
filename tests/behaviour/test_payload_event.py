"""What an event tells besides its rows, and how a handler asks for it."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Numeric, text
from sqlalchemy.orm import Mapped, Session, mapped_column, object_session

from sqla_pubsub import (
    Delete,
    Insert,
    PubSub,
    RetryPolicy,
    Truncate,
    Update,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    set_context,
)
from tests.deliver.notes import Notes

AT_ONCE = RetryPolicy(initial=timedelta(0))


def test_an_event_has_the_identity_of_its_entry(notes: Notes) -> None:
    events: list[Insert[Any]] = []

    @after_insert(notes.Note, name="the listener")
    def collect(event: Insert[Any]) -> None:
        events.append(event)

    notes.write("a", "b")
    stored = {entry.id: entry.occurred_at for entry in notes.entries()}
    now = notes.scalar("SELECT clock_timestamp()")
    notes.drain()
    assert {event.id: event.occurred_at for event in events} == stored
    assert [type(event) for event in events] == [Insert, Insert]
    assert all(event.listener == "the listener" and event.attempt == 1 for event in events)
    assert all(event.occurred_at <= now for event in events)


def test_the_identity_stays_and_the_attempt_counts_through_retries(notes: Notes) -> None:
    tries: list[tuple[int, int]] = []

    @after_insert(notes.Note, retry=AT_ONCE)
    def stubborn(event: Insert[Any]) -> None:
        tries.append((event.id, event.attempt))
        if event.attempt < 3:
            raise ValueError("not yet")

    notes.write("a")
    assert notes.drain() == 3
    assert tries == [(1, 1), (1, 2), (1, 3)]


def test_each_kind_of_change_is_an_event_of_its_own_type(notes: Notes) -> None:
    seen: list[tuple[type[Any], bool, bool]] = []

    @after_insert(notes.Note)
    @after_update(notes.Note)
    @after_delete(notes.Note)
    @after_truncate(notes.Note)
    def collect(event: Any) -> None:
        seen.append((type(event), event.old is not None, event.new is not None))

    notes.write("a")
    notes.execute("UPDATE note SET content = 'b'")
    notes.execute("DELETE FROM note")
    notes.execute("TRUNCATE note")
    notes.drain()
    assert seen == [
        (Insert, False, True),
        (Update, True, True),
        (Delete, True, False),
        (Truncate, False, False),
    ]


def test_changed_names_the_attributes_whose_values_differ(notes: Notes) -> None:
    class Price(PubSub, notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "price"
        id: Mapped[int] = mapped_column(primary_key=True)
        amount: Mapped[Decimal] = mapped_column("how_much", Numeric)
        label: Mapped[str | None]
        other: Mapped[str | None]

    changed: list[tuple[str, ...]] = []

    @after_update(Price)
    @after_insert(Price)
    @after_delete(Price)
    def collect(event: Any) -> None:
        changed.append(event.changed)

    notes.install()
    notes.execute("INSERT INTO price (id, how_much, other) VALUES (1, 0.1, 'x')")
    notes.execute("UPDATE price SET how_much = 0.1000000000000000000001")
    notes.execute("UPDATE price SET label = 'a', id = 2")
    notes.execute("UPDATE price SET label = NULL, other = NULL")
    notes.execute("DELETE FROM price")
    notes.drain()
    assert changed == [(), ("amount",), ("id", "label"), ("label", "other"), ()]


def test_the_context_of_the_transaction_arrives(notes: Notes) -> None:
    contexts: list[Any] = []

    @after_insert(notes.Note)
    def collect(event: Insert[Any], context: Any) -> None:
        contexts.append(context)
        assert event.context == context

    notes.install()
    with Session(notes.engine) as session:
        session.add(notes.Note(content="before"))
        set_context(session, tenant="ann", trace={"id": [1, None, "é'%:"]})
        session.add(notes.Note(content="after"))
        session.flush()
        set_context(session, tenant="bob")
        session.add(notes.Note(content="merged"))
        session.commit()
        session.add(notes.Note(content="another transaction"))
        session.commit()
    notes.drain()
    trace = {"trace": {"id": [1, None, "é'%:"]}}
    assert contexts == [{}, {"tenant": "ann", **trace}, {"tenant": "bob", **trace}, {}]


@pytest.mark.one_driver
@pytest.mark.parametrize(
    "asked", ["", "event", "new", "session", "context", "new, session", "event, old, new"]
)
def test_a_handler_gets_the_parameters_it_names_and_no_others(notes: Notes, asked: str) -> None:
    calls: list[dict[str, Any]] = []
    names = [name.strip() for name in asked.split(",") if asked]
    scope: dict[str, Any] = {"calls": calls}
    exec(f"def handler({asked}): calls.append(dict(locals()))", scope)
    after_insert(notes.Note)(scope["handler"])
    notes.write("a")
    assert notes.drain() == 1
    assert [sorted(call) for call in calls] == [sorted(names)]
    if "new" in names:
        assert calls[0]["new"].content == "a"
    if "old" in names:
        assert calls[0]["old"] is None
    if "context" in names:
        assert calls[0]["context"] == {}


def test_keyword_only_parameters_and_defaults_are_filled_by_name(notes: Notes) -> None:
    seen: list[Any] = []

    @after_insert(notes.Note)
    def collect(*, session: Session, new: Any = None) -> None:
        seen.append((new.content, object_session(new) is session))

    notes.write("a")
    notes.drain()
    assert seen == [("a", True)]


def test_the_decorated_function_stays_an_ordinary_function(notes: Notes) -> None:
    @after_update(notes.Note)
    @after_insert(notes.Note)
    def double(new: Any) -> str:
        return str(new.content) * 2

    assert double(notes.Note(content="a")) == "aa"
    assert double.__name__ == "double"


def test_an_event_made_by_hand_can_be_given_to_a_handler(notes: Notes) -> None:
    """So that handlers are tested without a database."""
    note = notes.Note(content="a")
    made = Insert(id=1, listener="mine", occurred_at=datetime.now().astimezone(), new=note)
    assert made.new is note
    assert made.old is None
    assert (made.changed, made.context, made.attempt) == ((), {}, 1)


def test_a_handler_that_never_looks_at_old_does_not_pay_for_it(notes: Notes) -> None:
    """An unreadable old proves that it was not read."""
    seen: list[str] = []

    @after_update(notes.Note)
    def collect(new: Any) -> None:
        seen.append(new.content)

    notes.write("a")
    notes.execute("UPDATE note SET content = 'b'")
    with notes.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_outbox SET old = '[1]'"))
    notes.drain()
    assert seen == ["b"]
