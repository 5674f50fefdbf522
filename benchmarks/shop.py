"""The tables and listeners of our own measurements, and what fills them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, BigInteger, Engine, MetaData, create_engine, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import PubSub, after_insert, relay
from sqla_pubsub.outlet import Outlet

COPY = "copy"
_FILL = (
    "INSERT INTO comment (article_id, author, content)"
    " SELECT n, 'author', repeat('x', 200) FROM generate_series(1, :rows) AS n"
)
_numbers = itertools.count(1)


def declare(*names: str, handler: Callable[..., Any] | None = None, **options: Any) -> MetaData:
    """Declare comments that publish, and one listener per name.

    Args:
        names: The names.
        handler: What they call; None copies the comments' ids.
        options: Of the decorator.
    """
    comment, result, tables = _classes()

    def copy(new: Any, session: Session) -> None:
        session.add(result(comment_id=new.id))

    for name in names:
        after_insert(comment, name=name, **options)(handler or copy)
    return tables


def leaving(outlet: Outlet) -> MetaData:
    """Declare comments whose rows go to an outlet."""
    comment, _, tables = _classes()
    relay(after_insert(comment), name="leaving", to=outlet)
    return tables


def _classes() -> tuple[Any, Any, MetaData]:
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
        comment_id: Mapped[int] = mapped_column(BigInteger, index=True)

    return Comment, Result, Base.metadata


metadata = declare(COPY)
"""For ``sqla-pubsub listen benchmarks.shop``."""


@contextmanager
def database(server: str, *names: str) -> Iterator[Engine]:
    """A database with the tables and triggers of these listeners, dropped afterwards."""
    with emptied(server, metadata if names == (COPY,) else declare(*names)) as engine:
        yield engine


@contextmanager
def emptied(server: str, tables: MetaData) -> Iterator[Engine]:
    """A database with these tables and their triggers, dropped afterwards."""
    name = f"bench_{next(_numbers)}"
    administration = create_engine(server, isolation_level="AUTOCOMMIT")
    engine = create_engine(make_url(server).set(database=name))
    with administration.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            tables.create_all(engine)
            yield engine
        finally:
            engine.dispose()
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    administration.dispose()


def address(engine: Engine) -> str:
    """Return the URL of *engine*, for another process."""
    url: URL = engine.url
    return url.render_as_string(hide_password=False)


def fill(engine: Engine, rows: int) -> None:
    """Insert comments in one statement, and tidy up as time would."""
    with engine.begin() as connection:
        connection.execute(text(_FILL), {"rows": rows})
    tidy(engine)


def tidy(engine: Engine) -> None:
    """Let no measurement pay for what was written before it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
