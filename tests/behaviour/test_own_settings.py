"""What a handler sets on its connection is for its own statements, whatever it sets and wherever."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, text
from sqlalchemy.orm import Session

from sqla_pubsub import Listener, RetryPolicy, after_insert
from tests.deliver.notes import Notes

pytestmark = [pytest.mark.one_driver, pytest.mark.four_drivers, pytest.mark.either_driver]


ONCE = RetryPolicy(max_attempts=1)
LONG = timedelta(seconds=30)

LOCALLY = {
    "search_path": "SET LOCAL search_path TO other",
    "search_path for good": "SET search_path TO other",
    "search_path in a function": "SELECT wander()",
    "search_path of nothing": "SELECT set_config('search_path', '', false)",
    "its reset": "RESET search_path",
    "role": "SET LOCAL ROLE other_role",
    "role for good": "SET ROLE other_role",
    "role in a function": "SELECT disguise()",
    "login": "SET LOCAL SESSION AUTHORIZATION other_role",
    "login for good": "SET SESSION AUTHORIZATION other_role",
    "time limit": "SET statement_timeout TO '1ms'",
    "lock limit": "SET LOCAL lock_timeout TO '1ms'",
    "row security": "SET row_security TO off",
    "replica": "SET session_replication_role TO replica",
    "isolation": "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
    "dates": "SET DateStyle TO 'SQL, DMY'",
    "zone": "SET TIME ZONE 'Asia/Kathmandu'",
    "all of it": "RESET ALL",
}
STATE = (
    "SELECT concat_ws(' ', current_user, session_user, current_setting('search_path'),"
    " current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('row_security'),"
    " current_setting('session_replication_role'), current_setting('default_transaction_isolation'),"
    " current_setting('default_transaction_read_only'), current_setting('datestyle'), current_setting('timezone'))"
)
PATH = "SELECT setting FROM pg_settings WHERE name = 'search_path'"
"""Nothing in it looks as if it set anything."""
ELSEWHERE = """
CREATE SCHEMA other
CREATE TABLE other.note (LIKE note INCLUDING ALL)
CREATE TABLE other.effect (LIKE effect INCLUDING ALL)
CREATE TABLE other.pubsub_outbox (LIKE pubsub_outbox INCLUDING ALL)
CREATE TABLE other.pubsub_dead_letter (LIKE pubsub_dead_letter INCLUDING ALL)
INSERT INTO other.pubsub_outbox (listener, operation, source) SELECT 'handle', 'INSERT', 'note' FROM generate_series(1, 20)
CREATE ROLE other_role
CREATE FUNCTION wander() RETURNS text LANGUAGE sql AS $$ SELECT set_config('search_path', 'other', true) $$
CREATE FUNCTION disguise() RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', 'other_role', true) $$
""".strip().splitlines()


@pytest.fixture
def elsewhere(notes: Notes) -> Iterator[Notes]:
    """A schema with an outbox that has entries of the same ids, and a role without rights."""
    notes.install()
    for statement in ELSEWHERE:
        notes.execute(statement)
    yield notes
    notes.execute("DROP ROLE other_role")


KINDS: dict[str, dict[str, Any]] = {
    "each": {},
    "database": {"effects": "database"},
    "batch": {"batch": 3},
    "timed": {"timeout": LONG},
    "outside": {"transactional": False},
}


@pytest.mark.in_turn("kind")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", LOCALLY)
def test_what_a_handler_sets_is_not_there_for_the_next_event_nor_for_the_outbox(
    elsewhere: Notes, what: str, kind: str
) -> None:
    states: list[str] = []

    def work(session: Session, content: str) -> None:
        states.append(str(session.scalar(text(STATE))))
        session.execute(
            text("INSERT INTO public.effect (listener, what) VALUES ('handle', :w)"), {"w": content}
        )
        session.execute(text(LOCALLY[what]))
        if content == "bad":
            raise ValueError

    declare = after_insert(elsewhere.Note, name="handle", retry=ONCE, **KINDS[kind])
    if kind == "batch":

        @declare
        def together(events: list[Any], session: Session) -> None:
            contents = [each.new.content for each in events]
            work(session, "bad" if "bad" in contents else ",".join(contents))

    else:

        @declare
        def one(new: Any, session: Session) -> None:
            work(session, new.content)

    elsewhere.write("a", "b", "c", "bad", "d", "e")
    assert elsewhere.drain(commit_every=LONG) == 6
    done = ",".join(map(str, elsewhere.effects("handle"))).split(",")
    expected = ["a", "b", "c", *(["bad"] if kind == "outside" else []), "d", "e"]
    assert done == expected
    assert [letter.id for letter in elsewhere.dead()] == [4]
    assert elsewhere.left() == 1
    assert elsewhere.scalar("SELECT count(*) FROM other.pubsub_outbox") == 20
    assert elsewhere.scalar("SELECT count(*) FROM other.pubsub_dead_letter") == 0
    assert len(set(states)) == 1


@pytest.mark.parametrize("kind", ["each", "database"])
def test_what_a_handler_sets_by_the_driver_is_not_there_for_the_next_event(
    elsewhere: Notes, kind: str
) -> None:
    states: list[str] = []

    @after_insert(elsewhere.Note, retry=ONCE, **KINDS[kind])
    def handle(session: Session) -> None:
        states.append(str(session.scalar(text(PATH))))
        cursor = session.connection().connection.cursor()
        cursor.execute("SET search_path TO other")
        cursor.close()

    elsewhere.write("a", "b", "c")
    assert elsewhere.drain(commit_every=LONG) == 3
    assert len(states) == 3
    assert len(set(states)) == 1
    assert elsewhere.left() == 0


@pytest.mark.parametrize("what", ["search_path", "role"])
def test_what_a_handler_sets_is_not_there_when_the_rows_of_others_are_written(
    elsewhere: Notes, what: str
) -> None:
    """Handlers that only add rows leave them to be written together, after others that set something."""

    @after_insert(elsewhere.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(elsewhere.effect("handle", new.content))
        if new.content == "b":
            session.flush()
            session.execute(text(LOCALLY[what]))

    elsewhere.write("a", "b", "c", "d", "b", "e")
    assert elsewhere.drain(commit_every=LONG) == 6
    assert elsewhere.effects("handle") == ["a", "b", "c", "d", "b", "e"]
    assert elsewhere.left() == 0


@pytest.mark.parametrize("kind", ["each", "database"])
@pytest.mark.parametrize("by", ["a value", "a hook of the mapper"])
def test_what_is_set_while_the_session_of_a_handler_is_written_is_not_there_for_the_next_event(
    elsewhere: Notes, by: str, kind: str
) -> None:
    """That is after the handler has returned."""
    paths: list[str] = []

    @after_insert(elsewhere.Note, retry=ONCE, **KINDS[kind])
    def handle(new: Any, session: Session) -> None:
        paths.append(str(session.scalar(text(PATH))))
        what = func.public.wander() if by == "a value" else new.content
        session.add(elsewhere.Effect(listener="handle", what=what))

    def stray(_: Any, connection: Any, __: Any) -> None:
        connection.execute(text("SET LOCAL search_path TO other"))

    if by != "a value":
        event.listen(elsewhere.Effect, "after_insert", stray)
    elsewhere.write("a", "b", "c")
    assert elsewhere.drain(commit_every=LONG) == 3
    assert len(paths) == 3
    assert len(set(paths)) == 1
    assert elsewhere.scalar("SELECT count(*) FROM public.effect") == 3


def test_a_connection_that_a_handler_keeps_is_never_trusted_again(elsewhere: Notes) -> None:
    """What is sent by the driver, nobody sees; not in a later event either."""
    paths: list[str] = []
    kept: list[Any] = []

    @after_insert(elsewhere.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        paths.append(str(session.scalar(text(PATH))))
        if not kept:
            kept.append(session.connection().connection.cursor())
        if new.content == "c":
            kept[0].execute("SET LOCAL search_path TO other")

    elsewhere.write("a", "b", "c", "d", "e")
    assert elsewhere.drain(commit_every=LONG) == 5
    assert len(paths) == 5
    assert len(set(paths)) == 1


def test_a_connection_that_a_failed_handler_has_kept_is_not_trusted_either(elsewhere: Notes) -> None:
    paths: list[str] = []
    kept: list[Any] = []

    @after_insert(elsewhere.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        match new.content:
            case "keeps":
                kept.append(session.connection().connection.cursor())
                raise ValueError
            case "sets":
                kept[0].execute("SET LOCAL search_path TO other")
            case _:
                paths.append(str(session.scalar(text(PATH))))

    elsewhere.write("a", "keeps", "sets", "b", "sets", "c")
    assert elsewhere.drain(commit_every=LONG) == 6
    assert len(paths) == 3
    assert len(set(paths)) == 1


def test_what_is_set_on_a_kept_connection_alone_is_not_there_for_the_outbox(elsewhere: Notes) -> None:
    kept: list[Any] = []

    @after_insert(elsewhere.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        if not kept:
            kept.append(session.connection().connection.cursor())
        kept[0].execute("SET LOCAL ROLE other_role")
        if new.content == "adds":
            session.add(elsewhere.effect("handle", new.content))

    elsewhere.write("a", "b", "adds", "c", "adds")
    assert elsewhere.drain(commit_every=LONG) == 5
    assert elsewhere.effects("handle") == ["adds", "adds"]
    assert elsewhere.left() == 0


def test_what_a_trigger_sets_while_added_rows_are_written_is_undone(elsewhere: Notes) -> None:
    elsewhere.execute(
        "CREATE FUNCTION stray() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM set_config('search_path', 'other', false), set_config('role', 'other_role', false);"
        " RETURN NULL; END $$"
    )
    elsewhere.execute("CREATE TRIGGER stray AFTER INSERT ON effect EXECUTE FUNCTION stray()")

    @after_insert(elsewhere.Note, retry=ONCE)
    def handle(new: Any, session: Session) -> None:
        session.add(elsewhere.effect("handle", new.content))

    for content in ("a", "b", "c"):
        elsewhere.write(content)
    assert elsewhere.drain(commit_every=timedelta(milliseconds=1)) == 3
    assert elsewhere.effects("handle") == ["a", "b", "c"]
    assert elsewhere.left() == 0


@pytest.mark.parametrize("path", ["public, other", "other, public"])
def test_settings_that_the_engine_makes_are_the_listeners_own(elsewhere: Notes, url: str, path: str) -> None:
    """Those of a connect event, which RESET does not know."""
    engine = create_engine(url)

    def connect(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET search_path TO {path}")
            cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
            cursor.execute("SET app.tenant TO '100%'")
        connection.commit()

    event.listen(engine, "connect", connect)
    seen: list[Any] = []

    @after_insert(elsewhere.Note, retry=ONCE)
    def handle(session: Session) -> None:
        seen.append(
            session.execute(
                text(
                    "SELECT current_setting('search_path'), current_setting('timezone'), current_setting('app.tenant')"
                )
            ).one()
        )
        session.execute(text("SET search_path TO public"))
        session.execute(text("SET TIME ZONE 'UTC'"))

    elsewhere.install()
    elsewhere.execute("UPDATE other.pubsub_outbox SET new = '{\"id\": 1}'")
    elsewhere.write("a", "b", "c")
    expected = 3 if path.startswith("public") else 20
    assert Listener(engine, elsewhere.metadata).drain() == expected
    assert set(seen) == {(path, "Asia/Tokyo", "100%")}
    engine.dispose()


def test_a_role_that_the_engine_takes_on_is_the_listeners_own(elsewhere: Notes, url: str) -> None:
    engine = create_engine(url)

    def connect(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET ROLE other_role")
        connection.commit()

    event.listen(engine, "connect", connect)
    seen: list[Any] = []

    @after_insert(elsewhere.Note, retry=ONCE)
    def handle(session: Session) -> None:
        seen.append(session.scalar(text("SELECT current_user")))
        session.execute(text("RESET ROLE"))

    elsewhere.write("a", "b")
    elsewhere.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO other_role")
    assert Listener(engine, elsewhere.metadata).drain() == 2
    assert seen == ["other_role", "other_role"]
    engine.dispose()
    elsewhere.execute("DROP OWNED BY other_role")


def test_a_transaction_that_a_handler_made_read_only_fails_the_event(notes: Notes) -> None:
    @after_insert(notes.Note, retry=ONCE, batch=2)
    def handle(events: list[Any], session: Session) -> None:
        if any(each.new.content == "bad" for each in events):
            session.execute(text("SET TRANSACTION READ ONLY"))

    notes.write("a", "bad", "b")
    assert notes.drain() == 3
    assert [letter.id for letter in notes.dead()] == [2]


@pytest.mark.plain_engine
def test_the_outbox_is_found_once_for_all(engine: Engine, elsewhere: Notes) -> None:
    """Also the statements of lanes that are worked later."""
    calls: list[str] = []

    @after_insert(elsewhere.Note, retry=RetryPolicy(initial=timedelta(0), jitter=False))
    def handle(event: Any, session: Session) -> None:
        calls.append(event.new.content)
        session.execute(text("SET search_path TO other"))
        driver: Any = session.connection().connection.driver_connection
        driver.cursor().execute("SELECT 1")
        if event.attempt < 3:
            raise ValueError

    elsewhere.write("a", "b")
    assert elsewhere.drain() == 6
    assert elsewhere.left() == 0
    assert sorted(calls) == ["a"] * 3 + ["b"] * 3
