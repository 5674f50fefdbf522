"""What `set_context` was given travels with every event of the transaction, and no further."""

from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from sqla_pubsub import ConfigurationError, PubSub, after_insert, set_context
from tests.declare.entries import entries, nothing


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


def contexts(engine: Engine) -> list[dict[str, Any] | None]:
    return [entry.context for entry in entries(engine, Base.metadata)]


def test_the_context_holds_for_the_statements_after_it(tables: Engine) -> None:
    with Session(tables) as session:
        session.add(Comment(id=1))
        set_context(session, tenant="acme", trace=["a", 1], user={"name": "Zoë 'O' \\ % :x"})
        session.add(Comment(id=2))
        session.commit()
    assert contexts(tables) == [
        None,
        {"tenant": "acme", "trace": ["a", 1], "user": {"name": "Zoë 'O' \\ % :x"}},
    ]


@pytest.mark.one_driver
def test_pending_changes_of_a_scoped_session_go_out_before_it(tables: Engine) -> None:
    session = scoped_session(sessionmaker(tables, autoflush=False))
    session.add(Comment(id=1))
    set_context(session, tenant="acme")
    session.add(Comment(id=2))
    session.commit()
    session.remove()
    assert contexts(tables) == [None, {"tenant": "acme"}]


def test_repeated_calls_merge_and_the_last_value_wins(tables: Engine) -> None:
    with tables.begin() as connection:
        set_context(connection, tenant="acme", user=1)
        set_context(connection, user=None, trace="x")
        connection.execute(text("INSERT INTO comment VALUES (1)"))
    assert contexts(tables) == [{"tenant": "acme", "user": None, "trace": "x"}]


@pytest.mark.one_driver
def test_a_rolled_back_savepoint_takes_its_values_along(tables: Engine) -> None:
    with Session(tables) as session:
        set_context(session, tenant="acme", step=1)
        with session.begin_nested() as savepoint:
            set_context(session, step=2, extra=True)
            savepoint.rollback()
        session.add(Comment(id=1))
        session.flush()
        with session.begin_nested():
            set_context(session, step=3)
        session.add(Comment(id=2))
        session.commit()
    assert contexts(tables) == [{"tenant": "acme", "step": 1}, {"tenant": "acme", "step": 3}]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.one_driver
def test_the_next_transaction_of_a_pooled_connection_has_no_context(tables: Engine, ending: str) -> None:
    pool = create_engine(tables.url, pool_size=1, max_overflow=0)
    with Session(pool) as session:
        set_context(session, tenant="acme")
        first = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        getattr(session, ending)()
    with Session(pool) as session:
        session.add(Comment(id=1))
        second = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        session.commit()
    with Session(pool) as session:
        set_context(session, user=1)
        session.add(Comment(id=2))
        session.commit()
    pool.dispose()
    assert first == second
    assert contexts(tables) == [None, {"user": 1}]


@pytest.mark.parametrize(
    "value", [object(), float("nan"), {1, 2}, b"x"], ids=["object", "nan", "set", "bytes"]
)
@pytest.mark.one_driver
def test_a_context_that_is_no_json_is_refused(engine: Engine, value: object) -> None:
    with Session(engine) as session, pytest.raises(ConfigurationError, match="no JSON"):
        set_context(session, value=value)
