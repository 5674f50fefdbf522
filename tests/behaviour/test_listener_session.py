"""The session belongs to the listener: a handler that ends it, or leaves it broken, fails alone."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from sqla_pubsub import PubSub, RetryPolicy, after_insert, set_context
from sqla_pubsub.errors import SessionOwnershipError
from tests.deliver.notes import Notes

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)


def rollback(session: Session) -> None:
    session.rollback()


def commit(session: Session) -> None:
    session.commit()


def close(session: Session) -> None:
    session.close()


def swallow_the_refusal(session: Session) -> None:
    with suppress(SessionOwnershipError):
        session.commit()


def leave_the_session(session: Session) -> None:
    with session:
        session.flush()


def begin_and_commit(session: Session) -> None:
    with suppress(SQLAlchemyError):
        session.flush()
        transaction = session.get_transaction()
        assert transaction is not None
        transaction.commit()
    raise RuntimeError("after a commit of its own")


def commit_the_connection(session: Session) -> None:
    session.connection().commit()


def roll_the_connection_back(session: Session) -> None:
    session.connection().rollback()


def swallow_an_error_of_flush(notes: Notes) -> Callable[[Session], None]:
    def act(session: Session) -> None:
        session.add(notes.Effect(listener=None))
        with suppress(IntegrityError):
            session.flush()

    return act


def swallow_an_error_of_execute(session: Session) -> None:
    with suppress(DBAPIError):
        session.execute(text("SELECT 1 / 0"))


ENDS = {
    "commits": commit,
    "rolls back": rollback,
    "closes": close,
    "commits and goes on": swallow_the_refusal,
    "leaves a with block of it": leave_the_session,
    "commits its transaction": begin_and_commit,
    "commits the connection": commit_the_connection,
    "rolls the connection back": roll_the_connection_back,
    "swallows an error of execute": swallow_an_error_of_execute,
}


@pytest.mark.parametrize("how", ENDS)
def test_a_handler_that_ends_the_transaction_fails_and_leaves_nothing(notes: Notes, how: str) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        if new.content == "bad":
            ENDS[how](session)

    notes.write("a", "b", "c", "bad", "d", "e")
    assert notes.drain() == 6
    assert notes.effects("handle") == ["a", "b", "c", "d", "e"]
    assert [letter.id for letter in notes.dead()] == [4]


@pytest.mark.parametrize("how", ["commits", "rolls back", "closes", "commits and goes on"])
def test_the_error_says_what_the_handler_did(notes: Notes, how: str) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        ENDS[how](session)

    notes.write("a")
    notes.drain()
    (letter,) = notes.dead()
    assert letter.reason.startswith("SessionOwnershipError: session.")
    assert "leave" in letter.reason


def test_a_session_left_broken_by_a_swallowed_error_fails_the_event(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()
        if new.content == "bad":
            swallow_an_error_of_flush(notes)(session)

    notes.write("a", "bad", "b")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [2]


def test_a_savepoint_of_the_handler_contains_an_error(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        with suppress(IntegrityError), session.begin_nested():
            session.add(notes.Effect(listener=None))
        with session.begin_nested():
            session.add(notes.effect("handle", new.content))

    notes.write("a", "b")
    assert notes.drain() == 2
    assert notes.effects("handle") == ["a", "b"]


def test_a_savepoint_that_the_handler_leaves_open_is_kept(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.begin_nested()
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b")
    assert notes.drain() == 2
    assert notes.effects("handle") == ["a", "b"]


def test_a_raw_commit_is_an_error_of_that_event(notes: Notes) -> None:
    """It is not sent, so nothing of the event is left, and the next events are handled."""

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            session.execute(text("COMMIT"))
        else:
            session.add(notes.effect("handle", new.content))

    notes.write("bad", "a", "b")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [1]


def test_a_raw_rollback_is_an_error_of_that_event(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))
        session.flush()
        if new.content == "bad":
            session.execute(text("ROLLBACK"))

    notes.write("bad", "a", "b")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [1]


def test_a_driver_connection_committed_by_the_handler_is_an_error_of_that_event(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            driver: Any = session.connection().connection.driver_connection
            driver.commit()
        else:
            session.add(notes.effect("handle", new.content))

    notes.write("bad", "a", "b")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.id for letter in notes.dead()] == [1]


def test_what_a_handler_leaves_pending_is_written(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a")
    notes.drain()
    assert notes.effects("handle") == ["a"]


def test_an_error_in_what_was_left_pending_fails_the_event(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(notes.Effect(listener=None if new.content == "bad" else "handle", what=new.content))

    notes.write("a", "bad", "b")
    assert notes.drain() == 3
    assert notes.effects("handle") == ["a", "b"]
    assert [letter.reason.startswith("IntegrityError") for letter in notes.dead()] == [True]


def test_objects_of_one_event_are_not_known_to_the_next(notes: Notes) -> None:
    sizes: list[int] = []

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        sizes.append(len(session.identity_map))
        session.scalars(select(notes.Note)).all()

    notes.write("a", "b", "c")
    notes.drain()
    assert sizes == [0, 0, 0]


def test_settings_that_a_handler_makes_locally_do_not_outlive_its_failure(notes: Notes) -> None:
    seen: list[str | None] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        seen.append(session.scalar(text("SELECT current_setting('app.user', true)")))
        session.execute(text("SET LOCAL app.user = 'ann'"))
        raise ValueError

    notes.write("a", "b")
    notes.drain()
    assert [value or None for value in seen] == [None, None]


def test_a_handler_without_a_session_touches_no_savepoint(notes: Notes) -> None:
    @after_insert(notes.Note)
    def handle(new: Any) -> None: ...

    notes.write("a")
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        statements.append(statement)

    event.listen(notes.engine, "before_cursor_execute", note)
    notes.drain(commit_every=timedelta(milliseconds=1))
    assert not [s for s in statements if "SAVEPOINT" in s]


def test_a_begin_block_is_refused_from_the_first_event_on(notes: Notes) -> None:
    """The transaction is the listener's and has begun; SQLAlchemy itself would see that in the second event."""

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        with session.begin():
            session.add(notes.effect("handle", "x"))

    notes.write("a", "b")
    assert notes.drain() == 2
    assert notes.effects("handle") == []
    assert [letter.reason.partition(" in ")[0] for letter in notes.dead()] == [
        "SessionOwnershipError: session.begin()"
    ] * 2


def test_a_savepoint_opened_on_the_connection_and_left_open_harms_nobody(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.connection().begin_nested()
        session.add(notes.effect("handle", new.content))
        session.flush()
        if new.content == "bad":
            raise ValueError

    notes.write("a", "bad", "b", "bad", "c")
    assert notes.drain() == 5
    assert notes.effects("handle") == ["a", "b", "c"]
    assert [letter.id for letter in notes.dead()] == [2, 4]


@pytest.mark.parametrize("on_connection", [False, True])
@pytest.mark.parametrize("effects", ["any", "database"])
def test_the_context_that_a_handler_sets_is_gone_with_its_event(
    notes: Notes, effects: Any, on_connection: bool
) -> None:
    """Although the next event of the group is handled in the same transaction."""
    contexts: list[Any] = []

    class Order(PubSub, notes.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "order"
        id: Mapped[int] = mapped_column(primary_key=True)
        item: Mapped[str]

    @after_insert(notes.Note, effects=effects)
    def handle(new: Any, session: Session) -> None:
        if new.content == "b":
            set_context(session.connection() if on_connection else session, tenant="ann")
        session.add(Order(item=new.content))

    @after_insert(Order)
    def collect(new: Order, context: Any) -> None:
        contexts.append((new.item, dict(context)))

    notes.write("a", "b", "c", "d")
    assert notes.drain("handle", commit_every=timedelta(seconds=10)) == 4
    assert notes.drain("collect") == 4
    assert contexts == [("a", {}), ("b", {"tenant": "ann"}), ("c", {}), ("d", {})]
