"""`publish` and `set_context` with sessions and connections of asyncio, on both drivers that have them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from sqla_pubsub import ConfigurationError, Message, after_insert, on_message
from sqla_pubsub.asyncio import AsyncListener, publish, set_context
from tests.asyncio.conftest import AsyncNotes

pytestmark = pytest.mark.one_driver

OPENED: dict[str, Callable[[AsyncEngine], Any]] = {
    "a session": AsyncSession,
    "a scoped session": lambda engine: async_scoped_session(async_sessionmaker(engine), asyncio.current_task),
    "a connection": lambda engine: engine.connect(),
}


@pytest.mark.parametrize("opened", OPENED)
def test_what_is_published_has_the_context_and_commits_with_its_transaction(
    notes: AsyncNotes, opened: str
) -> None:
    class Viewed(Message, metadata=notes.metadata, name="viewed"):
        page: str

    seen: list[Any] = []

    @on_message(Viewed)
    def handle(new: Viewed, context: Any) -> None:
        seen.append((new.page, context))

    async def publish_in(engine: AsyncEngine, page: str, *, commit: bool) -> None:
        given = OPENED[opened](engine)
        if isinstance(given, AsyncConnection):
            await given.start()
        try:
            await set_context(given, tenant="acme", number=7)
            await publish(given, Viewed(page=page))
            await (given.commit() if commit else given.rollback())
        finally:
            await given.close()

    async def program() -> None:
        engine = create_async_engine(notes.url)
        await publish_in(engine, "kept", commit=True)
        await publish_in(engine, "undone", commit=False)
        await engine.dispose()

    notes.install()
    asyncio.run(program())
    assert notes.drain() == 1
    assert seen == [("kept", {"tenant": "acme", "number": 7})]


def test_a_plain_session_is_refused_with_the_call_that_works(notes: AsyncNotes) -> None:
    class Viewed(Message, metadata=notes.metadata, name="viewed"):
        page: str

    with Session(notes.engine) as session:
        given: Any = session
        with pytest.raises(
            ConfigurationError, match=r"got 'Session'.*sqla_pubsub\.publish\(session, message\)"
        ):
            asyncio.run(publish(given, Viewed(page="a")))
        with pytest.raises(ConfigurationError, match=r"sqla_pubsub\.set_context\(session, tenant=\.\.\.\)"):
            asyncio.run(set_context(given, tenant="acme"))


def test_a_sqlalchemy_that_leaves_connections_of_cancelled_tasks_open_is_refused(
    notes: AsyncNotes, monkeypatch: pytest.MonkeyPatch
) -> None:
    @after_insert(notes.Note)
    async def handle() -> None: ...

    engine = create_async_engine(notes.url)
    monkeypatch.setattr("sqla_pubsub.deliver.io.engines.__version__", "2.0.52")
    with pytest.raises(
        ConfigurationError, match=r"SQLAlchemy 2\.0\.52 leaves connections open.* need 2\.0\.53"
    ):
        AsyncListener(engine, notes.metadata)
    monkeypatch.setattr("sqla_pubsub.deliver.io.engines.__version__", "2.0.53")
    AsyncListener(engine, notes.metadata)


def test_wrong_arguments_of_a_listener_are_refused_with_sentences(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle() -> None: ...

    engine = create_async_engine(notes.url)
    wrong: Any = notes.engine
    with pytest.raises(ConfigurationError, match="give an AsyncEngine"):
        AsyncListener(wrong, notes.metadata)
    with pytest.raises(ConfigurationError, match="give a whole number from 1 on"):
        AsyncListener(engine, notes.metadata, concurrency=0)
    with pytest.raises(ConfigurationError, match=r"give a list of names, \['handle'\]"):
        AsyncListener(engine, notes.metadata, listeners="handle")
    with pytest.raises(ConfigurationError, match="'another' is not declared"):
        AsyncListener(engine, notes.metadata, listeners=["another"])
    engine.dialect.driver = "another"
    with pytest.raises(
        ConfigurationError, match=r"driver 'another'.*postgresql\+psycopg:// or postgresql\+asyncpg"
    ):
        AsyncListener(engine, notes.metadata)
