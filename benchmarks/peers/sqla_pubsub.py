"""Ours: default settings, one listener, psycopg2.

``--opt effects=database`` and ``--opt batch=500`` choose the two declarations that spare savepoints;
``--opt write=flush`` lets a handler write its row itself by a flush, instead of leaving it in the session.
``--opt concurrency=10`` declares ``async def`` handlers, of which so many run at once, on psycopg or
``--opt driver=asyncpg``; ``--opt write=execute`` lets them execute one INSERT each, instead of adding a row to the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, MetaData, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, foreign, mapped_column, relationship

from benchmarks.harness.adapter import Cursor, PeerBase, Producer
from benchmarks.harness.context import Context
from benchmarks.harness.handled import handled
from benchmarks.harness.producers import SqlaProducer
from sqla_pubsub import Listener, PubSub, after_insert


class Base(DeclarativeBase):
    """The models of this adapter."""


class Author(Base):
    """Who wrote an article."""

    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Article(Base):
    """What is commented on."""

    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int]
    title: Mapped[str]
    author: Mapped[Author] = relationship(primaryjoin=lambda: foreign(Article.author_id) == Author.id)


class Comment(PubSub, Base):
    """The tracked table."""

    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    article_id: Mapped[int]
    author: Mapped[str]
    content: Mapped[str]
    article: Mapped[Article] = relationship(primaryjoin=lambda: foreign(Comment.article_id) == Article.id)


class Result(Base):
    """What handlers write."""

    __tablename__ = "result"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    comment_id: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[str]


def _declare(context: Context) -> MetaData:
    """Declare the listeners."""
    batch = context.option("batch", 0)
    options: dict[str, Any] = {"batch": batch} if batch else {"effects": context.option("effects", "any")}
    for number in range(context.workload.listeners):
        after_insert(Comment, name=f"bench_{number}", **options)(_handler(context, number))
    return Base.metadata


def _handler(context: Context, listener: int) -> Callable[..., None]:
    """Return the handler of this run."""
    note = f"done by {listener}"
    writes, record = context.workload.writes, partial(handled, listener=listener)
    if context.workload.handler == "change" and (
        context.option("batch", 0) or context.option("concurrency", 0)
    ):
        raise SystemExit(
            f"{context.workload.name} has no handler with batch= or concurrency=. Leave the option out."
        )

    def on_comment(new: Any) -> None:
        record(new.id)

    def on_comment_lazy(new: Any) -> None:
        assert new.article.author.email
        record(new.id)

    def on_comment_left(new: Any, session: Session) -> None:
        session.add(Result(comment_id=new.id, note=note))
        record(new.id)

    def on_comment_flush(new: Any, session: Session) -> None:
        session.add(Result(comment_id=new.id, note=note))
        session.flush()
        record(new.id)

    def on_comment_statement(new: Any, session: Session) -> None:
        session.execute(insert(Result), {"comment_id": new.id, "note": note})
        record(new.id)

    def on_comment_change(new: Any, session: Session) -> None:
        # As it is now: `new` stands for what it was, and is in the session, which would give it as it is.
        session.get_one(Comment, new.id, populate_existing=True).author = note
        record(new.id)

    def on_comments(events: list[Any], session: Session) -> None:
        if writes:
            session.execute(insert(Result), [{"comment_id": each.new.id, "note": note} for each in events])
        for event in events:
            record(event.new.id)

    async def on_comment_awaited(new: Any) -> None:
        record(new.id)

    async def on_comment_added(new: Any, session: AsyncSession) -> None:
        session.add(Result(comment_id=new.id, note=note))
        record(new.id)

    async def on_comment_executed(new: Any, session: AsyncSession) -> None:
        await session.execute(insert(Result), {"comment_id": new.id, "note": note})
        record(new.id)

    if context.option("concurrency", 0) and writes:
        adds = context.workload.handler == "result" and context.option("write", "leave") == "leave"
        return on_comment_added if adds else on_comment_executed
    if context.option("concurrency", 0):
        return on_comment_awaited
    if context.option("batch", 0):
        return on_comments
    flushes = context.option("write", "leave") == "flush"
    return {
        "nothing": on_comment,
        "relationships": on_comment_lazy,
        "result": on_comment_flush if flushes else on_comment_left,
        "statement": on_comment_statement,
        "change": on_comment_change,
    }[context.workload.handler]


class Peer(PeerBase):
    """Ours."""

    name = "sqla_pubsub"
    packages = ("sqla-pubsub", "SQLAlchemy", "psycopg2-binary")
    delivery = "exactly once per database effect (claim, handler and acknowledgement in one transaction)"
    settings = {"configuration": "defaults", "driver": "psycopg2"}
    rows = {
        "drain": 60_000, "drain_db": 30_000, "drain_statement": 15_000, "drain_change": 15_000,
        "drain_lazy": 10_000, "drain_4": 15_000, "drain_10": 6000,
    }  # fmt: skip
    many_listeners = True
    handlers = ("nothing", "result", "statement", "change", "relationships")

    def setup(self, context: Context) -> None:
        """Install outbox and trigger on the harness's tables."""
        _declare(context).create_all(create_engine(context.url("psycopg2")))

    def producer(self, context: Context) -> Producer:
        """Insert through a plain session: the trigger does the rest."""
        return SqlaProducer(context)

    def pending(self, context: Context, cursor: Cursor) -> int:
        cursor.execute("SELECT count(*) FROM pubsub_outbox")
        return int(cursor.fetchone()[0])

    def consume(self, context: Context) -> None:
        metadata = _declare(context)
        if context.option("concurrency", 0):
            asyncio.run(_on_a_loop(context, metadata))
        else:
            Listener(create_engine(context.url("psycopg2")), metadata).run()


async def _on_a_loop(context: Context, metadata: MetaData) -> None:
    # An earlier commit may have none.
    from sqla_pubsub.asyncio import AsyncListener

    engine = create_async_engine(context.url(context.option("driver", "psycopg")))
    await AsyncListener(engine, metadata, concurrency=context.option("concurrency", 0)).run()
