"""What an application puts around its handlers is there in its tests too."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sqla_pubsub import CurrentEvent, after_insert
from sqla_pubsub.testing import deliver_twice, drain, inline, published
from tests.deliver.notes import Notes
from tests.testing.conftest import awaited_session

pytestmark = pytest.mark.one_driver


class OwnSession(Session):
    """Such as SQLModel's."""

    def exec(self) -> str:
        return "of the application"


@pytest.fixture
def seen(notes: Notes) -> list[Any]:
    seen: list[Any] = []

    @after_insert(notes.Note)
    def inside(session: OwnSession) -> None:
        seen.append(session.exec())

    @after_insert(notes.Note, transactional=False)
    def outside(session: OwnSession) -> None:
        seen.append(session.exec())

    notes.install()
    return seen


def test_sessions_and_contexts_are_those_of_the_application(
    notes: Notes, session: Session, seen: list[Any]
) -> None:
    @contextmanager
    def around(event: CurrentEvent) -> Iterator[None]:
        seen.append(f"before {event.listener}")
        yield

    own: dict[str, Any] = {"session_class": OwnSession, "around": around, "metadata": notes.metadata}
    session.add(notes.Note(content="a"))
    drain(session, **own)
    assert sorted(seen) == ["before inside", "before outside", *["of the application"] * 2]
    seen.clear()
    session.add(notes.Note(content="b"))
    with inline(session, **own):
        session.commit()
    assert len(seen) == 4
    session.add(notes.Note(content="c"))
    [event] = published(session, notes.Note, content="c", listener="inside")
    deliver_twice(session, event, **own)
    assert len(seen) == 8


def test_they_are_taken_from_the_settings_where_none_are_given(
    notes: Notes, session: Session, seen: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = f"[tool.sqla-pubsub.listen]\nsession_class = '{__name__}:OwnSession'\n"
    (tmp_path / "pyproject.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    session.add(notes.Note(content="a"))
    drain(session, metadata=notes.metadata)
    assert seen == ["of the application"] * 2


def test_contexts_of_awaited_handlers_are_awaited(notes: Notes, engine: Engine) -> None:
    seen: list[Any] = []

    class OwnAsyncSession(AsyncSession):
        sync_session_class = OwnSession

    @after_insert(notes.Note)
    async def see(session: OwnAsyncSession) -> None:
        below: Any = session.sync_session
        seen.append((type(session).__name__, below.exec()))

    @asynccontextmanager
    async def around(event: CurrentEvent) -> AsyncIterator[None]:
        seen.append(event.listener)
        yield

    async def test() -> None:
        async with awaited_session(engine, "asyncpg") as session:
            session.add(notes.Note(content="a"))
            await drain(session, session_class=OwnAsyncSession, around=around, metadata=notes.metadata)

    notes.install()
    asyncio.run(test())
    assert seen == ["see", ("OwnAsyncSession", "of the application")]
