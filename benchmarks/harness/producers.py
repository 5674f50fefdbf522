"""Models and the producer of the systems that stand on SQLAlchemy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import BigInteger, create_engine, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.harness import schema
from benchmarks.harness.adapter import Producer
from benchmarks.harness.context import Context


class Base(DeclarativeBase):
    """Models that nobody tracks."""


class _Columns:
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    article_id: Mapped[int]
    author: Mapped[str]
    content: Mapped[str]


class Comment(_Columns, Base):
    """The tracked table."""

    __tablename__ = "comment"


class CommentBase(_Columns, Base):
    """The untracked one."""

    __tablename__ = "comment_base"


class Result(Base):
    """What handlers write."""

    __tablename__ = "result"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    comment_id: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[str]


class SqlaProducer(Producer):
    """Inserts through a session. Without callbacks, for systems that work by trigger.

    Args:
        context: The run.
        driver: Of PostgreSQL.
        enqueue: Called with the session and an id, in the transaction that inserted the row.
        enqueue_many: Called with the session and many ids, in the same way.
        after_commit: Called with an id when the transaction has committed.
        after_commit_many: Called with many ids, in the same way.
    """

    def __init__(
        self,
        context: Context,
        driver: str = "psycopg2",
        enqueue: Callable[[Session, int], None] | None = None,
        enqueue_many: Callable[[Session, list[int]], None] | None = None,
        after_commit: Callable[[int], None] | None = None,
        after_commit_many: Callable[[list[int]], None] | None = None,
    ) -> None:
        self._engine = create_engine(context.url(driver))
        self._enqueue, self._enqueue_many = enqueue, enqueue_many
        self._after_commit, self._after_commit_many = after_commit, after_commit_many

    def insert_one(self, number: int, base: bool = False) -> tuple[int, float]:
        """Insert one row."""
        with Session(self._engine, expire_on_commit=False) as session:
            row = (CommentBase if base else Comment)(**schema.row(number))
            session.add(row)
            if self._enqueue and not base:
                session.flush()
                self._enqueue(session, row.id)
            session.commit()
            committed = time.time()
        if self._after_commit and not base:
            self._after_commit(row.id)
        return row.id, committed

    def insert_bulk(self, start: int, rows: int, base: bool = False) -> list[int]:
        """Insert many rows."""
        model = CommentBase if base else Comment
        with Session(self._engine, expire_on_commit=False) as session:
            values = [schema.row(number) for number in range(start, start + rows)]
            ids = list(session.scalars(insert(model).returning(model.id), values))
            if self._enqueue_many and not base:
                self._enqueue_many(session, ids)
            session.commit()
        if self._after_commit_many and not base:
            self._after_commit_many(ids)
        return ids

    def scalar(self, query: str) -> Any:
        """Return the value of a query."""
        with self._engine.connect() as connection:
            return connection.execute(text(query)).scalar()
