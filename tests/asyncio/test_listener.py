"""An AsyncListener: what an ``async def`` handler writes is committed together with its acknowledgement."""

import asyncio
import sys
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import ForeignKey, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import mapped_column, relationship

from sqla_pubsub import ConfigurationError, RetryPolicy, after_insert
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.errors import SessionOwnershipError
from tests.asyncio.conftest import AsyncNotes
from tests.deliver.notes import DEADLINE
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)


def test_what_a_handler_adds_is_written_and_its_event_settled(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("handle", new.content))

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert notes.effects("handle") == ["a", "b", "c"]
    assert notes.left() == 0


def test_what_a_handler_executes_is_seen_by_the_next_and_undone_with_its_event(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        seen = len((await session.scalars(select(notes.Effect))).all())
        await session.execute(insert(notes.Effect).values(listener="handle", what=f"{new.content}{seen}"))
        await session.flush()
        if new.content == "b":
            raise ValueError("no")

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert notes.effects("handle") == ["a0", "c1"]
    assert [letter.id for letter in notes.dead()] == [2]


def test_a_batch_is_handled_in_one_call(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, batch=10)
    async def handle(events: Any, session: AsyncSession) -> None:
        await session.execute(
            insert(notes.Effect), [{"listener": "handle", "what": event.new.content} for event in events]
        )

    notes.write("a", "b", "c")
    assert asyncio.run(notes.drained()) == 3
    assert notes.effects("handle") == ["a", "b", "c"]


def test_a_handler_that_outruns_its_timeout_is_ended_and_counted(notes: AsyncNotes) -> None:
    ended = []

    @after_insert(notes.Note, retry=ONCE, timeout=timedelta(milliseconds=100))
    async def handle(new: Any, session: AsyncSession) -> None:
        # Nothing is awaited here, so that the others are never late; they are written after the call.
        session.add(notes.effect("handle", new.content))
        if new.content == "b":
            try:
                await session.flush()
                await asyncio.Event().wait()
            finally:
                ended.append(new.content)

    notes.write("a", "b", "c")
    asyncio.run(notes.drained())
    assert ended == ["b"]
    assert notes.effects("handle") == ["a", "c"]
    assert "ran longer than its timeout" in notes.dead()[0].reason


def test_a_running_listener_is_woken_and_stops_at_the_end_of_the_body(notes: AsyncNotes) -> None:
    handled = asyncio.Event()

    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("handle", new.content))
        handled.set()

    async def program() -> None:
        async with notes.listening() as listener, listener.running():
            for content in "ab":
                handled.clear()
                await asyncio.to_thread(notes.write, content)
                await asyncio.wait_for(handled.wait(), DEADLINE)

    asyncio.run(program())
    assert notes.effects("handle") == ["a", "b"]
    assert notes.left() == 0


def test_what_ended_a_listener_is_raised_at_the_end_of_the_body(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any) -> None: ...

    notes.install()
    notes.execute("DROP TABLE pubsub_outbox CASCADE")

    async def program() -> None:
        async with notes.async_engine() as engine:
            listener = AsyncListener(engine, notes.metadata)
            with pytest.raises(ConfigurationError, match="outbox"):
                await _until_it_ends(listener)
            assert isinstance(listener.error, ConfigurationError)

    asyncio.run(program())


def test_a_cancelled_listener_writes_nothing_of_what_it_has_in_hand(notes: AsyncNotes) -> None:
    begun = asyncio.Event()

    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        begun.set()
        await asyncio.Event().wait()

    async def program() -> None:
        async with notes.listening(
            grace=timedelta(milliseconds=200), commit_every=timedelta(milliseconds=100)
        ) as listener:
            task = asyncio.create_task(listener.run())
            await asyncio.wait_for(begun.wait(), DEADLINE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    notes.write("a")
    asyncio.run(program())
    assert notes.effects("handle") == []
    assert [(entry.id, entry.attempt) for entry in notes.entries()] == [(1, 0)]


def test_slow_transactional_handlers_run_beside_each_other(notes: AsyncNotes) -> None:
    inside = 0
    all_inside = asyncio.Event()

    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        nonlocal inside
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        inside += 1
        if inside == 3:
            all_inside.set()
        await asyncio.wait_for(all_inside.wait(), DEADLINE)

    async def program() -> None:
        async with notes.listening(concurrency=3, claim_size=1) as listener, listener.running():
            await asyncio.to_thread(notes.write, "a", "b", "c")
            await asyncio.wait_for(all_inside.wait(), DEADLINE)
            await asyncio.to_thread(wait_until, lambda: notes.left() == 0, DEADLINE, "all to be settled")

    asyncio.run(program())
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "c"]


async def _until_it_ends(listener: AsyncListener) -> None:
    async with listener.running():
        while listener.error is None:
            await asyncio.sleep(0)


def test_a_handler_that_exits_or_is_cancelled_by_itself_has_failed(notes: AsyncNotes) -> None:
    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))
        match new.content:
            case "exit":
                sys.exit(3)
            case "cancelled":
                raise asyncio.CancelledError
            case _:
                pass

    notes.write("a", "exit", "cancelled", "b")
    assert asyncio.run(notes.drained()) == 4
    assert notes.effects("handle") == ["a", "b"]
    reasons = [letter.reason for letter in notes.dead()]
    assert "SystemExit(3)" in reasons[0]
    assert "was cancelled" in reasons[1]


@pytest.mark.empty_database
def test_a_relationship_that_is_not_loaded_is_named(notes: AsyncNotes) -> None:
    notes.Effect.note_id = mapped_column(ForeignKey(notes.Note.id))
    notes.Effect.note = relationship(notes.Note)
    notes.Note.effects = relationship(notes.Effect, overlaps="note")

    @after_insert(notes.Note, retry=ONCE)
    async def handle(new: Any, session: AsyncSession) -> None:
        if new.content == "a":
            assert await session.run_sync(lambda _: new.effects) == []
        new.effects  # noqa: B018

    notes.write("a", "b")
    asyncio.run(notes.drained())
    [letter] = notes.dead()
    assert letter.id == 2
    assert "touched Note.effects, which is not loaded" in letter.reason
    assert "Load it for the whole group with load=[Note.effects] of the decorator, await it" in letter.reason


def test_a_session_is_of_no_use_after_its_handler_has_returned(notes: AsyncNotes) -> None:
    kept: list[AsyncSession] = []

    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        kept.append(session)

    async def late() -> None:
        with pytest.raises(SessionOwnershipError, match="after the handler had returned"):
            await kept[0].execute(select(1))
        with pytest.raises(SessionOwnershipError, match="after the handler had returned"):
            kept[0].add(notes.effect("handle", "late"))

    notes.write("a")
    asyncio.run(notes.drained())
    asyncio.run(late())
    assert notes.effects("handle") == []


def test_context_variables_of_a_handler_are_gone_at_the_next(notes: AsyncNotes) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    @after_insert(notes.Note)
    async def handle(new: Any) -> None:
        seen.append(tenant.get())
        tenant.set(new.content)

    notes.write("a", "b")
    asyncio.run(notes.drained())
    assert seen == ["nobody", "nobody"]


def test_a_plain_listener_and_one_of_a_loop_leave_each_others_events_alone(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def awaited(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("awaited", new.content))

    @after_insert(notes.Note)
    def plain(new: Any, session: Any) -> None:
        session.add(notes.effect("plain", new.content))

    notes.write("a")
    assert notes.drain() == 1
    assert (notes.effects("plain"), notes.effects("awaited")) == (["a"], [])
    assert asyncio.run(notes.drained()) == 1
    assert (notes.effects("plain"), notes.effects("awaited")) == (["a"], ["a"])
    with pytest.raises(ConfigurationError, match=r"'awaited' is async def\. Run it with sqla_pubsub.asyncio"):
        notes.drain("awaited")
    with pytest.raises(ConfigurationError, match="'plain' is a plain function"):
        asyncio.run(notes.drained("plain"))


def test_a_small_pool_is_never_used_up_by_transactional_handlers(notes: AsyncNotes) -> None:
    """The default one has fifteen connections; those that listen and claim come first."""

    @after_insert(notes.Note)
    async def inside(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="inside", what=new.content))

    @after_insert(notes.Note, transactional=False)
    async def outside(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="outside", what=new.content))

    async def program() -> None:
        notes.install()
        async with (
            notes.async_engine(pool_size=6, max_overflow=0, pool_timeout=2) as engine,
            AsyncListener(engine, notes.metadata, concurrency=50).running(),
        ):
            await asyncio.to_thread(notes.write, *"abcdefgh")
            await asyncio.to_thread(wait_until, lambda: notes.left() == 0, DEADLINE, "all to be settled")

    asyncio.run(program())
    for name in ("inside", "outside"):
        assert sorted(map(str, notes.effects(name))) == list("abcdefgh")


def test_a_handler_that_does_not_let_itself_be_cancelled_is_given_up(notes: AsyncNotes) -> None:
    let_go: list[asyncio.Event] = []

    @after_insert(notes.Note, retry=ONCE, timeout=timedelta(milliseconds=100))
    async def handle(new: Any, session: AsyncSession) -> None:
        # Nothing is awaited here, so that the others are never late; they are written after the call.
        session.add(notes.effect("handle", new.content))
        if new.content == "b":
            let_go.append(asyncio.Event())
            while not let_go[0].is_set():
                with suppress(asyncio.CancelledError):
                    await session.flush()
                    await let_go[0].wait()

    async def program() -> int:
        handled = await notes.drained()
        let_go[0].set()
        return handled

    notes.write("a", "b", "c")
    assert asyncio.run(program()) == 3
    assert notes.effects("handle") == ["a", "c"]
    assert "ran longer than its timeout" in notes.dead()[0].reason


def test_a_listener_drains_again_and_again(notes: AsyncNotes) -> None:
    @after_insert(notes.Note)
    async def handle(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what=new.content))

    async def program() -> list[int]:
        drained = []
        async with notes.listening(concurrency=3) as listener:
            for content in ("a", "b", "c"):
                await asyncio.to_thread(notes.write, content)
                drained.append(await listener.drain())
        return drained

    assert asyncio.run(program()) == [1, 1, 1]
    assert sorted(map(str, notes.effects("handle"))) == ["a", "b", "c"]
