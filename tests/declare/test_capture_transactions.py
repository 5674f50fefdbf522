"""An entry exists if and only if the transaction that caused it committed."""

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import Message, PubSub, after_insert, on_message, outbox, publish
from tests.declare.entries import entries, nothing, run

pytestmark = pytest.mark.one_driver


class Base(DeclarativeBase): ...


class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)


after_insert(Comment, name="reader")(nothing)


@pytest.fixture
def tables(engine: Engine) -> Engine:
    """The installed tables."""
    Base.metadata.create_all(engine)
    return engine


def ids(engine: Engine) -> list[int]:
    return [(entry.new or {})["id"] for entry in entries(engine, Base.metadata)]


def test_a_rolled_back_transaction_publishes_nothing(tables: Engine) -> None:
    with Session(tables) as session:
        session.add(Comment(id=1))
        session.flush()
        session.rollback()
        session.add(Comment(id=2))
        session.commit()
    assert ids(tables) == [2]


def test_a_rolled_back_savepoint_takes_its_entries_along(tables: Engine) -> None:
    with Session(tables) as session:
        session.add(Comment(id=1))
        with session.begin_nested() as savepoint:
            session.add(Comment(id=2))
            session.flush()
            savepoint.rollback()
        with session.begin_nested():
            session.add(Comment(id=3))
        session.commit()
    assert ids(tables) == [1, 3]


def test_a_failed_statement_publishes_nothing(tables: Engine) -> None:
    run(tables, "INSERT INTO comment VALUES (2)", "DELETE FROM pubsub_outbox")
    with pytest.raises(DBAPIError):
        run(tables, "INSERT INTO comment VALUES (1), (2)")
    assert ids(tables) == []


def test_an_entry_is_seen_by_others_only_after_the_commit(tables: Engine) -> None:
    with tables.connect() as writer:
        writer.execute(text("INSERT INTO comment VALUES (1)"))
        assert ids(tables) == []
        assert len(writer.execute(text("SELECT FROM pubsub_outbox")).all()) == 1
        writer.commit()
    assert ids(tables) == [1]


def test_the_transaction_that_writes_may_read_its_own_entries(tables: Engine) -> None:
    entry = outbox(Base.metadata).Entry
    with Session(tables) as session:
        session.add(Comment(id=1))
        session.flush()
        assert session.query(entry).one().new == {"id": 1}


def test_a_prepared_transaction_publishes_when_it_is_committed(tables: Engine) -> None:
    """Whoever uses two-phase commit turns the notification off: PostgreSQL prepares no NOTIFY."""
    with tables.connect() as connection, tables.connect() as sleeper:
        sleeper.execute(text("""SELECT pg_advisory_lock(hashtextextended('public."pubsub_outbox"', 0))"""))
        transaction = connection.begin_twophase("pubsub prepared")
        connection.execute(text("SET LOCAL sqla_pubsub.notify = off"))
        connection.execute(text("INSERT INTO comment VALUES (1)"))
        transaction.prepare()
        assert ids(tables) == []
        transaction.commit()
    assert ids(tables) == [1]


def test_a_prepared_transaction_that_is_rolled_back_publishes_nothing(tables: Engine) -> None:
    with tables.connect() as connection:
        connection.execute(text("SET sqla_pubsub.notify = off"))
        connection.commit()
        transaction = connection.begin_twophase("pubsub given up")
        connection.execute(text("INSERT INTO comment VALUES (1)"))
        transaction.prepare()
        transaction.rollback()
    assert ids(tables) == []


def test_a_serializable_transaction_publishes(tables: Engine) -> None:
    with tables.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        connection.execute(text("INSERT INTO comment VALUES (1)"))
        connection.commit()
    assert ids(tables) == [1]


def test_each_entry_has_a_fresh_identity_and_the_time_of_its_statement(tables: Engine) -> None:
    with tables.begin() as connection:
        before = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        connection.execute(text("INSERT INTO comment VALUES (1), (2)"))
        after = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    run(tables, "DELETE FROM pubsub_outbox WHERE id = 2", "INSERT INTO comment VALUES (3)")
    found = entries(tables, Base.metadata)
    assert [entry.id for entry in found] == [1, 3]
    assert before <= found[0].occurred_at <= after < found[1].occurred_at
    assert {(entry.attempt, entry.crashes, entry.due_at, entry.last_error) for entry in found} == {
        (0, 0, None, None)
    }


@pytest.mark.every_server
def test_a_transaction_that_only_publishes_has_its_id_before_its_entries_have_theirs(engine: Engine) -> None:
    """A listener takes what is written under an id that it has passed for what comes later."""

    class Own(DeclarativeBase): ...

    class Said(Message, metadata=Own.metadata, name="said"):
        who: str

    on_message(Said, name="plain")(nothing)
    on_message(Said, name="ordered", ordered=True, ordered_by="who")(nothing)
    Own.metadata.create_all(engine)
    run(
        engine,
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF "
        "pg_current_xact_id_if_assigned() IS NULL THEN RAISE 'no transaction id yet'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER look BEFORE INSERT ON pubsub_outbox FOR EACH ROW EXECUTE FUNCTION look()",
    )
    # The sequence itself assigns one, but only every 32 values.
    for _ in range(40):
        with Session(engine) as session:
            publish(session, Said(who="me"))
            session.commit()
    assert len(entries(engine, Own.metadata)) == 80
