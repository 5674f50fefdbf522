"""The savepoint of an event travels with its first statement, whatever that is and however it ends."""

import io
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from psycopg2.extras import DictCursor
from sqlalchemy import Engine, create_engine, event, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, Message, RetryPolicy, after_insert, on_message, publish
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

ONCE = RetryPolicy(max_attempts=1)
LONG = timedelta(seconds=30)
NOW = text("SELECT current_query()")
"""What the client has sent, all that it has sent at once."""


@pytest.fixture
def preceded(engine: Engine) -> None:
    """Only psycopg2 can do that."""
    if engine.dialect.driver != "psycopg2":
        pytest.skip("psycopg and asyncpg send parameters apart from the statement, which is one then")


@pytest.mark.usefixtures("preceded")
def test_the_savepoint_moves_in_the_text_of_the_first_statement(notes: Notes) -> None:
    sent: list[tuple[str, str]] = []

    @after_insert(notes.Note)
    def handle(session: Session) -> None:
        sent.append((str(session.scalar(NOW)), str(session.scalar(NOW))))

    notes.write("a", "b", "c", "d")
    notes.drain(commit_every=LONG)
    for first, second in sent[2:]:
        assert first.startswith("RELEASE SAVEPOINT ")
        assert first.endswith(f";\n{NOW.text}")
        assert second == NOW.text


@pytest.mark.usefixtures("preceded")
@pytest.mark.parametrize("by", ["a statement", "a function", "a message", "a swallowed error"])
def test_settings_are_put_back_only_after_an_event_that_may_have_changed_them(notes: Notes, by: str) -> None:
    """They are a dozen statements, for which the server takes longer than for a handler's INSERT."""

    class Seen(Message, metadata=notes.metadata, name="seen"):
        what: str

    def set_something(session: Session) -> None:
        match by:
            case "a statement":
                session.execute(text("SET LOCAL search_path TO nowhere"))
            case "a function":
                session.execute(select(func.now()))
            case "a message":
                publish(session, Seen(what="it"))
            case _:
                with suppress(SQLAlchemyError), session.begin_nested():
                    session.execute(text("SELECT 1 / 0, pg_backend_pid()"))

    @after_insert(notes.Note)
    def handle(new: Any, session: Session) -> None:
        session.execute(insert(notes.Effect), {"listener": new.content})
        if new.content == "sets":
            set_something(session)

    @on_message(Seen)
    def see(new: Seen) -> None: ...

    notes.install()
    # What the client has sent is written by its own INSERT, whose text calls nothing that might set something.
    notes.execute("ALTER TABLE effect ALTER what SET DEFAULT current_query()")
    contents = ["a", "b", "sets", "c", "d"]
    notes.write(*contents)
    notes.drain(commit_every=LONG)
    sent = {content: str(query) for content in contents for query in notes.effects(content)}
    assert {content for content, query in sent.items() if "search_path" in query} == {"c"}
    assert sent["d"].startswith("RELEASE SAVEPOINT ")


def wrong(sql: str, **parameters: Any) -> Callable[[Session], None]:
    def run(session: Session) -> None:
        session.execute(text(sql), parameters)

    return run


WRONG = {
    "no such column": wrong("SELECT content,\n nosuch\n FROM note"),
    "no such table": wrong("SELECT 1 FROM nosuch"),
    "a function that fails": wrong("SELECT fails()"),
    "a value": wrong("INSERT INTO effect (id, listener) VALUES (:id, 'x')", id="many"),
    "a constraint": wrong("INSERT INTO effect (id) VALUES (1000)"),
    "syntax": wrong("SELECT 1 FROM WHERE"),
    "a string without end": wrong("SELECT 'it"),
    "a command that there is not": wrong("SELEC 1"),
    "a parameter that is none": wrong("SELECT :what", what=object()),
    "a character that there is not": wrong("SELECT :what", what="\0"),
}


def error_of(run: Callable[[Session], None], session: Session) -> tuple[str, str]:
    try:
        run(session)
    except Exception as error:
        return type(error).__name__, str(error)
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("what", WRONG)
def test_a_first_statement_that_fails_is_the_failure_of_its_event_alone(notes: Notes, what: str) -> None:
    """And its error is the one that it has by itself, whose lines are those of the statement."""
    errors: list[tuple[str, str]] = []

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content == "bad":
            errors.append(error_of(WRONG[what], session))
            raise ValueError(new.content)
        session.execute(insert(notes.Effect), {"listener": "handle", "what": new.content})

    notes.install()
    notes.execute("CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN nosuch + 1; END'")
    notes.write("a", "b", "c", "bad", "d", "e")
    assert notes.drain(commit_every=LONG) == 6
    assert notes.effects("handle") == ["a", "b", "c", "d", "e"]
    assert [letter.reason for letter in notes.dead()] == ["ValueError: bad"]
    assert notes.left() == 1
    with Session(notes.engine) as session:
        assert set(errors) == {error_of(WRONG[what], session)}
    # What the server cannot take apart tells of no savepoint, so its group was undone.
    torn = what in ("syntax", "a string without end") and notes.engine.dialect.driver == "psycopg2"
    assert len(errors) == (2 if torn else 1)


def driver(session: Session) -> Any:
    return session.connection().connection.driver_connection


def effect(content: str) -> dict[str, str]:
    return {"listener": "handle", "what": content}


SQL = "INSERT INTO effect (listener, what) VALUES ('handle', %s)"


def by_many(notes: Notes, session: Session, content: str) -> None:
    session.connection().exec_driver_sql(SQL, [(content,), (content,)])


def by_flush(notes: Notes, session: Session, content: str) -> None:
    session.add_all([notes.Effect(**effect(content)) for _ in range(2)])
    session.flush()


def by_stream(notes: Notes, session: Session, content: str) -> None:
    streamed = session.execute(
        select(notes.Note.id).limit(2), execution_options={"stream_results": True, "yield_per": 1}
    )
    for _ in streamed:
        session.execute(insert(notes.Effect), effect(content))


def by_savepoint(notes: Notes, session: Session, content: str) -> None:
    with suppress(SQLAlchemyError), session.begin_nested():
        session.execute(text("SELECT nosuch"))
    by_core(notes, session, content)


def by_core(notes: Notes, session: Session, content: str) -> None:
    session.execute(insert(notes.Effect).values([effect(content)] * 2))


def by_driver(notes: Notes, session: Session, content: str) -> None:
    with driver(session).cursor() as cursor:
        cursor.execute("INSERT INTO effect (listener, what) SELECT 'handle', replace('100%', '100%', x) FROM"
                       f" unnest(ARRAY['{content}', '{content}']) AS x")  # fmt: skip


def by_cursor_of_its_own(notes: Notes, session: Session, content: str) -> None:
    with driver(session).cursor(cursor_factory=DictCursor) as cursor:
        cursor.execute(SQL, (content,))
        cursor.execute(SQL, (content,))


def by_copy(notes: Notes, session: Session, content: str) -> None:
    with driver(session).cursor() as cursor:
        lines = io.StringIO(f"handle\t{content}\nhandle\t{content}\n")
        cursor.copy_expert("COPY effect (listener, what) FROM STDIN", lines)


def by_procedure(notes: Notes, session: Session, content: str) -> None:
    with driver(session).cursor() as cursor:
        cursor.callproc("write_two", (content,))


def by_bind(notes: Notes, session: Session, content: str) -> None:
    bind: Any = session.get_bind()
    bind.execute(insert(notes.Effect).values([effect(content)] * 2))


WAYS = (
    by_cursor_of_its_own, by_many, by_flush, by_stream, by_savepoint, by_core, by_driver, by_copy, by_procedure, by_bind,
)  # fmt: skip


@pytest.mark.usefixtures("preceded")
@pytest.mark.parametrize("way", WAYS)
def test_however_an_event_sends_its_first_statement_it_can_be_undone_alone(notes: Notes, way: Any) -> None:
    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        way(notes, session, new.content)
        if new.content == "bad":
            raise ValueError

    notes.install()
    notes.execute(
        "CREATE FUNCTION write_two(content text) RETURNS void LANGUAGE sql AS $$ INSERT INTO effect (listener, what)"
        " SELECT 'handle', content FROM generate_series(1, 2) $$"
    )
    notes.write("a", "b", "bad", "c", "d")
    assert notes.drain(commit_every=LONG) == 5
    assert notes.effects("handle") == [content for content in "abcd" for _ in range(2)]
    assert [letter.id for letter in notes.dead()] == [3]
    assert notes.left() == 1


def test_an_event_that_sends_nothing_leaves_the_savepoint_where_it_is(notes: Notes) -> None:
    """Although it has asked for the connection, and fails."""

    @after_insert(notes.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if new.content in ("bad", "good"):
            session.get_bind()
            assert new.content == "good"
            return
        session.execute(insert(notes.Effect), effect(new.content))

    notes.write("a", "b", "bad", "good", "c", "bad", "d")
    assert notes.drain(commit_every=LONG) == 7
    assert notes.effects("handle") == ["a", "b", "c", "d"]
    assert [letter.id for letter in notes.dead()] == [3, 6]


@pytest.mark.parametrize("parameters", [(), None])
def test_settings_with_a_percent_sign_are_put_back_ahead_of_any_statement(
    notes: Notes, url: str, parameters: Any
) -> None:
    engine, seen = create_engine(url), list[Any]()

    def connect(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path TO public, \"100%\", '50%%'")
        connection.commit()

    event.listen(engine, "connect", connect)

    @after_insert(notes.Note, retry=ONCE)
    def handle(session: Session) -> None:
        with driver(session).cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('search_path')", *([] if parameters is None else [parameters])
            )
            seen.extend(cursor.fetchone())
        session.execute(text("SET search_path TO pg_catalog"))

    notes.write("a", "b", "c")
    assert Listener(engine, notes.metadata).drain() == 3
    engine.dispose()
    assert seen == ['public, "100%", "50%%"'] * 3
