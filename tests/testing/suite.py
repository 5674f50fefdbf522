"""A user's project with its own suite of tests, run by pytest in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.forked import run_python

MODELS = """
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sqla_pubsub import PubSub


class Base(DeclarativeBase): ...


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    article_id: Mapped[int] = mapped_column(ForeignKey("article.id"))
    content: Mapped[str]
    article: Mapped[Article] = relationship()


class Revision(Base):
    __tablename__ = "revision"
    id: Mapped[int] = mapped_column(primary_key=True)
    comment_id: Mapped[int]
    content: Mapped[str]
"""
LISTENERS = """
from sqlalchemy.orm import Session

from sqla_pubsub import after_insert, after_update

from models import Comment, Revision

mails = []


@after_insert(Comment)
def mail(new: Comment) -> None:
    mails.append((new.article.title, new.content))


@after_update(Comment, of=[Comment.content])
def keep_history(old: Comment, session: Session) -> None:
    session.add(Revision(comment_id=old.id, content=old.content))
"""
AWAITED_LISTENERS = """
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from sqla_pubsub import Insert, RetryPolicy, after_insert, after_update

from models import Comment, Revision

mails = []


@after_insert(Comment, load=[Comment.article], retry=RetryPolicy(initial=timedelta(minutes=1)))
async def mail(event: Insert[Comment]) -> None:
    if event.new.content == "offline" and event.attempt == 1:
        raise ConnectionError("the mail server is away")
    mails.append((event.new.article.title, event.new.content))


@after_update(Comment, of=[Comment.content])
async def keep_history(old: Comment, session: AsyncSession) -> None:
    session.add(Revision(comment_id=old.id, content=old.content))
"""
CONFTEST = """
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import listeners


@pytest.fixture(scope="session")
def engine(pubsub_session_database):
    engine = create_engine(pubsub_session_database)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine):
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()
"""
AWAITED_CONFTEST = """
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import listeners

{header}
async def session(pubsub_session_database):
    url = make_url(pubsub_session_database).set(drivername="postgresql+{driver}")
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        transaction = await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        await transaction.rollback()
    await engine.dispose()
"""
SHARED_SERVER = """
import os

import pytest


@pytest.fixture(scope="session")
def pubsub_postgresql():
    return os.environ["SUITE_SERVER"]
"""


class Suite:
    """A folder with models, listeners and tests.

    Args:
        folder: An empty folder.
        server: URL of a server that the suite may use.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "SUITE_SERVER": server,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.configure("-p no:asyncio -p no:anyio")
        self.write("models.py", MODELS)
        self.write("listeners.py", LISTENERS)

    def configure(self, options: str, setting: str = "") -> None:
        """Write the settings of pytest."""
        always = "-p no:cacheprovider --strict-markers --strict-config -W error"
        self.write("pytest.ini", f"[pytest]\naddopts = {always} {options}\n{setting}\n")

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> str:
        """Run pytest, and return what it printed."""
        # A process that was forked has the library already, whose assertions pytest would rewrite.
        known = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        command = ["-m", "pytest", "-q", "-W", known, *arguments]
        done = run_python(command, folder=self.folder, environment=self._environment, seconds=180)
        return done.stdout + done.stderr

    def run_anew(self, *arguments: str, **variables: str) -> str:
        """Do the same in a process that has imported nothing before."""
        environment: Mapping[str, str] = {**self._environment, **variables}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr
