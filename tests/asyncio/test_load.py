"""``load=`` for coroutine functions, which cannot load by touching."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, selectinload

from sqla_pubsub import ListenerConfig, RetryPolicy, after_insert
from sqla_pubsub.asyncio import AsyncListener
from tests.deliver.blog import Blog

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
LONG = ListenerConfig(commit_every=timedelta(seconds=30))
"""So long that the time that events take makes no group smaller."""


@pytest.fixture
def blog(engine: Engine) -> Blog:
    return Blog(engine)


async def drained(blog: Blog, concurrency: int = 1) -> tuple[int, list[str]]:
    """Settle what is due, and return how much that was and which statements named the tables of the blog."""
    url = make_url(str(blog.engine.url.render_as_string(hide_password=False))).set(
        drivername="postgresql+psycopg"
    )
    engine = create_async_engine(url)
    try:
        with blog.statements(engine.sync_engine) as sent:
            listener = AsyncListener(engine, blog.metadata, LONG, concurrency=concurrency)
            return await listener.drain(), sent
    finally:
        await engine.dispose()


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"transactional": False}])
def test_what_an_event_refers_to_is_there_without_an_await(blog: Blog, options: Any) -> None:
    seen: list[str] = []
    load = [selectinload(blog.Comment.article).selectinload(blog.Article.author), blog.Comment.tags]

    @after_insert(blog.Comment, load=load, **options)
    async def index(new: Any, session: AsyncSession) -> None:
        seen.append(f"{new.article.title} by {new.article.author.name} {len(new.tags)}")
        session.add(blog.Job(title=new.article.title))

    blog.fill(30, articles=2)
    count, sent = asyncio.run(drained(blog, concurrency=1 if options.get("transactional", True) else 10))
    assert count == 30
    assert set(seen) == {"article 1 by author 1 0", "article 2 by author 2 0"}
    assert len(blog.titles()) == 30
    # Three statements a group, or a portion, and not three an event: a group of one event, and one of all others.
    assert len(sent) == (
        6 if options.get("transactional", True) else 3 * sum("FROM article" in each for each in sent)
    )
    assert len(sent) <= 3 * 30 / 2


def test_of_a_batch_each_event_has_what_it_refers_to(blog: Blog) -> None:
    seen: list[str] = []

    @after_insert(blog.Comment, batch=20, load=blog.Comment.article)
    async def index(events: Any, session: AsyncSession) -> None:
        await session.execute(select(1))
        seen.extend(each.new.article.title for each in events)

    blog.fill(20, articles=2)
    count, sent = asyncio.run(drained(blog))
    assert count == 20
    assert seen == ["article 1", "article 2"] * 10
    assert len(sent) <= 4


@pytest.mark.parametrize("transactional", [True, False])
def test_what_one_handler_does_to_an_object_another_one_has_not(blog: Blog, transactional: bool) -> None:
    """Many have the same article in hand at the same time, each in a session of its own."""
    inside = 0
    seen: list[Any] = []

    @after_insert(blog.Comment, transactional=transactional, load=blog.Comment.article, retry=ONCE)
    async def index(new: Any, session: AsyncSession) -> None:
        nonlocal inside
        seen.append((new.article.title, dict(new.article.extra)))
        new.article.title = "changed"
        new.article.extra["by"] = new.id
        inside += 1
        while not transactional and inside < 5:
            await asyncio.sleep(0)
        raise ValueError

    blog.fill(5)
    assert asyncio.run(drained(blog, concurrency=5))[0] == 5
    assert seen == [("article 1", {})] * 5
    with Session(blog.engine) as session:
        assert session.get_one(blog.Article, 1).title == "article 1"


def test_counting_on_a_loaded_object_counts_all(blog: Blog) -> None:
    @after_insert(blog.Comment, load=blog.Comment.article)
    async def count(new: Any) -> None:
        new.article.comments += 1

    blog.fill(20)
    assert asyncio.run(drained(blog))[0] == 20
    with Session(blog.engine) as session:
        assert session.get_one(blog.Article, 1).comments == 20


@pytest.mark.parametrize("transactional", [True, False])
def test_of_a_group_whose_load_fails_only_the_events_to_blame_fail(blog: Blog, transactional: bool) -> None:
    seen: list[int] = []

    @after_insert(blog.Comment, transactional=transactional, load=blog.Comment.article, retry=ONCE)
    async def collect(new: Any) -> None:
        seen.append(new.id)

    blog.fill(9, articles=3)
    blog.poison(2)
    assert asyncio.run(drained(blog, concurrency=5))[0] == 9
    assert sorted(seen) == [1, 3, 4, 6, 7, 9]
    assert [letter.new["id"] for letter in blog.dead()] == [2, 5, 8]


def test_what_is_not_asked_for_is_named_with_what_to_ask_for(blog: Blog) -> None:
    @after_insert(blog.Comment, load=blog.Comment.article, retry=ONCE)
    async def collect(new: Any) -> None:
        new.article.author  # noqa: B018

    blog.fill(1)
    asyncio.run(drained(blog))
    [letter] = blog.dead()
    assert (
        "touched Article.author, which is not loaded and needs a statement. Load it for the whole group"
        in letter.reason
    )
    assert "load=[selectinload(...).selectinload(Article.author)]" in letter.reason
    assert "awaitable_attrs" in letter.reason
    assert "session.run_sync" in letter.reason
