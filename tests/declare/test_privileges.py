"""A role that may only write its own table publishes; it can neither read, forge nor hide events.

The function of a trigger runs as its owner, so everything a role could bend to its will is tried here.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import (
    Message,
    Publish,
    PubSub,
    after_delete,
    after_insert,
    after_update,
    check,
    on_message,
    publish,
    set_context,
)
from tests.declare.entries import changes, entries, nothing, run

pytestmark = pytest.mark.one_driver

ROLE = "pubsub_app"


class Base(DeclarativeBase): ...


class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str]


class Reading(PubSub, Base):
    __tablename__ = "reading"
    __pubsub__ = Publish(capture="row", exclude=["value"])
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class Viewed(Message, metadata=Base.metadata, name="viewed"):
    comment: int


on_message(Viewed, name="views")(nothing)
after_insert(Comment, name="reader", when=lambda new: new.content != "lower")(nothing)
after_update(Comment, name="reader", of=["content"])(nothing)
after_delete(Comment, name="reader")(nothing)
for decorator in (after_insert, after_update):
    decorator(Reading, name="readings", ordered=True)(nothing)


@pytest.fixture
def role(engine: Engine) -> Iterator[Connection]:
    """A connection of a role that may INSERT into its tables and nothing else, over the installed tables."""
    Base.metadata.create_all(engine)
    run(
        engine,
        f"DO $$ BEGIN CREATE ROLE {ROLE}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        f"GRANT INSERT ON comment, reading TO {ROLE}",
        f"GRANT TEMPORARY ON DATABASE {engine.url.database} TO {ROLE}",
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"SET ROLE {ROLE}"))
        yield connection
        connection.invalidate()


def execute(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement))


def found(engine: Engine) -> list[Any]:
    return changes(engine, Base.metadata)


A = ("INSERT", None, {"id": 1, "content": "a"})


def test_a_role_with_insert_on_its_own_table_publishes(role: Connection, engine: Engine) -> None:
    execute(role, "INSERT INTO comment VALUES (1, 'a')", "INSERT INTO reading VALUES (2, 5)")
    assert found(engine) == [A, ("INSERT", None, {"id": 2})]


FORBIDDEN = [
    "SELECT * FROM pubsub_outbox",
    "SELECT id FROM pubsub_outbox LIMIT 0",
    "INSERT INTO pubsub_outbox (listener, operation, source) VALUES ('reader', 'INSERT', 'comment')",
    "UPDATE pubsub_outbox SET due_at = 'infinity'",
    "DELETE FROM pubsub_outbox",
    "TRUNCATE pubsub_outbox",
    "COPY pubsub_outbox TO STDOUT",
    "SELECT * FROM pubsub_dead_letter",
    "SELECT nextval('pubsub_outbox_id_seq')",
    "ALTER TABLE comment DISABLE TRIGGER pubsub_insert",
    "DROP TRIGGER pubsub_insert ON comment",
    "CREATE OR REPLACE FUNCTION pubsub_comment_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "SET session_replication_role = replica",
    "SELECT pubsub_comment_insert()",
]


def test_a_role_can_neither_read_nor_write_the_outbox(role: Connection, engine: Engine) -> None:
    execute(role, "INSERT INTO comment VALUES (1, 'a')")
    for statement in FORBIDDEN:
        with pytest.raises(
            DBAPIError, match=r"permission denied|must be owner|trigger functions can only be"
        ):
            execute(role, statement)
    assert found(engine) == [A]


def test_a_role_cannot_attach_a_capture_to_a_table_of_its_own(role: Connection, engine: Engine) -> None:
    """Else it would forge events: the function writes whatever the rows of its table are."""
    execute(role, "CREATE TEMPORARY TABLE comment (id int, content text)")
    for level in ("REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT", "FOR EACH ROW"):
        for function in ("public.pubsub_comment_insert", "public.pubsub_reading_insert"):
            with pytest.raises(DBAPIError, match="permission denied for function"):
                execute(
                    role,
                    f"CREATE TRIGGER forged AFTER INSERT ON comment {level} EXECUTE FUNCTION {function}()",
                )
    execute(role, "INSERT INTO pg_temp.comment VALUES (1, 'forged')")
    assert found(engine) == []


def test_a_temporary_table_named_like_the_outbox_changes_nothing(role: Connection, engine: Engine) -> None:
    execute(
        role,
        "CREATE TEMPORARY TABLE pubsub_outbox (LIKE pg_catalog.pg_class)",
        "CREATE TEMPORARY TABLE new_rows (id int, content text)",
        "INSERT INTO new_rows VALUES (7, 'forged')",
        "INSERT INTO public.comment VALUES (1, 'a')",
        "SET search_path = pg_temp, public, pg_catalog",
        "INSERT INTO public.comment VALUES (2, 'b')",
    )
    assert found(engine) == [A, ("INSERT", None, {"id": 2, "content": "b"})]


# Each fits the arguments in a generated body better than, or as well as, what pg_catalog has.
TRICKS = [
    "FUNCTION {0}.row_to_json(record) RETURNS json",
    "FUNCTION {0}.row_to_json(public.reading) RETURNS json",
    "FUNCTION {0}.to_jsonb(record) RETURNS jsonb",
    "FUNCTION {0}.to_jsonb(public.reading) RETURNS jsonb",
    "FUNCTION {0}.jsonb_build_array(jsonb) RETURNS jsonb",
    "FUNCTION {0}.json_object_agg(text, json) RETURNS json",
    "FUNCTION {0}.json_each(json) RETURNS json",
    "FUNCTION {0}.json_populate_record(record, json) RETURNS record",
    "FUNCTION {0}.json_populate_record(public.reading, json) RETURNS public.reading",
    "FUNCTION {0}.record_image_ne(record, record) RETURNS boolean",
    "FUNCTION {0}.replace(text, text, text) RETURNS text",
    "FUNCTION {0}.pg_column_size(jsonb) RETURNS integer",
    "FUNCTION {0}.sha256(bytea) RETURNS bytea",
    "FUNCTION {0}.convert_to(text, name) RETURNS bytea",
    "FUNCTION {0}.getdatabaseencoding() RETURNS name",
    "FUNCTION {0}.encode(bytea, text) RETURNS text",
    "FUNCTION {0}.num_nonnulls(text) RETURNS integer",
    "FUNCTION {0}.concat(text) RETURNS text",
    "FUNCTION {0}.to_json(text) RETURNS json",
    "FUNCTION {0}.pg_typeof(text) RETURNS regtype",
    "FUNCTION {0}.pg_current_xact_id() RETURNS xid8",
    "FUNCTION {0}.trick(integer, integer) RETURNS boolean",
    "FUNCTION {0}.clock_timestamp() RETURNS timestamptz",
    "FUNCTION {0}.hashtextextended(text, integer) RETURNS bigint",
    "FUNCTION {0}.pg_try_advisory_xact_lock_shared(bigint) RETURNS boolean",
    "FUNCTION {0}.to_hex(bigint) RETURNS text",
    "FUNCTION {0}.row_number() RETURNS bigint",
    "FUNCTION {0}.trick(text, text) RETURNS boolean",
    "FUNCTION {0}.trick(jsonb, jsonb) RETURNS jsonb",
    "FUNCTION {0}.trick(record, record) RETURNS boolean",
]
_TRICK = "CREATE {} LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'tricked: %', current_user; END $$"
OPERATORS = {"text": ("=", "<>", "||"), "integer": (">",), "jsonb": ("=", "->"), "record": ("=", "*<>")}


def set_traps(role: Connection, schema: str) -> None:
    execute(role, *(_TRICK.format(trick.format(schema)) for trick in TRICKS))
    for side, operators in OPERATORS.items():
        for name in operators:
            sides = f"LEFTARG = {side}, RIGHTARG = {side}"
            execute(role, f"CREATE OPERATOR {schema}.{name} (FUNCTION = {schema}.trick, {sides})")


def write(role: Connection, engine: Engine) -> None:
    """Let the role write, and see that the events are as they should be."""
    execute(
        role,
        "INSERT INTO public.comment VALUES (1, 'a'), (2, 'lower')",
        "UPDATE public.comment SET content = 'b' WHERE id = 2",
        "DELETE FROM public.comment",
        "INSERT INTO public.reading VALUES (3, 5)",
        "UPDATE public.reading SET value = 6",
    )
    assert [change[0] for change in found(engine)] == [
        "INSERT",
        "UPDATE",
        "DELETE",
        "DELETE",
        "INSERT",
        "UPDATE",
    ]
    assert found(engine)[0] == A
    assert found(engine)[-1] == ("UPDATE", {"id": 3}, {"id": 3})


@pytest.mark.parametrize("schema", ["tricks", "pg_temp", "public"])
def test_better_fitting_functions_and_operators_of_a_role_are_not_called(
    schema: str, engine: Engine, role: Connection
) -> None:
    """They would run as the owner of the function.

    The public schema is on the function's own search path, and many a database lets everybody create there.
    """
    run(
        engine,
        f"CREATE SCHEMA tricks AUTHORIZATION {ROLE}",
        f"GRANT CREATE ON SCHEMA public TO {ROLE}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON comment, reading TO {ROLE}",
    )
    execute(role, "CREATE TEMPORARY TABLE make_the_schema ()")
    set_traps(role, schema)
    execute(role, f"SET search_path = {schema}, pg_catalog, public")
    write(role, engine)


def test_a_role_may_set_the_context_of_its_own_events_only(role: Connection, engine: Engine) -> None:
    execute(role, """SET sqla_pubsub.context = '{"user": "me"}'""", "INSERT INTO comment VALUES (1, 'a')")
    with pytest.raises(DBAPIError, match="invalid input syntax for type json"):
        execute(role, "SET sqla_pubsub.context = 'no json'", "INSERT INTO comment VALUES (2, 'b')")
    assert found(engine) == [A]


def test_an_error_shows_a_role_nothing_of_other_rows(role: Connection, engine: Engine) -> None:
    """A failing condition names the statement of the capture, and no value but the role's own."""
    execute(role, "INSERT INTO comment VALUES (1, 'a')")
    with pytest.raises(DBAPIError) as caught:
        execute(role, "SET sqla_pubsub.context = '['", "INSERT INTO comment VALUES (2, 'mine')")
    assert not re.search(r'"a"|\(1,', str(caught.value))


def test_the_owner_of_a_table_publishes_where_the_outbox_belongs_to_another(
    engine: Engine, role: Connection
) -> None:
    run(engine, f"ALTER TABLE comment OWNER TO {ROLE}")
    execute(
        role,
        "INSERT INTO comment VALUES (1, 'a')",
        "UPDATE comment SET content = 'b'",
        "DELETE FROM comment",
    )
    assert [operation for operation, _, _ in found(engine)] == ["INSERT", "UPDATE", "DELETE"]
    with pytest.raises(DBAPIError, match="permission denied"):
        execute(role, "SELECT * FROM pubsub_outbox")


@pytest.mark.parametrize("forced", [False, True])
def test_row_level_security_of_a_table_decides_what_is_written_and_not_what_is_published(
    role: Connection, engine: Engine, *, forced: bool
) -> None:
    mine = "content LIKE 'mine%'"
    run(
        engine,
        f"GRANT SELECT, UPDATE, DELETE ON comment, reading TO {ROLE}",
        "INSERT INTO comment VALUES (1, 'theirs')",
        f"CREATE POLICY own ON comment USING ({mine}) WITH CHECK ({mine})",
        "CREATE POLICY blind ON reading FOR INSERT WITH CHECK (true)",
        *(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY" for table in ("comment", "reading")),
        *(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in ("comment", "reading") if forced),
    )
    with pytest.raises(DBAPIError, match="violates row-level security"):
        execute(role, "INSERT INTO comment VALUES (2, 'forged')")
    execute(
        role,
        "INSERT INTO comment VALUES (2, 'mine')",
        "INSERT INTO reading VALUES (3, 5)",
        "UPDATE comment SET content = content || ' too'",
        "DELETE FROM comment",
    )
    too = {"id": 2, "content": "mine too"}
    assert found(engine) == [
        ("INSERT", None, {"id": 1, "content": "theirs"}),
        ("INSERT", None, {"id": 2, "content": "mine"}),
        ("INSERT", None, {"id": 3}),
        ("UPDATE", {"id": 2, "content": "mine"}, too),
        ("DELETE", too, None),
    ]


@pytest.mark.parametrize("path", ["''", "pg_catalog", "pg_temp", "nowhere"])
def test_a_writer_publishes_whatever_its_search_path_is(path: str, role: Connection, engine: Engine) -> None:
    execute(
        role,
        f"SET search_path = {path}",
        "INSERT INTO public.comment VALUES (1, 'a'), (2, 'lower')",
        "INSERT INTO public.reading VALUES (2, 5)",
    )
    assert found(engine) == [A, ("INSERT", None, {"id": 2})]


def test_default_privileges_that_revoke_execute_from_everybody_change_nothing(engine: Engine) -> None:
    run(engine, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []
    run(engine, "INSERT INTO comment VALUES (1, 'a')")
    assert found(engine) == [A]


def test_default_privileges_that_grant_execute_to_a_role_let_it_forge_nothing(
    role: Connection, engine: Engine
) -> None:
    Base.metadata.drop_all(engine)
    run(engine, f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {ROLE}")
    Base.metadata.create_all(engine)
    execute(role, "CREATE TEMPORARY TABLE comment (id int, content text)")
    with pytest.raises(DBAPIError, match="permission denied for function"):
        execute(
            role,
            "CREATE TRIGGER forged AFTER INSERT ON comment REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"
            " EXECUTE FUNCTION public.pubsub_comment_insert()",
        )
    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []


def test_create_all_takes_a_capture_away_from_a_role_that_was_given_it(
    role: Connection, engine: Engine
) -> None:
    run(engine, f"GRANT EXECUTE ON FUNCTION pubsub_comment_insert() TO {ROLE}")
    with engine.connect() as connection:
        (difference,) = check(connection, Base.metadata)
    assert f"role {ROLE} may execute its function" in str(difference)
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []
    execute(role, "INSERT INTO comment VALUES (1, 'a')")
    assert found(engine) == [A]


def test_publish_and_set_context_need_the_right_to_call_the_function_and_no_other(
    role: Connection, engine: Engine
) -> None:
    def write() -> None:
        with Session(engine) as session, session.begin():
            session.execute(text(f"SET LOCAL ROLE {ROLE}"))
            set_context(session, tenant="mine")
            publish(session, Viewed(comment=1))
            session.execute(text("INSERT INTO comment VALUES (1, 'a')"))

    with pytest.raises(DBAPIError, match="permission denied for function pubsub_publish"):
        write()
    assert found(engine) == []
    run(engine, f"GRANT EXECUTE ON FUNCTION pubsub_publish(text, json) TO {ROLE}")
    write()
    assert [(entry.listener, entry.new, entry.context) for entry in entries(engine, Base.metadata)] == [
        ("views", {"comment": 1}, {"tenant": "mine"}),
        ("reader", A[2], {"tenant": "mine"}),
    ]
    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []


def test_a_role_that_came_after_the_migration_publishes_and_can_do_no_more(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    late = "pubsub_late"
    run(engine, f"CREATE ROLE {late}", f"GRANT INSERT ON comment TO {late}")
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            execute(connection, f"SET ROLE {late}", "INSERT INTO comment VALUES (1, 'a')")
            for statement in FORBIDDEN:
                with pytest.raises(DBAPIError):
                    execute(connection, statement)
            connection.invalidate()
        assert found(engine) == [A]
    finally:
        run(engine, f"DROP OWNED BY {late}", f"DROP ROLE {late}")
