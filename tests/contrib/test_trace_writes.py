"""``trace_writes``: what is written in a sampled span carries its trace, whichever way it is written."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import ForeignKey, MetaData, create_engine, event, insert, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Mapped, Session, mapped_column

from sqla_pubsub import (
    Listener,
    Message,
    PubSub,
    after_delete,
    after_insert,
    on_message,
    publish,
    set_context,
)
from sqla_pubsub.asyncio import AsyncListener
from sqla_pubsub.asyncio import publish as publish_awaited
from sqla_pubsub.contrib.opentelemetry import Tracing, trace_writes
from tests.contrib.spans import Spans, attributes, linked, own_id, trace_id
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

SETS = ")::jsonb || CAST("


def parents(notes: Notes) -> list[str | None]:
    """The id of the span in the context of each entry."""
    query = text("SELECT split_part(context ->> 'traceparent', '-', 3) FROM pubsub_outbox ORDER BY id")
    with notes.engine.connect() as connection:
        return list(connection.scalars(query))


def shown(span: Any) -> str:
    return f"{own_id(span):016x}"


@pytest.fixture
def traced(notes: Notes, spans: Spans) -> Notes:
    """Notes with a listener, whose engine is traced."""
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.install()
    trace_writes(notes.engine, notes.metadata, tracer_provider=spans.provider)
    return notes


@contextmanager
def counted(notes: Notes) -> Iterator[list[str]]:
    """The statements that set a context."""
    sent = list[str]()

    def keep(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if SETS in statement:
            sent.append(statement)

    event.listen(notes.engine, "before_cursor_execute", keep)
    yield sent
    event.remove(notes.engine, "before_cursor_execute", keep)


WRITES: dict[str, Callable[[Session, Notes], Any]] = {
    "orm": lambda session, notes: session.add(notes.Note(content="x")),
    "core": lambda session, notes: session.execute(insert(notes.Note), [{"content": "x"}]),
    "text": lambda session, _: session.execute(text("INSERT INTO note (content) VALUES ('x')")),
    "quoted": lambda session, _: session.execute(text("insert  into public.\"note\" (content) select 'x'")),
    "cte": lambda session, _: session.execute(
        text("WITH n AS (INSERT INTO note (content) VALUES ('x') RETURNING id) SELECT * FROM n")
    ),
    "driver": lambda session, _: session.connection().exec_driver_sql(
        "INSERT INTO note (content) VALUES ('x')"
    ),
    "many": lambda session, notes: session.connection().execute(
        notes.Note.__table__.insert(), [{"id": 1, "content": "x"}]
    ),
}


@pytest.mark.parametrize("way", WRITES)
def test_whichever_way_a_row_is_written_its_event_carries_the_trace(
    traced: Notes, spans: Spans, way: str
) -> None:
    with spans.inside("request") as request, Session(traced.engine) as session, session.begin():
        WRITES[way](session, traced)
    assert parents(traced) == [shown(request)]


def test_it_is_set_once_for_a_transaction_and_anew_for_the_next(traced: Notes, spans: Spans) -> None:
    with counted(traced) as sent, spans.inside("request") as request, Session(traced.engine) as session:
        for _ in range(2):
            with session.begin():
                session.execute(text("SELECT count(*) FROM note"))
                for _ in range(3):
                    session.execute(insert(traced.Note), [{"content": "x"}])
        with session.begin():
            session.execute(text("SELECT count(*) FROM note"))
            session.execute(insert(traced.Effect), [{"listener": "x"}])
    assert len(sent) == 2
    assert parents(traced) == [shown(request)] * 6


def test_outside_of_a_sampled_span_nothing_is_sent(traced: Notes) -> None:
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("application")
    with counted(traced) as sent:
        traced.write("a")
        with unsampled.start_as_current_span("request"):
            traced.write("b")
    assert sent == []
    assert parents(traced) == [None, None]


def test_what_a_listener_sends_by_itself_is_not_traced(traced: Notes, spans: Spans) -> None:
    traced.write("a", "b", "c")
    with counted(traced) as sent, spans.inside("who calls the listener") as caller:
        assert Listener(traced.engine, traced.metadata).drain() == 3
    assert sent == []
    assert [own_id(span) for span in spans.all()] == [own_id(caller)]


def test_it_is_merged_with_what_the_application_has_set(traced: Notes, spans: Spans) -> None:
    with spans.inside("request"), Session(traced.engine) as session, session.begin():
        set_context(session, tenant="acme")
        session.execute(insert(traced.Note), [{"content": "a"}])
        session.execute(text("SELECT 1"))
        set_context(session, user="ada")
        session.execute(insert(traced.Note), [{"content": "b"}])
    keys = "SELECT array_agg(name ORDER BY name) FROM pubsub_outbox, json_object_keys(context) AS of (name)"
    with traced.engine.connect() as connection:
        found = list(connection.scalars(text(f"{keys} GROUP BY id ORDER BY id")))
    assert found == [["tenant", "traceparent"], ["tenant", "traceparent", "user"]]


def test_a_savepoint_that_is_rolled_back_takes_nothing_from_what_comes_after_it(
    traced: Notes, spans: Spans
) -> None:
    with spans.inside("request") as request, traced.engine.begin() as connection:
        nested = connection.begin_nested()
        connection.execute(insert(traced.Note), [{"content": "undone"}])
        nested.rollback()
        connection.execute(insert(traced.Note), [{"content": "kept"}])
    assert parents(traced) == [shown(request)]


def test_in_autocommit_nothing_is_set_since_it_would_be_gone_at_once(traced: Notes, spans: Spans) -> None:
    with counted(traced) as sent, spans.inside("request"):
        connection = traced.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection:
            connection.execute(insert(traced.Note), [{"content": "a"}])
    assert sent == []
    assert parents(traced) == [None]


def test_a_change_of_another_table_that_cascades_to_a_published_one_carries_the_trace(
    notes: Notes, spans: Spans
) -> None:
    class Group(notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "groups"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Shelf(notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "shelf"
        id: Mapped[int] = mapped_column(primary_key=True)
        group_id: Mapped[int] = mapped_column(ForeignKey("groups.id", ondelete="CASCADE"))

    class Book(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        shelf_id: Mapped[int] = mapped_column(ForeignKey("shelf.id", ondelete="CASCADE"))

    after_delete(Book, name="gone")(lambda old: None)
    notes.install()
    trace_writes(notes.engine, notes.metadata, tracer_provider=spans.provider)
    with notes.engine.begin() as connection:
        connection.execute(insert(Group), [{"id": 1}])
        connection.execute(insert(Shelf), [{"id": 1, "group_id": 1}])
        connection.execute(insert(Book), [{"id": 1, "shelf_id": 1}])
    with spans.inside("request") as request, notes.engine.begin() as connection:
        connection.execute(text("DELETE FROM groups"))
    assert parents(notes) == [shown(request)]


def test_a_function_that_writes_is_seen_where_its_name_is_given(notes: Notes, spans: Spans) -> None:
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.install()
    notes.execute(
        "CREATE FUNCTION add_note() RETURNS void LANGUAGE sql AS $$INSERT INTO note (content) VALUES ('x')$$"
    )
    trace_writes(notes.engine, notes.metadata, also=["add_note"], tracer_provider=spans.provider)
    with spans.inside("request") as request:
        notes.execute("SELECT add_note()")
    assert parents(notes) == [shown(request)]


def test_models_that_are_declared_later_are_known_too(notes: Notes, spans: Spans) -> None:
    trace_writes(notes.engine, notes.metadata, tracer_provider=spans.provider)
    with spans.inside("request"):
        notes.write("a")

    class Late(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "late"
        id: Mapped[int] = mapped_column(primary_key=True)

    after_insert(Late, name="late")(lambda new: None)
    notes.install()
    with spans.inside("request") as request:
        notes.execute("INSERT INTO late DEFAULT VALUES")
    assert parents(notes) == [shown(request)]


def test_what_handlers_write_carries_the_trace_of_each_handler(notes: Notes, spans: Spans) -> None:
    class Copy(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "copy_of_note"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    @after_insert(notes.Note)
    def copy(new: Any, session: Session) -> None:
        session.execute(insert(Copy), [{"content": new.content}])
        session.execute(insert(Copy), [{"content": new.content}])

    after_insert(Copy, name="last", transactional=False)(lambda new: None)
    notes.install()
    trace_writes(notes.engine, notes.metadata, tracer_provider=spans.provider)
    notes.write("a", "b", "c")
    Listener(notes.engine, notes.metadata, around=Tracing(tracer_provider=spans.provider)).drain()
    copied = [own_id(span) for span in spans.named("process copy")]
    assert len(copied) == 3
    links = [linked(span) for span in spans.named("process last")]
    assert sorted(links) == sorted([each] for each in copied for _ in range(2))


@pytest.mark.parametrize("transactional", [True, False])
@pytest.mark.parametrize("flushed", [True, False])
def test_what_a_handler_writes_by_its_session_carries_its_trace_on_any_engine(
    notes: Notes, spans: Spans, flushed: bool, transactional: bool
) -> None:
    class Copy(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "copy_of_note"
        id: Mapped[int] = mapped_column(primary_key=True)

    @after_insert(notes.Note, transactional=transactional)
    def copy(new: Any, session: Session) -> None:
        session.add(Copy())
        if flushed:
            session.flush()

    after_insert(Copy, name="last")(lambda new: None)
    notes.write("a", "b")
    Listener(notes.engine, notes.metadata, around=Tracing(tracer_provider=spans.provider)).drain()
    copied = [own_id(span) for span in spans.named("process copy")]
    assert len(copied) == 2
    assert [linked(span) for span in spans.named("process last")] == [[each] for each in copied]


@pytest.mark.parametrize("transactional", [True, False])
def test_what_a_coroutine_writes_carries_the_trace_of_its_own_event(
    notes: Notes, spans: Spans, transactional: bool
) -> None:
    class Copy(PubSub, notes.Base):  # type: ignore[name-defined, misc]
        __tablename__ = "copy_of_note"
        id: Mapped[int] = mapped_column(primary_key=True)
        of: Mapped[int]

    @after_insert(notes.Note, transactional=transactional)
    async def copy(new: Any, session: AsyncSession) -> None:
        await asyncio.sleep(0)
        session.add(Copy(of=new.id))

    @after_insert(Copy, name="last")
    def last(new: Any) -> None:
        trace.get_current_span().set_attribute("of", new.of)

    async def program() -> None:
        url = make_url(notes.engine.url.render_as_string(hide_password=False))
        engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
        try:
            await AsyncListener(engine, notes.metadata, concurrency=4, around=tracing).drain()
        finally:
            await engine.dispose()

    tracing = Tracing(tracer_provider=spans.provider)
    notes.write(*"abcdef")
    asyncio.run(program())
    Listener(notes.engine, notes.metadata, around=tracing).drain()
    written = {
        int(attributes(span)["messaging.message.id"]): own_id(span) for span in spans.named("process copy")
    }
    read = {attributes(span)["of"]: linked(span) for span in spans.named("process last")}
    assert read == {number: [written[number]] for number in range(1, 7)}


@pytest.fixture
def seen(notes: Notes, spans: Spans) -> type[Any]:
    """A message that somebody listens to."""

    class Seen(Message, metadata=notes.metadata, name="seen"):
        id: int

    on_message(Seen, name="look")(lambda new: None)
    after_insert(notes.Note, name="handle")(lambda new: None)
    notes.install()
    trace_writes(notes.engine, notes.metadata, tracer_provider=spans.provider)
    return Seen


def test_a_message_is_sent_in_a_span_to_which_its_handler_links(
    notes: Notes, spans: Spans, seen: type[Any]
) -> None:
    with spans.inside("request") as request, Session(notes.engine) as session, session.begin():
        session.execute(insert(notes.Note), [{"content": "before"}])
        publish(session, seen(id=1))
        session.execute(insert(notes.Note), [{"content": "after"}])
    send = spans.one("send seen")
    assert (send.kind, send.status.status_code) == (SpanKind.PRODUCER, StatusCode.UNSET)
    assert send.parent is not None
    assert send.parent.span_id == own_id(request)
    assert attributes(send)["messaging.operation.type"] == "send"
    assert attributes(send)["messaging.destination.name"] == "seen"
    assert parents(notes) == [shown(request), shown(send), shown(request)]
    Listener(notes.engine, notes.metadata, around=Tracing(tracer_provider=spans.provider)).drain()
    assert linked(spans.one("process look")) == [own_id(send)]


def test_a_message_that_the_server_does_not_take_is_a_failed_span(
    notes: Notes, spans: Spans, seen: type[Any]
) -> None:
    notes.execute("ALTER FUNCTION pubsub_publish(text, json) RENAME TO elsewhere")
    with spans.inside("request"), Session(notes.engine) as session, pytest.raises(DBAPIError):
        publish(session, seen(id=1))
    send = spans.one("send seen")
    assert send.status.status_code is StatusCode.ERROR
    assert "UndefinedFunction" in attributes(send)["error.type"]


def test_an_async_engine_is_traced_alike(notes: Notes, spans: Spans, seen: type[Any]) -> None:
    async def program() -> int:
        url = make_url(notes.engine.url.render_as_string(hide_password=False))
        engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
        trace_writes(engine, notes.metadata, tracer_provider=spans.provider)
        try:
            with spans.inside("request") as request:
                async with AsyncSession(engine) as session, session.begin():
                    await session.execute(text("INSERT INTO note (content) VALUES ('x')"))
                    await publish_awaited(session, seen(id=1))
                return own_id(request)
        finally:
            await engine.dispose()

    request = asyncio.run(program())
    assert parents(notes) == [f"{request:016x}", shown(spans.one("send seen"))]


def test_an_engine_whose_metadata_publishes_nothing_is_left_alone(url: str, spans: Spans) -> None:
    engine = create_engine(url)
    trace_writes(engine, MetaData(), tracer_provider=spans.provider)
    with spans.inside("request") as request, engine.begin() as connection:
        connection.execute(text("CREATE TABLE plain (id int)"))
        connection.execute(text("INSERT INTO plain VALUES (1)"))
        assert not connection.scalar(text("SELECT current_setting('sqla_pubsub.context', true)"))
    engine.dispose()
    assert [trace_id(span) for span in spans.all()] == [trace_id(request)]
