"""`await drain(async_session)`: handlers of both kinds, in the transaction of a test on a loop."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from sqla_pubsub import Insert, PubSub, RetryPolicy, after_insert, outbox
from sqla_pubsub.asyncio import publish, set_context
from sqla_pubsub.errors import ConfigurationError, HandlerTimeout, LazyLoad, SessionOwnershipError, TaskLeft
from sqla_pubsub.message import Message
from sqla_pubsub.testing import Drained, drain
from tests.deliver.notes import Notes
from tests.testing.conftest import awaited_session

pytestmark = pytest.mark.one_driver


@pytest.fixture(params=["psycopg", "asyncpg"])
def loop_driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_both_kinds_of_handlers_are_handled_and_all_is_gone(
    notes: Notes, engine: Engine, loop_driver: str
) -> None:
    @after_insert(notes.Note)
    async def awaited(new: Any, context: Any, session: AsyncSession) -> None:
        session.add(notes.effect("awaited", f"{new.content} of {context['tenant']}"))

    @after_insert(notes.Note)
    def plain(new: Any, session: Session) -> None:
        session.add(notes.effect("plain", new.content))

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            await set_context(session, tenant="t")
            session.add_all([notes.Note(content="a"), notes.Note(content="b")])
            assert await drain(session, metadata=notes.metadata) == Drained(acknowledged=4)
            found = await session.scalars(select(notes.Effect.what).order_by(notes.Effect.what))
            assert found.all() == ["a", "a of t", "b", "b of t"]
            await session.rollback()
            assert await session.scalar(select(func.count()).select_from(notes.Effect)) == 0
            entry = outbox(notes.metadata).Entry
            assert await session.scalar(select(func.count()).select_from(entry)) == 0

    notes.install()
    asyncio.run(test())
    assert notes.left() == 0


def test_objects_of_the_test_can_be_read_without_a_statement(
    notes: Notes, engine: Engine, loop_driver: str
) -> None:
    base: Any = notes.Base

    class Remark(PubSub, base):  # type: ignore[misc]
        __tablename__ = "remark"
        id: Mapped[int] = mapped_column(primary_key=True)
        note_id: Mapped[int | None] = mapped_column(ForeignKey("note.id"))
        content: Mapped[str]
        note: Mapped[Any] = relationship(notes.Note)

    @after_insert(Remark, load=[Remark.note])
    async def change(new: Remark, session: AsyncSession) -> None:
        new.content = "changed"
        new.note.content = "changed too"

    @after_insert(notes.Note)
    async def remove(new: Any, session: AsyncSession) -> None:
        if new.content == "removed":
            await session.delete(new)

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            remark, removed = (
                Remark(content="a", note=notes.Note(content="kept")),
                notes.Note(content="removed"),
            )
            session.add_all([remark, removed])
            await drain(session, metadata=notes.metadata)
            assert (remark.content, remark.note.content) == ("changed", "changed too")
            assert await session.scalar(select(func.count()).select_from(notes.Note)) == 1

    notes.install()
    asyncio.run(test())


def test_errors_are_those_of_a_listener_and_leave_the_transaction_alone(
    notes: Notes, engine: Engine, loop_driver: str
) -> None:
    left: list[asyncio.Task[None]] = []

    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        match new.content:
            case "error":
                raise ValueError("error")
            case "statement":
                await session.execute(text("SELECT 1 / 0"))
            case "swallowed":
                with suppress(DBAPIError):
                    await session.execute(text("SELECT 1 / 0"))
            case "commit":
                await session.commit()
            case "task":
                left.append(asyncio.create_task(asyncio.sleep(30)))
            case _:
                session.add(notes.effect("handle", new.content))

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            contents = ("error", "statement", "swallowed", "commit", "task", "fine")
            session.add_all([notes.Note(content=content) for content in contents])
            drained = await drain(session, raises=False, metadata=notes.metadata)
            assert drained == Drained(acknowledged=1, retried=5)
            kinds = [type(error) for error in drained.failed]
            assert (kinds[0], kinds[3], kinds[4]) == (ValueError, SessionOwnershipError, TaskLeft)
            assert (await session.scalars(select(notes.Effect.what))).all() == ["fine"]
            session.add(notes.Note(content="error"))
            with pytest.raises(ValueError, match="error"):
                await drain(session, metadata=notes.metadata)
            assert await session.scalar(select(func.count()).select_from(notes.Note)) == 7

    notes.install()
    asyncio.run(test())


def test_a_relation_that_is_not_loaded_is_refused_as_by_a_listener(
    notes: Notes, engine: Engine, loop_driver: str
) -> None:
    base: Any = notes.Base

    class Remark(PubSub, base):  # type: ignore[misc]
        __tablename__ = "remark"
        id: Mapped[int] = mapped_column(primary_key=True)
        note_id: Mapped[int] = mapped_column(ForeignKey("note.id"))
        note: Mapped[Any] = relationship(notes.Note)

    @after_insert(Remark)
    async def touch(new: Remark) -> None:
        assert new.note.content == "a"

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            session.add(Remark(note=notes.Note(content="a")))
            with pytest.raises(LazyLoad, match=r"touched Remark\.note"):
                await drain(session, metadata=notes.metadata)

    notes.install()
    asyncio.run(test())


def test_batches_retries_messages_and_outside_handlers_are_as_elsewhere(
    notes: Notes, engine: Engine, loop_driver: str
) -> None:
    class Seen(Message, metadata=notes.metadata, name="seen"):
        number: int

    sizes = []

    @after_insert(notes.Note, batch=10)
    async def count(events: list[Insert[Any]], session: AsyncSession) -> None:
        sizes.append(len(events))
        await publish(session, Seen(number=len(events)))

    @after_insert(notes.Note, transactional=False)
    async def send(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("send", new.content))
        await session.commit()

    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(0), max_attempts=2))
    async def fail() -> None:
        raise ValueError("never")

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            session.add_all([notes.Note(content=content) for content in "abc"])
            drained = await drain(session, raises=False, metadata=notes.metadata)
            assert drained == Drained(acknowledged=6, retried=3, dead=3)
            assert (await session.scalars(select(notes.Effect.what))).all() == ["a", "b", "c"]
            # Nobody listens to messages; the batch was one.
            assert sizes == [3]

    notes.install()
    asyncio.run(test())


def test_time_that_is_up_while_nothing_is_asked_of_the_server_leaves_the_transaction_alone(
    notes: Notes, engine: Engine, loop_driver: str
) -> None:
    @after_insert(notes.Note, timeout=timedelta(milliseconds=50))
    async def slow(new: Any, session: AsyncSession) -> None:
        await asyncio.sleep(30 if new.content == "slow" else 0)

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            session.add_all([notes.Note(content="slow"), notes.Note(content="quick")])
            drained = await drain(session, raises=False, metadata=notes.metadata)
            assert drained == Drained(acknowledged=1, retried=1)
            assert isinstance(drained.failed[0], HandlerTimeout)

    notes.install()
    asyncio.run(test())


def test_an_awaited_handler_is_refused_by_a_plain_session(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note)
    async def index(new: Any) -> None: ...

    @after_insert(notes.Note)
    def plain(session: Session) -> None:
        session.add(notes.effect("plain", "done"))

    notes.install()
    session.add(notes.Note(content="a"))
    with pytest.raises(ConfigurationError, match=r"'index' is async def, .* Write: await drain\(session\)"):
        drain(session, metadata=notes.metadata)
    assert drain(session, listeners=[plain], metadata=notes.metadata) == Drained(acknowledged=1)
