"""Limit of handlers that execute statements: the outbox by hand, and a session of SQLAlchemy with a savepoint for each event.

What one pays who writes his own worker with SQLAlchemy, so that a handler that fails takes no other one's work with it.
"""

from __future__ import annotations

import select

from sqlalchemy import BigInteger, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.harness.context import Context
from benchmarks.harness.handled import handled
from benchmarks.peers import raw_skiplocked
from benchmarks.peers.raw_skiplocked import BATCH, TAKE


class Base(DeclarativeBase):
    """The models of this adapter."""


class Comment(Base):
    """What handlers change."""

    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    article_id: Mapped[int]
    author: Mapped[str]
    content: Mapped[str]


class Result(Base):
    """What handlers write."""

    __tablename__ = "result"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    comment_id: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[str]


class Peer(raw_skiplocked.Peer):
    """The same outbox; its handlers execute their statement through a session."""

    name = "raw_session"
    settings = {
        **raw_skiplocked.Peer.settings,
        "handler": "session.begin_nested(), session.execute(insert(...)) or session.get(...)",
    }
    rows = {"drain_statement": 50_000, "drain_change": 25_000}
    handlers = ("statement", "change")

    def consume(self, context: Context) -> None:
        engine, changes = create_engine(context.url("psycopg2")), context.workload.handler == "change"
        with Session(engine) as session:
            driver = session.connection().connection.driver_connection
            assert driver is not None
            driver.cursor().execute("LISTEN raw_outbox")
            session.commit()

            def handle(comment_id: int) -> None:
                if changes:
                    session.get_one(Comment, comment_id).author = "done"
                else:
                    session.execute(insert(Result), {"comment_id": comment_id, "note": "done"})

            while True:
                taken = session.connection().exec_driver_sql(TAKE, (BATCH,)).all()
                for _, comment in taken:
                    with session.begin_nested():
                        handle(comment["id"])
                    handled(comment["id"])
                session.commit()
                if taken:
                    continue
                if not driver.notifies:
                    select.select([driver], [], [], 1)
                    driver.poll()
                driver.notifies.clear()
