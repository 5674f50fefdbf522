"""``current_event``: which event is being handled, for code that is not handed it."""

import asyncio
import logging
import threading
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqla_pubsub import CurrentEvent, Message, RetryPolicy, after_insert, current_event, on_message, publish
from sqla_pubsub.asyncio import AsyncListener
from tests.deliver.notes import Notes, running
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver


@pytest.fixture
def notes(engine: Any) -> Notes:
    return Notes(engine)


def seen_by(notes: Notes) -> list[Any]:
    seen: list[Any] = []

    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=2, initial=timedelta(0), jitter=False))
    def handle(event: Any, session: Session) -> None:
        seen.append((current_event.get(), event.id, event.attempt))
        if len(seen) == 1:
            raise ValueError

    return seen


def test_a_handler_is_told_of_its_event_and_of_its_attempt(notes: Notes) -> None:
    seen = seen_by(notes)
    notes.write("a", "b")
    notes.drain()
    wait_until(lambda: notes.drain() == 0 and notes.left() == 0, 15, "the retry")
    assert sorted((each.id, each.attempt) for each, *_ in seen) == [(1, 1), (1, 2), (2, 1)]
    assert all((each.id, each.attempt) == (ident, attempt) for each, ident, attempt in seen)
    assert seen[0][0]._replace(occurred_at=None) == CurrentEvent("handle", 1, 1, "INSERT", "note", (1,))
    assert seen[0][0].occurred_at is not None
    assert current_event.get() is None


def test_a_batch_and_a_message_are_told_too(notes: Notes) -> None:
    class Seen(Message, metadata=notes.metadata, name="seen"):
        id: int

    seen: list[Any] = []

    @after_insert(notes.Note, batch=10, name="together")
    def together(events: Any) -> None:
        seen.append(current_event.get())

    @on_message(Seen, transactional=False)
    def message(new: Any) -> None:
        seen.append(current_event.get())

    notes.write("a")
    notes.drain()
    with Session(notes.engine) as session, session.begin():
        publish(session, Seen(id=1))
    notes.write("b", "c", "d")
    notes.drain()
    told = [each._replace(occurred_at=None) for each in seen]
    assert CurrentEvent("message", 2, 1, "MESSAGE", "seen", (2,)) in told
    batches = [each for each in seen if each.listener == "together"]
    assert [ident for each in batches for ident in each.ids] == [1, 3, 4, 5]
    assert all(each.id == each.ids[0] for each in batches)


def test_it_is_told_while_what_the_handler_left_is_written_and_by_every_thread(notes: Notes) -> None:
    seen: list[Any] = []
    two = threading.Barrier(2)

    @after_insert(notes.Note, name="one", effects="database")
    def one(new: Any, session: Session) -> None:
        two.wait(15)
        event.listen(session, "after_flush", lambda *_: seen.append(current_event.get()))
        session.info["written"] = True
        session.add(notes.effect("one", new.content))

    @after_insert(notes.Note, name="two")
    def other(new: Any) -> None:
        two.wait(15)
        seen.append(current_event.get())

    notes.write("a")
    with running(notes.listener("one"), notes.listener("two")):
        wait_until(lambda: notes.left() == 0, 15, "both")
    assert sorted(each.listener for each in seen) == ["one", "two"]


def test_what_a_plain_handler_sets_is_gone_at_the_next(notes: Notes) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        seen.append(tenant.get())
        tenant.set(new.content)

    notes.write("a", "b")
    notes.drain()
    assert seen == ["nobody", "nobody"]
    assert tenant.get() == "nobody"


@pytest.mark.parametrize("transactional", [True, False])
def test_coroutines_beside_each_other_are_each_told_of_their_own(notes: Notes, transactional: bool) -> None:
    seen: list[Any] = []

    @after_insert(notes.Note, transactional=transactional)
    async def handle(event: Any, session: AsyncSession) -> None:
        await session.execute(insert(notes.Effect).values(listener="handle", what="x"))
        for _ in range(3):
            await asyncio.sleep(0)
            found = current_event.get()
            assert found is not None
            seen.append(found.id == event.id)
        seen.append(await asyncio.to_thread(lambda: current_event.get() == found))

    async def program() -> None:
        url = make_url(notes.engine.url.render_as_string(hide_password=False))
        engine = create_async_engine(url.set(drivername="postgresql+psycopg"))
        try:
            await AsyncListener(engine, notes.metadata, concurrency=5).drain()
        finally:
            await engine.dispose()
        assert current_event.get() is None

    notes.write(*map(str, range(20)))
    asyncio.run(program())
    assert seen == [True] * 80
    assert notes.left() == 0


def test_a_logging_filter_can_say_for_which_event_a_line_was_written(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    def add(record: logging.LogRecord) -> bool:
        found = current_event.get()
        record.entry = None if found is None else found.id
        return True

    @after_insert(notes.Note)
    def handle(new: Any) -> None:
        logging.getLogger("shop").warning("handled %s", new.content)

    notes.write("a", "b")
    caplog.handler.addFilter(add)
    logging.getLogger("shop").warning("before")
    notes.drain()
    caplog.handler.removeFilter(add)
    lines = [(each.getMessage(), each.entry) for each in caplog.records if each.name == "shop"]  # type: ignore[attr-defined]
    assert lines == [("before", None), ("handled a", 1), ("handled b", 2)]
