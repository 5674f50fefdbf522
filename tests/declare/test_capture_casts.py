"""A value whose type has a cast to json travels as its text: the cast is somebody else's function."""

from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Publish, PubSub, after_delete, after_insert, after_update, check
from tests.declare.entries import changes, entries, nothing, run

pytestmark = [pytest.mark.one_driver, pytest.mark.every_server]

# What the cast of a PostGIS curve does.
TYPES = [
    "CREATE TYPE shape AS ENUM ('line', 'curve', '')",
    """CREATE FUNCTION shape_json(shape) RETURNS json LANGUAGE plpgsql AS
    $$ BEGIN IF $1 = 'curve' THEN RAISE EXCEPTION 'no curves, says %', current_user; END IF;
    RETURN '{"type": "LineString"}'; END $$""",
    "CREATE CAST (shape AS json) WITH FUNCTION shape_json(shape)",
    "CREATE TYPE place AS (name text, shape shape)",
    "CREATE DOMAIN drawn AS shape",
    "CREATE TYPE pair AS (a int, b text)",
]
COLUMNS = {
    '"a ""Shape"" \\"': ("shape", "'curve'", "curve"),
    "shapes": ("shape[]", "'{curve,line}'", "{curve,line}"),
    "place": ("place", "ROW('x, y', 'curve')", '("x, y",curve)'),
    "drawn": ("drawn", "'curve'", "curve"),
    "empty": ("shape", "''", ""),
    "nothing": ("shape", "NULL", None),
    "pair": ("pair", "ROW(1, 'b')", {"a": 1, "b": "b"}),
    "after": ("int", "7", 7),
}


def things(publish: Publish, engine: Engine, **options: Any) -> MetaData:
    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __pubsub__ = publish
        id: Mapped[int] = mapped_column(primary_key=True)

    for decorator in (after_insert, after_update, after_delete):
        decorator(Thing, name="reader", **options)(nothing)
    run(engine, *(each.replace(":", "\\:") for each in TYPES), "CREATE TABLE thing (id int PRIMARY KEY)")
    run(engine, *(f"ALTER TABLE thing ADD {name} {kind}" for name, (kind, _, _) in COLUMNS.items()))
    Base.metadata.create_all(engine)
    return Base.metadata


def is_as_declared(engine: Engine, metadata: MetaData) -> bool:
    with engine.connect() as connection:
        return check(connection, metadata) == []


INSERT = "INSERT INTO thing VALUES (1, " + ", ".join(value for _, value, _ in COLUMNS.values()) + ")"
ROW = {name.strip('"').replace('""', '"'): value for name, (_, _, value) in COLUMNS.items()}


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.parametrize("ordered", [False, True])
def test_such_a_value_travels_as_text_wherever_it_stands_in_the_row(
    capture: Any, ordered: bool, engine: Engine
) -> None:
    metadata = things(Publish(capture=capture), engine, ordered=ordered)
    assert is_as_declared(engine, metadata)
    run(engine, INSERT, "UPDATE thing SET after = 8", "DELETE FROM thing")
    first, second = {"id": 1, **ROW}, {"id": 1, **ROW, "after": 8}
    assert changes(engine, metadata) == [
        ("INSERT", None, first),
        ("UPDATE", first, second),
        ("DELETE", second, None),
    ]


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_such_a_column_may_be_left_out(capture: Any, engine: Engine) -> None:
    metadata = things(Publish(exclude=[], capture=capture), engine)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE thing CASCADE"))
        connection.execute(text("CREATE TABLE thing (id int PRIMARY KEY, kept shape, secret shape)"))

    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __pubsub__ = Publish(exclude=["secret"], capture=capture)
        id: Mapped[int] = mapped_column(primary_key=True)
        secret: Mapped[str]

    after_insert(Thing, name="reader")(nothing)
    after_update(Thing, name="reader", of=["secret"])(nothing)
    Base.metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO thing VALUES (1, 'curve', 'curve')",
        "UPDATE thing SET kept = 'line'",
        "UPDATE thing SET secret = 'line'",
    )
    assert [change[2] for change in changes(engine, metadata)] == [
        {"id": 1, "kept": "curve"},
        {"id": 1, "kept": "line"},
    ]


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_such_a_column_may_be_chosen_and_be_a_key(capture: Any, engine: Engine) -> None:
    run(engine, *(each.replace(":", "\\:") for each in TYPES))
    run(engine, "CREATE TABLE thing (id shape PRIMARY KEY, stranger shape, n int)")

    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __pubsub__ = Publish(columns=["n"], capture=capture)
        id: Mapped[str] = mapped_column(primary_key=True)
        n: Mapped[int]

    for decorator in (after_insert, after_delete):
        decorator(Thing, name="reader", ordered=True)(nothing)
    Base.metadata.create_all(engine)
    assert is_as_declared(engine, Base.metadata)
    run(engine, "INSERT INTO thing VALUES ('curve', 'curve', 5)", "DELETE FROM thing")
    found = entries(engine, Base.metadata)
    assert [(entry.key, entry.old or entry.new) for entry in found] == [
        (["curve"], {"id": "curve", "n": 5})
    ] * 2


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_such_a_column_may_go_and_come_while_the_capture_knows_it(capture: Any, engine: Engine) -> None:
    metadata = things(Publish(capture=capture), engine, ordered=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as writer:
        writer.execute(text(INSERT.replace(":", "\\:")))
        run(engine, "ALTER TABLE thing DROP shapes", "ALTER TABLE thing RENAME nothing TO something")
        writer.execute(text("UPDATE thing SET after = 9"))
        writer.execute(text("DELETE FROM thing"))
    assert [entry.operation for entry in entries(engine, metadata)] == ["INSERT", "UPDATE", "DELETE"]


def test_check_and_create_all_find_a_column_that_came_later(engine: Engine) -> None:
    metadata = things(Publish(), engine)
    run(engine, "ALTER TABLE thing ADD later shape")
    with engine.connect() as connection:
        assert {str(each).split(":")[0] for each in check(connection, metadata)} == {
            "trigger for INSERT on table 'thing' ('reader') is not as installed"
        } | {
            f"trigger for {each} on table 'thing' ('reader') is not as installed"
            for each in ("UPDATE", "DELETE")
        }
    metadata.create_all(engine)
    assert is_as_declared(engine, metadata)
    run(engine, "INSERT INTO thing (id, later) VALUES (1, 'curve')")
    assert (entries(engine, metadata)[0].new or {})["later"] == "curve"


def test_hstore_travels_as_the_object_it_always_was(engine: Engine) -> None:
    with engine.connect() as connection:
        if connection.scalar(text("SELECT count(*) FROM pg_available_extensions WHERE name = 'hstore'")) == 0:
            pytest.skip("this server has no hstore")
    metadata = things(Publish(), engine)
    run(engine, "CREATE EXTENSION hstore", "ALTER TABLE thing ADD pairs hstore")
    assert is_as_declared(engine, metadata)
    run(engine, "INSERT INTO thing (id, pairs) VALUES (1, 'a=>1, b=>NULL')")
    assert (entries(engine, metadata)[0].new or {})["pairs"] == {"a": "1", "b": None}


ROLE = "pubsub_caster"


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_casts_of_a_role_to_json_and_text_are_not_called_by_the_owner(capture: Any, engine: Engine) -> None:
    """A type's owner makes its casts, and the capture runs as the owner of the outbox."""
    metadata = things(Publish(capture=capture), engine, ordered=True)
    run(
        engine,
        f"DO $$ BEGIN CREATE ROLE {ROLE}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        f"ALTER TYPE shape OWNER TO {ROLE}",
        f"GRANT CREATE ON SCHEMA public TO {ROLE}",
        f"GRANT INSERT ON thing TO {ROLE}",
        f"SET LOCAL ROLE {ROLE}",
        "CREATE FUNCTION trap(shape) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped %', current_user; END $$",
        "CREATE CAST (shape AS text) WITH FUNCTION trap(shape)",
        INSERT,
    )
    assert [entry.new for entry in entries(engine, metadata)] == [{"id": 1, **ROW}]
