"""Time, crashes and order in a test: retries, failing commits, second deliveries, any order."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sqla_pubsub import Insert, RetryLater, RetryPolicy, Update, after_insert, after_update
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing import (
    Drained,
    advance,
    deliver_twice,
    drain,
    fail_commit,
    in_any_order,
    published,
    retries,
)
from tests.deliver.notes import Notes
from tests.testing.conftest import awaited_session

pytestmark = pytest.mark.one_driver


def effects(session: Session, notes: Notes) -> list[Any]:
    return list(session.scalars(select(notes.Effect.what).order_by(notes.Effect.id)))


def test_time_passes_for_what_waits_and_delays_have_no_jitter(notes: Notes, session: Session) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(initial=timedelta(minutes=1), factor=2, max_attempts=3))
    def fail(event: Insert[Any]) -> None:
        raise ValueError(f"try {event.attempt}")

    @after_insert(notes.Note)
    def later(event: Insert[Any]) -> None:
        if event.attempt == 1:
            raise RetryLater(timedelta(hours=5))

    notes.install()
    session.add(notes.Note(content="a"))
    assert drain(session, raises=False, metadata=notes.metadata) == Drained(retried=2)
    one, other = retries(session, metadata=notes.metadata)
    assert (one.listener, one.attempt, other.listener) == ("fail", 1, "later")
    assert timedelta(seconds=30) < one.due_in <= timedelta(minutes=1)
    assert "ValueError: try 1" in one.error
    advance(session, metadata=notes.metadata, seconds=29)
    assert drain(session, raises=False, metadata=notes.metadata) == Drained()
    advance(session, metadata=notes.metadata, seconds=31)
    assert drain(session, raises=False, metadata=notes.metadata) == Drained(retried=1)
    [again] = retries(session, "fail", metadata=notes.metadata)
    assert timedelta(minutes=1) < again.due_in <= timedelta(minutes=2)
    advance(session, metadata=notes.metadata, hours=5)
    assert drain(session, raises=False, metadata=notes.metadata) == Drained(acknowledged=1, dead=1)
    assert retries(session, metadata=notes.metadata) == []


@pytest.mark.parametrize("duration", [{"years": 1}, {"hours": -1}, {}], ids=str)
def test_time_does_not_go_back(session: Session, duration: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"advance\(\).* Give what timedelta takes"):
        advance(session, **duration)


@pytest.mark.parametrize("transactional", [True, False])
def test_an_event_that_is_delivered_twice_shows_what_its_handler_does_outside(
    notes: Notes, session: Session, transactional: bool
) -> None:
    mails = []

    @after_insert(notes.Note, transactional=transactional)
    def send(event: Insert[Any], session: Session) -> None:
        mails.append(event.id)
        session.add(notes.effect("send", event.new.content))

    notes.install()
    session.add_all([notes.Note(content="a"), notes.Note(content="b")])
    event = published(session, notes.Note)[0]
    assert deliver_twice(session, event, metadata=notes.metadata) == Drained(acknowledged=1)
    assert mails == [event.id, event.id]
    # Outside of a transaction nothing is undone by a crash.
    assert effects(session, notes) == (["a"] if transactional else ["a", "a"])
    with pytest.raises(ConfigurationError, match=r"is not due: it was handled"):
        deliver_twice(session, event, metadata=notes.metadata)
    assert drain(session, metadata=notes.metadata) == Drained(acknowledged=1)


def test_what_a_handler_raises_at_its_second_delivery_is_raised(notes: Notes, session: Session) -> None:
    seen = set()

    @after_insert(notes.Note)
    def once(event: Insert[Any]) -> None:
        assert event.id not in seen, "paid twice"
        seen.add(event.id)

    notes.install()
    session.add(notes.Note(content="a"))
    with pytest.raises(AssertionError, match="paid twice"):
        deliver_twice(session, published(session, notes.Note)[0], metadata=notes.metadata)


@pytest.mark.parametrize("options", [{}, {"batch": 10}, {"effects": "database"}], ids=str)
def test_a_commit_that_fails_has_its_events_handled_again(
    notes: Notes, session: Session, options: dict[str, Any]
) -> None:
    calls: Counter[str] = Counter()

    def handle(new: str, session: Session) -> None:
        calls[new] += 1
        session.add(notes.effect("handle", new))

    if "batch" in options:

        @after_insert(notes.Note, **options)
        def several(events: list[Insert[Any]], session: Session) -> None:
            for event in events:
                handle(event.new.content, session)
    else:

        @after_insert(notes.Note, **options)
        def one(new: Any, session: Session) -> None:
            handle(new.content, session)

    notes.install()
    session.add_all([notes.Note(content=content) for content in "ab"])
    with fail_commit():
        assert drain(session, metadata=notes.metadata) == Drained(acknowledged=2)
    assert sum(calls.values()) > 2
    assert effects(session, notes) == ["a", "b"]
    session.add(notes.Note(content="c"))
    assert drain(session, metadata=notes.metadata) == Drained(acknowledged=1)
    assert calls["c"] == 1


def test_any_order_is_one_that_a_seed_gives_and_keeps_that_of_ordered_listeners(
    notes: Notes, session: Session
) -> None:
    free, ordered = [], []

    @after_insert(notes.Note)
    def any_order(new: Any) -> None:
        free.append(new.content)

    @after_update(notes.Note, ordered=True)
    def in_order(event: Update[Any]) -> None:
        ordered.append(event.new.content)

    notes.install()
    orders = []
    for seed in (1, 1, 2):
        free.clear()
        ordered.clear()
        rows = [notes.Note(content=content) for content in "abcdef"]
        session.add_all(rows)
        session.flush()
        for step in "12":
            rows[0].content = f"a{step}"
            rows[1].content = f"b{step}"
            session.flush()
        with in_any_order(seed=seed):
            assert drain(session, metadata=notes.metadata) == Drained(acknowledged=10)
        orders.append("".join(free))
        assert ordered.index("a1") < ordered.index("a2")
        assert ordered.index("b1") < ordered.index("b2")
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[2]) == list("abcdef")


@pytest.mark.parametrize("loop_driver", ["psycopg", "asyncpg"])
def test_all_of_it_is_awaited_on_a_loop(notes: Notes, engine: Engine, loop_driver: str) -> None:
    calls = []

    @after_insert(notes.Note)
    async def handle(event: Insert[Any], session: AsyncSession) -> None:
        calls.append(event.new.content)
        if event.new.content == "fail" and event.attempt == 1:
            raise ValueError("fail")

    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            session.add_all([notes.Note(content=content) for content in ("twice", "fail")])
            event = (await published(session, notes.Note, content="twice"))[0]
            await deliver_twice(session, event, metadata=notes.metadata)
            assert calls == ["twice", "twice"]
            await drain(session, raises=False, metadata=notes.metadata)
            [waiting] = await retries(session, "handle", metadata=notes.metadata)
            assert waiting.attempt == 1
            await advance(session, metadata=notes.metadata, hours=1)
            with fail_commit(), in_any_order(3):
                assert await drain(session, metadata=notes.metadata) == Drained(retried=1)

    notes.install()
    with pytest.raises(Exception, match="made to fail by fail_commit"):
        asyncio.run(test())
