"""The events of a group share a connection, and what one of them does to it reaches no other."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import ForeignKey, event, insert, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from sqla_pubsub import RetryPolicy, after_insert
from tests.deliver.notes import Notes

pytestmark = [pytest.mark.four_drivers, pytest.mark.either_driver]

ONCE = RetryPolicy(max_attempts=1)
LONG = timedelta(seconds=30)


class Base(DeclarativeBase):
    pass


class Node(Base):
    __tablename__ = "node"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("node.id"))
    parent: Mapped["Node"] = relationship(remote_side="Node.id")


def add_a_circle(_: Notes, session: Session) -> None:
    """Its flush fails before it asks for the connection, so there is no savepoint of this event yet."""
    one, other = Node(), Node()
    one.parent, other.parent = other, one
    session.add(one)


def swallow_the_error_of_a_circle(notes: Notes, session: Session) -> None:
    add_a_circle(notes, session)
    with suppress(SQLAlchemyError):
        session.flush()


def roll_the_transaction_back(_: Notes, session: Session) -> None:
    transaction = session.get_transaction()
    if transaction is not None:
        transaction.rollback()
    raise RuntimeError("after a rollback of its own")


def roll_the_savepoint_back(_: Notes, session: Session) -> None:
    savepoint = session.connection().get_nested_transaction()
    assert savepoint is not None
    savepoint.rollback()


def write_through_the_bind(notes: Notes, session: Session) -> None:
    bind: Any = session.bind
    bind.execute(insert(notes.Effect).values(listener="handle", what="bad"))
    raise RuntimeError("after a write")


def swallow_an_error_in_an_open_savepoint(notes: Notes, session: Session) -> None:
    session.begin_nested()
    session.add(notes.Effect(listener=None))
    with suppress(SQLAlchemyError):
        session.flush()


SPOILS = {
    "adds what cannot be sorted": add_a_circle,
    "swallows the error of that": swallow_the_error_of_a_circle,
    "rolls its transaction back": roll_the_transaction_back,
    "rolls its savepoint back": roll_the_savepoint_back,
    "writes through the bind": write_through_the_bind,
    "swallows an error in a savepoint": swallow_an_error_in_an_open_savepoint,
}


@pytest.mark.parametrize("flushing", [True, False])
@pytest.mark.parametrize("how", SPOILS)
def test_a_handler_that_spoils_its_session_undoes_no_other_event(
    notes: Notes, how: str, flushing: bool
) -> None:
    """Whether the others are written by now or still wait to be."""

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            SPOILS[how](notes, session)
            return
        session.add(notes.effect("handle", new.content))
        if flushing:
            session.flush()

    notes.write("first", "a", "b", "bad", "c", "d")
    assert notes.drain(commit_every=LONG) == 6
    assert notes.effects("handle") == ["first", "a", "b", "c", "d"]
    assert [letter.id for letter in notes.dead()] == [4]


def test_a_handler_cannot_give_its_connection_another_schema(notes: Notes) -> None:
    """The acknowledgement would go to an outbox of that schema, and so would the next events' work."""

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            session.connection(execution_options={"schema_translate_map": {None: "ann"}})
        session.add(notes.effect("handle", new.content))

    notes.install()
    notes.execute("CREATE SCHEMA ann CREATE TABLE effect (LIKE public.effect INCLUDING ALL)")
    notes.execute("CREATE TABLE ann.pubsub_outbox (LIKE pubsub_outbox INCLUDING ALL)")
    notes.write("first", "a", "bad", "b")
    notes.execute("INSERT INTO ann.pubsub_outbox SELECT * FROM pubsub_outbox")
    assert notes.drain(commit_every=LONG) == 4
    assert notes.effects("handle") == ["first", "a", "b"]
    (letter,) = notes.dead()
    assert letter.reason.startswith("SessionOwnershipError: a handler set execution options")
    assert notes.scalar("SELECT count(*) FROM ann.effect") == 0
    assert notes.scalar("SELECT count(*) FROM ann.pubsub_outbox") == 4


@pytest.mark.plain_engine
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("kind", ["INSERT", "DELETE", "SELECT"])
def test_a_connection_that_ends_with_an_unheard_of_error_costs_no_event(
    notes: Notes, kind: str, batch: int | None
) -> None:
    """psycopg2 raises SystemError when the server ends it in mid statement, which SQLAlchemy takes for no disconnection."""
    ended: list[str] = []

    def end(connection: Any, _: Any, statement: str, *__: Any) -> None:
        if working and statement.startswith(kind) and not ended:
            ended.append(statement)
            connection.connection.driver_connection.close()
            raise SystemError("decode returned a result with an exception set")

    working: list[bool] = []

    def work(new: Any, session: Session) -> None:
        working.append(True)
        session.add(notes.effect("handle", new.content))
        session.flush()

    if batch is None:
        after_insert(notes.Note, name="handle", retry=RetryPolicy(initial=timedelta(0)))(work)
    else:

        @after_insert(notes.Note, name="handle", batch=batch, retry=RetryPolicy(initial=timedelta(0)))
        def together(events: list[Any], session: Session) -> None:
            for each in events:
                work(each.new, session)

    notes.write("a", "b", "c")
    event.listen(notes.engine, "before_cursor_execute", end)
    try:
        notes.drain()
    finally:
        event.remove(notes.engine, "before_cursor_execute", end)
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "c"]
    assert notes.left() == 0
    assert ended


@pytest.mark.plain_engine
def test_a_handler_that_swallows_the_end_of_its_connection_is_not_told_of_an_aborted_transaction(
    notes: Notes,
) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            with suppress(DBAPIError):
                session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    notes.write("good", "bad", "good")
    notes.drain()
    (letter,) = notes.dead()
    assert letter.id == 2
    assert "had aborted its transaction" not in letter.reason
