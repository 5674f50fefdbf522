"""Which sessions `publish` and `set_context` take, whatever codecs of JSON their drivers have."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2.extras
import pytest
from psycopg.types.json import set_json_dumps, set_json_loads
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from sqla_pubsub import (
    ConfigurationError,
    Insert,
    Listener,
    Message,
    MessageEvent,
    PubSub,
    after_insert,
    on_message,
    publish,
    set_context,
)
from sqla_pubsub.operate.admin import Admin, Letters
from tests.declare.entries import entries


class Base(DeclarativeBase): ...


class Note(PubSub, Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)


class Viewed(Message, metadata=Base.metadata, name="viewed"):
    page: str


class Loud(AsyncSession): ...


seen: list[tuple[Any, Any]] = []


@after_insert(Note)
@on_message(Viewed)
def reader(event: Insert[Any] | MessageEvent[Any]) -> None:
    seen.append((event.new, event.context))


@pytest.fixture
def tables(engine: Engine) -> Engine:
    """The installed tables."""
    Base.metadata.create_all(engine)
    seen.clear()
    return engine


def operations(engine: Engine) -> list[str]:
    return [entry.operation for entry in entries(engine, Base.metadata)]


def both(session: Any) -> None:
    """Set a context and publish under it."""
    set_context(session, tenant="Zoë", path=["a", 1])
    publish(session, Viewed(page='"é" \\ :x %s'))


def read(engine: Engine) -> list[tuple[Any, Any]]:
    Listener(engine, Base.metadata).drain()
    return list(seen)


READ = [(Viewed(page='"é" \\ :x %s'), {"tenant": "Zoë", "path": ["a", 1]})]


async_engine = create_async_engine("postgresql+asyncpg://nobody@localhost/nothing")
"""It connects nowhere: what it makes is refused before that."""


def asynchronous() -> dict[str, Any]:
    return {
        "an AsyncSession": AsyncSession(async_engine),
        "a Loud": Loud(async_engine),
        "an AsyncConnection": AsyncConnection(async_engine),
        "an AsyncEngine": async_engine,
        "an async_sessionmaker": async_sessionmaker(async_engine),
        "an async_scoped_session": async_scoped_session(async_sessionmaker(async_engine), lambda: 1),
    }


@pytest.mark.parametrize("found", list(asynchronous()))
def test_what_is_asynchronous_is_refused_with_the_call_that_works(found: str) -> None:
    given = asynchronous()[found]
    with pytest.raises(
        ConfigurationError,
        match=rf"set_context\(\) got {found}\..* await \S+\.run_sync\(set_context, tenant=\.\.\., user=\.\.\.\)",
    ):
        set_context(given, tenant="acme", user=7)
    with pytest.raises(
        ConfigurationError, match=rf"publish\(\) got {found}\..* await \S+\.run_sync\(publish, message\)"
    ):
        publish(given, Viewed(page="a"))


@pytest.mark.filterwarnings("ignore:Using `scoped_session` with asyncio")
def test_what_is_no_session_is_refused(engine: Engine) -> None:
    wrapped: Any = scoped_session(async_sessionmaker(async_engine))  # type: ignore[arg-type]
    given: dict[str, Any] = {
        r"an AsyncSession\. Write: await": wrapped,
        r"an Engine\. Write: with engine.begin\(\)": engine,
        r"a sessionmaker\. Write: with factory.begin\(\)": sessionmaker(engine),
        r"the class Session\. Give": Session,
        r"None\. Give": None,
        r"a str\. Give": "acme",
        r"a Viewed\. Give": Viewed(page="a"),
    }
    for found, wrong in given.items():
        with pytest.raises(ConfigurationError, match=rf"set_context\(\) got {found}"):
            set_context(wrong, tenant="acme")
        with pytest.raises(ConfigurationError, match=rf"publish\(\) got {found}"):
            publish(wrong, Viewed(page="a"))


def test_a_message_goes_out_after_what_was_pending_before_it(tables: Engine) -> None:
    def write(session: Any) -> None:
        session.add(Note())
        publish(session, Viewed(page="a"))
        session.add(Note())
        session.commit()

    registry = scoped_session(sessionmaker(tables))
    write(registry)
    registry.remove()
    for session in (
        Session(tables),
        Session(tables, autoflush=False),
        scoped_session(sessionmaker(tables, autoflush=False)),
    ):
        write(session)
        session.close()
    with Session(tables) as session, session.no_autoflush:
        write(session)
    assert operations(tables) == ["INSERT", "MESSAGE", "INSERT"] * 5


def test_a_scoped_session_is_taken_for_the_session_behind_it(tables: Engine) -> None:
    registry = scoped_session(sessionmaker(tables, autoflush=False))
    registry.add(Note())
    set_context(registry, tenant="acme")
    publish(registry, Viewed(page="a"))
    registry.commit()
    registry.remove()
    assert [entry.context for entry in entries(tables, Base.metadata)] == [None, {"tenant": "acme"}]


def orjson_like(value: object) -> bytes:
    """As orjson and msgspec write: bytes."""
    return json.dumps(value).encode()


async def own_codec(connection: Any, name: str) -> None:
    """As the manual of asyncpg has it.

    Source: https://magicstack.github.io/asyncpg/current/usage.html#example-automatic-json-conversion
    """
    await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


async def bytes_codec(connection: Any, name: str) -> None:
    """As of an application whose serializer gives bytes."""
    await connection.set_type_codec(
        name, encoder=lambda value: b"\x01" + value, decoder=bytes, schema="pg_catalog", format="binary"
    )


def with_codec(engine: AsyncEngine, codec: Callable[[Any, str], Any]) -> AsyncEngine:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: object) -> None:
        for name in ("json", "jsonb"):
            connection.run_async(lambda own: codec(own, name))  # noqa: B023

    return engine


@pytest.mark.one_driver
@pytest.mark.parametrize("of", ["session", "connection"])
@pytest.mark.parametrize("how", ["plain", "own codec", "codec of bytes", "serializer of bytes"])
def test_with_asyncpg_both_work_through_run_sync_whatever_it_makes_of_json(
    tables: Engine, how: str, of: str
) -> None:
    options = (
        {"json_serializer": orjson_like, "json_deserializer": lambda value: value}
        if how == "serializer of bytes"
        else {}
    )
    engine = create_async_engine(tables.url.set(drivername="postgresql+asyncpg"), **options)
    if "codec" in how:
        with_codec(engine, own_codec if how == "own codec" else bytes_codec)

    async def write() -> None:
        if of == "connection":
            async with engine.begin() as connection:
                await connection.run_sync(both)
        else:
            async with AsyncSession(engine) as session, session.begin():
                await session.run_sync(both)
        await engine.dispose()

    asyncio.run(write())
    assert read(tables) == READ


@pytest.mark.parametrize("serializer", [orjson_like, lambda _: "null"], ids=["bytes", "always null"])
def test_an_engine_whose_json_is_its_own_writes_and_reads_ours(tables: Engine, serializer: Any) -> None:
    engine = create_engine(tables.url, json_serializer=serializer, json_deserializer=lambda _: "nothing")
    with Session(engine) as session, session.begin():
        both(session)
    assert read(engine) == READ
    engine.dispose()


@pytest.fixture
def own_json(engine: Engine) -> Iterator[None]:
    """JSON of the driver's own, for the whole process."""

    def wrong(_: object) -> str:
        return "null"

    set_json_dumps(wrong)
    set_json_loads(wrong)
    psycopg2.extras.register_default_json(globally=True, loads=wrong)
    psycopg2.extras.register_default_jsonb(globally=True, loads=wrong)
    yield
    set_json_dumps(json.dumps)
    set_json_loads(json.loads)
    psycopg2.extras.register_default_json(globally=True, loads=json.loads)
    psycopg2.extras.register_default_jsonb(globally=True, loads=json.loads)


@pytest.mark.usefixtures("own_json")
def test_a_driver_whose_json_is_its_own_writes_and_reads_ours(tables: Engine) -> None:
    with Session(tables) as session, session.begin():
        both(session)
    assert read(tables) == READ


@pytest.mark.usefixtures("own_json")
def test_dead_letters_are_shown_as_they_are_stored_whatever_the_engine_makes_of_json(tables: Engine) -> None:
    with tables.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO pubsub_dead_letter (id, listener, operation, source, key, new, context, reason)"
            """ VALUES (1, 'reader', 'INSERT', 'note', '[1]', '{"id": 1}', '{"tenant": "acme"}', 'x')"""
        )
    engine = create_engine(tables.url, json_deserializer=lambda _: "nothing")
    (letter,) = Admin(engine, Base.metadata).dead_letters(Letters(), payload=True)
    engine.dispose()
    assert (letter.key, letter.new, letter.context) == ([1], {"id": 1}, {"tenant": "acme"})
    assert letter.old is None
