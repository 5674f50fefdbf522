"""Errors of the database in ``async def`` handlers, on both drivers: each is its own event's, and no other's."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import RetryPolicy, after_insert
from tests.asyncio.conftest import AsyncNotes

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
LONG = timedelta(seconds=30)


async def swallow_an_error(_: AsyncNotes, session: AsyncSession) -> None:
    with suppress(SQLAlchemyError):
        await session.execute(text("SELECT 1/0"))


async def swallow_an_error_of_the_driver(_: AsyncNotes, session: AsyncSession) -> None:
    raw: Any = (await (await session.connection()).get_raw_connection()).driver_connection
    with suppress(Exception):
        await raw.execute("SELECT 1/0")


async def try_to_commit(_: AsyncNotes, session: AsyncSession) -> None:
    with suppress(Exception):
        await session.commit()


async def send_a_commit(_: AsyncNotes, session: AsyncSession) -> None:
    await session.execute(text("COMMIT"))


SAYS = {
    swallow_an_error: "caught a database error and went on",
    swallow_an_error_of_the_driver: "aborted",
    try_to_commit: "session.commit() in a handler",
    send_a_commit: "a handler ended the transaction itself",
}


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"effects": "database"}], ids=str)
@pytest.mark.parametrize("spoils", SAYS)
def test_a_handler_that_spoils_its_transaction_undoes_no_other_event(
    notes: AsyncNotes, spoils: Any, options: dict[str, Any]
) -> None:
    @after_insert(notes.Note, retry=ONCE, **options)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        if new.content == "bad":
            await spoils(notes, session)

    notes.write("first", "a", "b", "bad", "c", "d")
    asyncio.run(notes.drained(commit_every=LONG))
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "c", "d", "first"]
    (letter,) = notes.dead()
    assert letter.id == 4
    assert SAYS[spoils] in letter.reason
    assert list(notes.entries()) == []


def test_a_handler_that_ends_the_transaction_below_sqlalchemy_is_told_so(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        raw: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        await raw.execute("COMMIT")

    notes.write("a")
    asyncio.run(notes.drained())
    assert "a handler ended the transaction itself" in notes.dead()[0].reason


def test_an_error_that_was_caught_around_a_savepoint_is_no_failure(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        with suppress(SQLAlchemyError):
            async with session.begin_nested():
                await session.execute(text("SELECT 1/0"))
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b")
    asyncio.run(notes.drained())
    assert notes.effects("handle") == ["a", "b"]


def test_a_value_that_the_driver_refuses_before_it_is_sent_aborts_nothing(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        with suppress(SQLAlchemyError):
            await session.execute(select(notes.Note).where(text("id = :id").bindparams(id=object())))

    notes.write("a", "b")
    asyncio.run(notes.drained())
    assert notes.effects("handle") == ["a", "b"]
