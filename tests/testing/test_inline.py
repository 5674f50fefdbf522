"""`inline`: events are handled right after each commit of the application under test."""

import asyncio
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_pubsub import Message, after_insert, on_message, publish
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing import Drained, assert_published_once, inline
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver


@pytest.fixture
def copied(notes: Notes) -> Notes:
    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise ValueError("bad")
        session.add(notes.effect("copy", new.content))

    notes.install()
    return notes


async def post(app: FastAPI, path: str, **parameters: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post(path, params=parameters)).status_code == 200


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


def test_requests_of_a_client_are_followed_by_their_handlers(copied: Notes, engine: Engine) -> None:
    class Viewed(Message, metadata=copied.metadata, name="viewed"):
        note_id: int

    @on_message(Viewed)
    def count(new: Viewed, session: Session) -> None:
        session.add(copied.effect("count", f"viewed {new.note_id}"))

    app = FastAPI()
    factory = sessionmaker()

    def session_of() -> Any:
        with factory() as session:
            yield session

    @app.post("/notes")
    def write(content: str, session: Annotated[Any, Depends(session_of)]) -> None:
        note = copied.Note(content=content)
        session.add(note)
        session.flush()
        publish(session, Viewed(note_id=note.id))
        session.commit()

    copied.install()
    with engine.connect() as connection:
        connection.begin()
        factory.configure(bind=connection, join_transaction_mode="create_savepoint")
        with inline(factory, metadata=copied.metadata):
            asyncio.run(post(app, "/notes", content="a"))
            with factory() as session:
                assert sorted(effects(session, copied)) == ["a", "viewed 1"]
        connection.rollback()
    assert copied.left() == 0
    assert copied.effects("copy") == []


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


def test_a_session_that_really_commits_is_refused(copied: Notes, engine: Engine) -> None:
    with (
        Session(engine) as session,
        pytest.raises(ConfigurationError, match="joined to the connection of the test"),
        inline(session),
    ):
        pass
    with pytest.raises(ConfigurationError, match="Give the session of the test"), inline(engine):  # type: ignore[arg-type]
        pass
