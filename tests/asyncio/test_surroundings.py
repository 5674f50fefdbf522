"""An ``async def`` handler works in what the application has: its class of sessions, its contexts."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, cast

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from sqla_pubsub import ConfigurationError, CurrentEvent, ListenerConfig, RetryPolicy, after_insert
from sqla_pubsub.asyncio import AsyncListener
from tests.asyncio.conftest import AsyncNotes

pytestmark = pytest.mark.one_driver


class Exec(Session):
    def exec(self, statement: Any) -> Any:
        return self.execute(statement).scalars()


class AsyncExec(AsyncSession):
    """As SQLModel's."""

    sync_session_class = Exec

    async def exec(self, statement: Any) -> Any:
        return await self.run_sync(lambda session: cast("Exec", session).exec(statement))


async def drained(notes: AsyncNotes, **options: Any) -> int:
    notes.install()
    async with notes.async_engine() as engine:
        return await AsyncListener(engine, notes.metadata, ListenerConfig(), **options).drain()


@pytest.mark.parametrize("transactional", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: AsyncExec, lambda: async_sessionmaker(class_=AsyncExec, autoflush=False)]
)
def test_the_session_of_a_handler_is_of_the_applications_class(
    notes: AsyncNotes, transactional: bool, make: Any
) -> None:
    seen = list[Any]()

    @after_insert(notes.Note, transactional=transactional)
    async def handle(session: AsyncSession) -> None:
        assert isinstance(session, AsyncExec)
        assert isinstance(session.sync_session, Exec)
        seen.extend(await session.exec(select(notes.Note.content)))
        session.add(notes.effect("handle", "done"))

    notes.write("a")
    assert asyncio.run(drained(notes, session_class=make())) == 1
    assert seen == ["a"]
    assert notes.effects("handle") == ["done"]


def test_contexts_awaited_and_plain_are_entered_about_each_call(notes: AsyncNotes) -> None:
    said = list[str]()

    @asynccontextmanager
    async def awaited(event: CurrentEvent) -> AsyncIterator[None]:
        said.append(f"awaited {event.id}")
        yield
        said.append("awaited over")

    @contextmanager
    def plain(event: CurrentEvent) -> Iterator[None]:
        said.append(f"plain {event.id}")
        yield
        said.append("plain over")

    @after_insert(notes.Note)
    async def handle(new: Any) -> None:
        said.append(new.content)

    notes.write("a")
    assert asyncio.run(drained(notes, around=[awaited, plain])) == 1
    assert said == ["awaited 1", "plain 1", "a", "plain over", "awaited over"]


def test_a_context_that_swallows_an_error_makes_no_event_handled(notes: AsyncNotes) -> None:

    @asynccontextmanager
    async def around(_: CurrentEvent) -> AsyncIterator[None]:
        with suppress(ValueError):
            yield

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    async def handle(session: AsyncSession) -> None:
        session.add(notes.effect("handle", "half"))
        raise ValueError("no such article")

    notes.write("a")
    asyncio.run(drained(notes, around=around))
    assert "no such article" in (notes.dead()[0].reason or "")
    assert notes.effects("handle") == []


def test_what_is_no_class_of_sessions_is_refused(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"give a subclass of sqlalchemy\.orm\.Session"):
        asyncio.run(drained(notes, session_class="myapp:Session"))
