"""`inline`: events are handled right after each commit of the application under test."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_pubsub import after_insert
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing import Drained, assert_published_once, inline
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver
REFUSED = "joined to the connection of the test"


def effects(session: Session, notes: Notes) -> list[Any]:
    return list(session.scalars(select(notes.Effect.what).order_by(notes.Effect.id)))


def test_events_are_handled_after_each_commit_and_never_on_a_rollback(
    copied: Notes, session: Session
) -> None:
    with inline(session, metadata=copied.metadata) as inlined:
        session.add(copied.Note(content="a"))
        session.flush()
        with session.begin_nested():
            session.add(copied.Note(content="b"))
        assert inlined.drained == Drained()
        session.commit()
        assert inlined.drained == Drained(acknowledged=2)
        assert effects(session, copied) == ["a", "b"]
        session.add(copied.Note(content="c"))
        session.rollback()
        assert inlined.drained == Drained(acknowledged=2)
    session.add(copied.Note(content="d"))
    session.commit()
    assert effects(session, copied) == ["a", "b"]
    assert_published_once(session, copied.Note, content="a")


def test_a_failing_handler_fails_the_test_and_not_the_commit(copied: Notes, session: Session) -> None:
    def test() -> None:
        with inline(session, metadata=copied.metadata):
            session.add(copied.Note(content="bad"))
            session.commit()
            session.add(copied.Note(content="good"))
            session.commit()
            assert effects(session, copied) == ["good"]

    with pytest.raises(ValueError, match="bad") as caught:
        test()
    assert caught.traceback[-1].name == "copy"
    with inline(session, raises=False, metadata=copied.metadata) as inlined:
        session.add(copied.Note(content="bad"))
        session.commit()
    assert inlined.drained == Drained(retried=1)


def test_the_first_error_is_that_of_the_block(copied: Notes, session: Session) -> None:
    def test() -> None:
        with inline(session, metadata=copied.metadata):
            session.add(copied.Note(content="bad"))
            session.commit()
            raise AssertionError("of the test")

    with pytest.raises(AssertionError, match="of the test"):
        test()


@pytest.mark.parametrize("loop_driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("held", ["session", "maker"])
def test_sessions_of_asyncio_are_followed_too(
    notes: Notes, engine: Engine, loop_driver: str, held: str
) -> None:
    @after_insert(notes.Note)
    async def copy(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("copy", new.content))

    async def test() -> None:
        async_engine = create_async_engine(engine.url.set(drivername=f"postgresql+{loop_driver}"))
        async with async_engine.connect() as connection:
            await connection.begin()
            maker = async_sessionmaker(connection, join_transaction_mode="create_savepoint")
            async with maker() as session, AsyncSession(connection) as other:
                followed: Any = session if held == "session" else maker
                with inline(followed, metadata=notes.metadata) as inlined:
                    session.add(notes.Note(content="a"))
                    await session.commit()
                    assert (await other.scalars(select(notes.Effect.what))).all() == ["a"]
                assert inlined.drained == Drained(acknowledged=1)
            await connection.rollback()
        await async_engine.dispose()

    notes.install()
    asyncio.run(test())
    assert notes.effects("copy") == []


def test_a_scoped_session_is_followed_too(copied: Notes, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.begin()
        scoped = scoped_session(sessionmaker(connection, join_transaction_mode="create_savepoint"))
        with inline(scoped, metadata=copied.metadata) as inlined:
            scoped.add(copied.Note(content="a"))
            scoped.commit()
        assert inlined.drained == Drained(acknowledged=1)
        scoped.remove()
        connection.rollback()


def test_sessions_of_handlers_are_not_followed_where_they_are_of_the_same_sessionmaker(
    copied: Notes, engine: Engine
) -> None:
    """What their commits publish is handled by the drain that is under way."""
    with engine.connect() as connection:
        connection.begin()
        factory = sessionmaker(connection, join_transaction_mode="create_savepoint")
        with (
            inline(factory, session_class=factory, metadata=copied.metadata) as inlined,
            factory() as session,
        ):
            session.add_all([copied.Note(content="a"), copied.Note(content="b")])
            session.commit()
            assert effects(session, copied) == ["a", "b"]
        assert inlined.drained == Drained(acknowledged=2)
        connection.rollback()


def test_a_scoped_session_is_followed_in_every_scope(copied: Notes, engine: Engine) -> None:
    """A web server calls plain functions in threads, and each has a session of its own."""
    scope = "test"
    with engine.connect() as connection:
        connection.begin()
        factory = sessionmaker(connection, join_transaction_mode="create_savepoint")
        scoped = scoped_session(factory, lambda: scope)
        with inline(scoped, metadata=copied.metadata) as inlined:
            scope = "request"
            scoped.add(copied.Note(content="a"))
            scoped.commit()
        assert inlined.drained == Drained(acknowledged=1)
        scoped.registry.registry.clear()
        connection.rollback()


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize(
    "kind", ["session", "maker", "scoped", "async session", "async maker", "async scoped"]
)
def test_sessions_that_really_commit_are_refused_at_once(engine: Engine, kind: str, bound: bool) -> None:
    async_engine = create_async_engine(engine.url.set(drivername="postgresql+asyncpg"))
    kinds: dict[str, Any] = {
        "session": Session,
        "maker": sessionmaker,
        "scoped": lambda bind: scoped_session(sessionmaker(bind)),
        "async session": AsyncSession,
        "async maker": async_sessionmaker,
        "async scoped": lambda bind: async_scoped_session(async_sessionmaker(bind), lambda: 1),
    }
    bind = (async_engine if "async" in kind else engine) if bound else None
    with pytest.raises(ConfigurationError, match=REFUSED), inline(kinds[kind](bind)):
        pytest.fail("it was accepted")


def test_a_session_that_is_made_otherwise_than_those_that_were_checked_is_refused_before_it_commits(
    copied: Notes, engine: Engine
) -> None:
    with engine.connect() as connection:
        factory = sessionmaker(connection, join_transaction_mode="create_savepoint")
        with factory(bind=engine) as session:

            def test() -> None:
                with inline(factory):
                    session.add(copied.Note(content="a"))
                    with suppress(ConfigurationError):
                        session.commit()

            with pytest.raises(ConfigurationError, match=REFUSED):
                test()
    assert copied.scalar("SELECT count(*) FROM note") == 0


def test_what_is_no_session_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="Give the session of the test"), inline(engine):  # type: ignore[arg-type]
        pass
