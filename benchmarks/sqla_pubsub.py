"""The adapter of sqla-pubsub for the peer benchmark: default settings, one listener.

Loaded by the harness with ``BENCH_ADAPTERS=benchmarks``. ``--opt effects=database`` and
``--opt batch=500`` choose the two declarations that spare savepoints; ``--opt write=flush`` and
``--opt write=core`` let the handler of ``drain_db`` write its row itself, by a flush or by an INSERT,
instead of leaving it in the session.
"""

import os
import sys
from pathlib import Path
from typing import Any

from benchlib.adapter import PeerBase
from benchlib.handled import handled

HERE = Path(__file__).resolve().parent


def _declare(ctx: Any) -> Any:
    """Declare models and the listener; return the metadata."""
    # The script's own folder holds a file of the package's name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]
    from sqlalchemy import BigInteger
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    from sqla_pubsub import PubSub, after_insert

    class Base(DeclarativeBase):
        pass

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        article_id: Mapped[int]
        author: Mapped[str]
        content: Mapped[str]

    class Result(Base):
        __tablename__ = "result"
        id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        comment_id: Mapped[int] = mapped_column(BigInteger)
        note: Mapped[str]

    batch = ctx.opt("batch", 0)
    options: dict[str, Any] = {"batch": batch} if batch else {"effects": ctx.opt("effects", "any")}
    after_insert(Comment, name="bench", **options)(_handler(ctx, Result))
    return Base.metadata


def _handler(ctx: Any, result: Any) -> Any:
    """Return the handler of this run."""
    from sqlalchemy import insert

    def add(session: Any, comment_id: int) -> None:
        session.add(result(comment_id=comment_id, note="done"))

    def flush(session: Any, comment_id: int) -> None:
        add(session, comment_id)
        session.flush()

    def core(session: Any, comment_id: int) -> None:
        session.execute(insert(result), {"comment_id": comment_id, "note": "done"})

    write = {"leave": add, "flush": flush, "core": core}[ctx.opt("write", "leave")]

    def on_comments(events: list[Any], session: Any) -> None:
        if ctx.handler_db:
            session.execute(
                insert(result), [{"comment_id": event.new.id, "note": "done"} for event in events]
            )
        for event in events:
            handled(event.new.id)

    def on_comment_db(new: Any, session: Any) -> None:
        write(session, new.id)
        handled(new.id)

    def on_comment(new: Any) -> None:
        handled(new.id)

    if ctx.opt("batch", 0):
        return on_comments
    return on_comment_db if ctx.handler_db else on_comment


class Peer(PeerBase):
    """Ours."""

    name = "sqla_pubsub"
    packages = ("sqla-pubsub", "SQLAlchemy", "psycopg2-binary")
    delivery = "exactly once per database effect (claim, handler and acknowledgement in one transaction)"
    settings = {"configuration": "defaults", "driver": "psycopg2"}  # noqa: RUF012
    n = {"drain": 60000, "drain_db": 30000}  # noqa: RUF012

    def python(self, ctx: Any) -> str:
        """Run in the environment that holds the package."""
        return os.environ.get("BENCH_PYTHON", sys.executable)

    def setup(self, ctx: Any) -> None:
        """Install outbox and trigger on the harness's tables."""
        from sqlalchemy import create_engine

        metadata = _declare(ctx)
        metadata.create_all(create_engine(ctx.sqla_url("psycopg2")))

    def producer(self, ctx: Any) -> Any:
        """Insert through a plain Session: the trigger does the rest."""
        from benchlib.sqla import SqlaProducer

        return SqlaProducer(ctx)

    def pending(self, ctx: Any, cur: Any) -> int:
        """Count what is not acknowledged."""
        cur.execute("SELECT count(*) FROM pubsub_outbox")
        return int(cur.fetchone()[0])

    def consume(self, ctx: Any) -> None:
        """Run one listener process."""
        from sqlalchemy import create_engine

        from sqla_pubsub import Listener

        metadata = _declare(ctx)
        Listener(create_engine(ctx.sqla_url("psycopg2")), metadata).run()
