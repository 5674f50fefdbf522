"""`inline` through the clients of web frameworks: FastAPI, Flask with Flask-SQLAlchemy, Litestar with Advanced Alchemy."""

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, cast

import httpx
import pytest
from fastapi import Depends, FastAPI
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sqla_pubsub import Message, after_insert, on_message, publish
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing import Drained, inline
from tests.deliver.notes import Notes

with warnings.catch_warnings():
    # Litestar imports Advanced Alchemy, which uses what SQLAlchemy 2.1 calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
    from litestar import Litestar
    from litestar import post as litestar_post
    from litestar.di import Provide
    from litestar.testing import TestClient

pytestmark = pytest.mark.one_driver
REFUSED = "joined to the connection of the test"
INFERRED = "ignore:.*[Ii]nferred:DeprecationWarning"
"""What newer versions of Litestar want is not in older ones."""


async def post(app: FastAPI, path: str, **parameters: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post(path, params=parameters)).status_code == 200


def test_requests_of_a_client_are_followed_by_their_handlers(copied: Notes, engine: Engine) -> None:
    class Viewed(Message, metadata=copied.metadata, name="viewed"):
        note_id: int

    @on_message(Viewed)
    def count(new: Viewed, session: Session) -> None:
        session.add(copied.effect("count", f"viewed {new.note_id}"))

    app = FastAPI()
    factory = sessionmaker()

    def session_of() -> Any:
        with factory() as session:
            yield session

    @app.post("/notes")
    def write(content: str, session: Annotated[Any, Depends(session_of)]) -> None:
        note = copied.Note(content=content)
        session.add(note)
        session.flush()
        publish(session, Viewed(note_id=note.id))
        session.commit()

    copied.install()
    with engine.connect() as connection:
        connection.begin()
        factory.configure(bind=connection, join_transaction_mode="create_savepoint")
        with inline(factory, metadata=copied.metadata):
            asyncio.run(post(app, "/notes", content="a"))
            with factory() as session:
                assert sorted(session.scalars(select(copied.Effect.what))) == ["a", "viewed 1"]
        connection.rollback()
    assert copied.left() == 0
    assert copied.effects("copy") == []


@pytest.fixture
def flask_app(copied: Notes) -> tuple[Flask, SQLAlchemy]:
    app, db = Flask(__name__), SQLAlchemy()
    app.config.from_mapping(SQLALCHEMY_DATABASE_URI=copied.engine.url, TESTING=True)
    db.init_app(app)

    @app.post("/notes/<content>")
    def write(content: str) -> str:
        db.session.add(copied.Note(content=content))
        db.session.commit()
        return content

    return app, db


@contextmanager
def on_one_connection(app: Flask, db: SQLAlchemy) -> Iterator[None]:
    """What the guide for Flask has in its conftest."""
    with app.app_context():
        engine, engines = db.engine, db.engines
    with engine.connect() as connection, connection.begin() as transaction:
        engines[None] = connection  # type: ignore[index]
        db.session.session_factory.configure(join_transaction_mode="create_savepoint")
        yield
        transaction.rollback()
    engine.dispose()


@pytest.mark.parametrize("pushed", [True, False])
def test_sessions_of_flask_sqlalchemy_are_followed_in_every_context(
    copied: Notes, flask_app: tuple[Flask, SQLAlchemy], pushed: bool
) -> None:
    """Each context has a session of its own; a request is in one that was pushed, or in a new one."""
    app, db = flask_app
    with on_one_connection(app, db), app.app_context() if pushed else nullcontext():
        with inline(db.session, metadata=copied.metadata) as inlined:
            assert app.test_client().post("/notes/a").status_code == 200
        assert inlined.drained == Drained(acknowledged=1)
        with app.app_context():
            assert list(db.session.scalars(select(copied.Effect.what))) == ["a"]
    assert copied.left() == 0
    assert copied.effects("copy") == []


def test_sessions_of_flask_sqlalchemy_that_would_commit_are_refused_before_they_do(
    copied: Notes, flask_app: tuple[Flask, SQLAlchemy]
) -> None:
    """They do not ask for their ``bind``; which engine it is can be told in a context only."""
    app, db = flask_app
    with copied.engine.connect() as connection:
        db.session.session_factory.configure(bind=connection)
        for given in (db.session, db.session.session_factory):
            with app.app_context(), pytest.raises(ConfigurationError, match=REFUSED), inline(given):
                pytest.fail("it was accepted")
            with pytest.raises(ConfigurationError, match=REFUSED), inline(given):
                app.test_client().post("/notes/a")
    assert copied.scalar("SELECT count(*) FROM note") == 0
    with app.app_context():
        db.engine.dispose()


@pytest.mark.filterwarnings(INFERRED)
def test_a_plain_session_of_litestar_is_followed(copied: Notes, engine: Engine) -> None:
    @litestar_post("/notes", sync_to_thread=False)
    def write(content: str, session: Any) -> None:
        session.add(copied.Note(content=content))
        session.commit()

    with engine.connect() as connection:
        connection.begin()
        session = Session(connection, join_transaction_mode="create_savepoint")
        provided = Provide(lambda: session, sync_to_thread=False)
        with (
            inline(session, metadata=copied.metadata) as inlined,
            TestClient(Litestar([write], dependencies={"session": provided})) as client,
        ):
            assert client.post("/notes", params={"content": "a"}).status_code == 201
        assert inlined.drained == Drained(acknowledged=1)
        connection.rollback()
    assert copied.effects("copy") == []


@pytest.mark.parametrize("loop_driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.filterwarnings(INFERRED)
def test_sessions_of_advanced_alchemy_are_followed_when_the_answer_commits_them(
    notes: Notes, engine: Engine, loop_driver: str, joined: bool
) -> None:
    """An error of that commit is swallowed there: that a session is refused is raised by the block as well."""

    @after_insert(notes.Note)
    async def copy(new: Any, session: AsyncSession) -> None:
        session.add(notes.effect("copy", new.content))

    @litestar_post("/notes")
    async def write(content: str, db_session: AsyncSession) -> None:
        db_session.add(notes.Note(content=content))

    async def test() -> None:
        url = engine.url.set(drivername=f"postgresql+{loop_driver}")
        async_engine = create_async_engine(url)
        # Its engine is disposed of when the application ends, which the connection of the test outlives.
        config = SQLAlchemyAsyncConfig(
            connection_string=url.render_as_string(hide_password=False), before_send_handler="autocommit"
        )
        maker: Any = config.create_session_maker()
        app = Litestar([write], plugins=[SQLAlchemyPlugin(config=config)])
        transport = httpx.ASGITransport(cast(Any, app))
        async with async_engine.connect() as connection:
            await connection.begin()
            maker.configure(bind=connection, join_transaction_mode="create_savepoint")
            refused = nullcontext() if joined else pytest.raises(ConfigurationError, match=REFUSED)
            with refused, inline(maker, metadata=notes.metadata) as inlined:
                if not joined:
                    maker.configure(bind=config.get_engine())
                async with (
                    app.lifespan(),
                    httpx.AsyncClient(transport=transport, base_url="http://t") as client,
                ):
                    assert (await client.post("/notes", params={"content": "a"})).status_code == 201
            assert inlined.drained == Drained(acknowledged=int(joined))
            assert (await connection.scalars(select(notes.Effect.what))).all() == ["a"] * joined
            await connection.rollback()
        await async_engine.dispose()

    notes.install()
    asyncio.run(test())
    assert notes.effects("copy") == []
    assert notes.scalar("SELECT count(*) FROM note") == 0
