"""What the tests of the helpers share: notes, and a session in a transaction that is rolled back."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqla_pubsub import after_insert
from tests.deliver.conftest import furnish
from tests.deliver.notes import Notes

__all__ = ["furnish", "notes", "session"]


@pytest.fixture
def notes(engine: Engine) -> Notes:
    return Notes(engine)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """As SQLAlchemy's documentation has it: joined to a transaction that nobody commits."""
    with engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        if transaction.is_active:
            transaction.rollback()


@pytest.fixture
def copied(notes: Notes) -> Notes:
    """Notes with a listener that copies each of them, and fails for a bad one."""

    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        if new.content == "bad":
            raise ValueError("bad")
        session.add(notes.effect("copy", new.content))

    notes.install()
    return notes


@asynccontextmanager
async def awaited_session(engine: Engine, driver: str) -> AsyncIterator[AsyncSession]:
    """The same on a loop."""
    async_engine = create_async_engine(engine.url.set(drivername=f"postgresql+{driver}"))
    try:
        async with async_engine.connect() as connection:
            await connection.begin()
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                yield session
            await connection.rollback()
    finally:
        await async_engine.dispose()
