"""What of a row travels, and in which text."""

from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Publish, PubSub, after_delete, after_insert, after_update
from tests.declare.entries import changes, entries, nothing, run
from tests.servers import Server

pytestmark = pytest.mark.one_driver

TYPES = {
    "stamp": "timestamptz",
    "local": "timestamp",
    "day": "date",
    "span": "interval",
    "raw": "bytea",
    "single": "real",
    "double": "double precision",
    "exact": "numeric(38, 10)",
    "days": "daterange",
    "spans": "interval[]",
    "raws": "bytea[]",
}
VALUES = """
    (1, '2024-03-01 12:00:00.123456+00', '2024-03-01 12:00:00', '2024-03-01', '10 mons 3 days -04:05:06.7',
     '\\x00ff5c', 0.1, 0.1::float8 + 0.2::float8, 1234567890123456789012345678.0123456789,
     '[2024-03-01,2024-04-02)', ARRAY['1 day'::interval, '-01:02:03'], ARRAY['\\x5c00'::bytea])
"""


def comments(publish: Publish, ordered: bool = False) -> MetaData:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        __pubsub__ = publish
        blog: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column("id", primary_key=True)
        text: Mapped[str] = mapped_column("content")
        secret: Mapped[str]

    for decorator in (after_insert, after_update, after_delete):
        decorator(Comment, name="reader", ordered=ordered)(nothing)
    return Base.metadata


@pytest.mark.parametrize(
    ("publish", "travels"),
    [
        (Publish(), {"blog", "id", "content", "secret"}),
        (Publish(columns=["text"]), {"blog", "id", "content"}),
        (Publish(columns=["secret", "number"], capture="row"), {"blog", "id", "secret"}),
        (Publish(columns=[]), {"blog", "id"}),
        (Publish(exclude=["secret"]), {"blog", "id", "content"}),
        (Publish(exclude=["secret", "content"], capture="row"), {"blog", "id"}),
        (Publish(exclude=["number", "text"]), {"blog", "id", "secret"}),
    ],
)
def test_the_payload_is_narrowed_and_the_primary_key_always_travels(
    publish: Publish, travels: set[str], engine: Engine
) -> None:
    metadata = comments(publish)
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment VALUES (1, 2, 'a', 's')",
        "UPDATE comment SET content = 'b', secret = 't'",
        "DELETE FROM comment",
    )
    first = {"blog": 1, "id": 2, "content": "a", "secret": "s"}
    second = {"blog": 1, "id": 2, "content": "b", "secret": "t"}
    first, second = ({name: row[name] for name in row if name in travels} for row in (first, second))
    assert changes(engine, metadata) == [
        ("INSERT", None, first),
        ("UPDATE", first, second),
        ("DELETE", second, None),
    ]


def test_conditions_may_use_what_does_not_travel(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        __pubsub__ = Publish(exclude=["secret"])
        id: Mapped[int] = mapped_column(primary_key=True)
        secret: Mapped[str]

    after_update(Comment, name="reader", of=["secret"], when=lambda new: new.secret == "b")(nothing)
    Base.metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment VALUES (1, 'a'), (2, 'b')",
        "UPDATE comment SET secret = 'b'",
    )
    assert changes(engine, Base.metadata) == [("UPDATE", {"id": 1}, {"id": 1})]


@pytest.mark.parametrize("publish", [Publish(), Publish(columns=["text"]), Publish(capture="row")])
def test_an_ordered_listener_gets_the_keys_of_its_rows(publish: Publish, engine: Engine) -> None:
    metadata = comments(publish, ordered=True)
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment VALUES (1, 2, 'a', 's')",
        "UPDATE comment SET id = 3",
        "DELETE FROM comment",
    )
    assert [(entry.key, entry.old_key) for entry in entries(engine, metadata)] == [
        ([1, 2], None),
        ([1, 3], [1, 2]),
        ([1, 3], None),
    ]


def test_only_entries_of_ordered_listeners_carry_a_key(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)

    after_insert(Comment, name="ordered", ordered=True)(nothing)
    after_insert(Comment, name="plain")(nothing)
    Base.metadata.create_all(engine)
    run(engine, "INSERT INTO comment VALUES (1)")
    assert {entry.listener: entry.key for entry in entries(engine, Base.metadata)} == {
        "ordered": [1],
        "plain": None,
    }


def things(capture: Any) -> MetaData:
    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __pubsub__ = Publish(capture=capture)
        id: Mapped[int] = mapped_column(primary_key=True)

    after_insert(Thing, name="reader")(nothing)
    return Base.metadata


SETTINGS = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "standard_conforming_strings": "off",
    "xmloption": "document",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
}


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.every_server
def test_the_settings_of_the_writer_change_no_stored_text(capture: str, engine: Engine) -> None:
    metadata = things(capture)
    metadata.create_all(engine)
    run(engine, *(f"ALTER TABLE thing ADD {name} {type_}" for name, type_ in TYPES.items()))
    run(engine, f"INSERT INTO thing VALUES {VALUES}", "CREATE TABLE source AS TABLE thing")
    run(
        engine,
        *(f"SET LOCAL {name} = '{value}'" for name, value in SETTINGS.items()),
        "INSERT INTO thing SELECT id + 1, " + ", ".join(TYPES) + " FROM source",
    )
    plain, styled = (entry.new or {} for entry in entries(engine, metadata))
    assert {**styled, "id": 1} == plain
    assert plain["span"] == "10 mons 3 days -04:05:06.7"
    assert plain["raw"] == "\\x00ff5c"
    assert (plain["day"], plain["local"]) == ("2024-03-01", "2024-03-01T12:00:00")
    assert (plain["single"], plain["double"]) == (0.1, 0.30000000000000004)
    assert plain["days"] == "[2024-03-01,2024-04-02)"


def test_the_writers_settings_are_as_before_after_the_statement(engine: Engine) -> None:
    things("statement").create_all(engine)
    with engine.begin() as connection:
        before = {}
        for name, value in SETTINGS.items():
            connection.execute(text(f"SET LOCAL {name} = '{value}'"))
            before[name] = connection.execute(text(f"SHOW {name}")).scalar_one()
        connection.execute(text("INSERT INTO thing VALUES (1)"))
        after = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in SETTINGS}
    assert after == before


def test_a_row_of_ten_megabytes_travels_whole(engine: Engine) -> None:
    metadata = comments(Publish(exclude=["secret"]))
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment VALUES (1, 1, repeat('ten: \"é\\ %', 1000000), 's')",
        "UPDATE comment SET content = content || '!'",
    )
    with engine.connect() as connection:
        content = connection.execute(text("SELECT content FROM comment")).scalar_one()
    assert len(content) == 10_000_001
    found = [((e.old or {}).get("content"), (e.new or {}).get("content")) for e in entries(engine, metadata)]
    assert found == [(None, content[:-1]), (content[:-1], content)]


def test_many_rows_over_eight_kilobytes_travel_whole(engine: Engine) -> None:
    metadata = comments(Publish())
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment SELECT 1, i, (SELECT string_agg(md5((i * j)::text), '') "
        "FROM generate_series(1, 500) AS j), 's' FROM generate_series(1, 50) AS i",
        "UPDATE comment SET content = content || 'x'",
        "DELETE FROM comment",
    )
    found = entries(engine, metadata)
    assert [entry.operation for entry in found] == ["INSERT"] * 50 + ["UPDATE"] * 50 + ["DELETE"] * 50
    inserted = {(e.new or {})["id"]: (e.new or {})["content"] for e in found[:50]}
    assert {len(content) for content in inserted.values()} == {16_000}
    assert {(e.new or {})["id"]: (e.new or {})["content"] for e in found[50:100]} == {
        number: content + "x" for number, content in inserted.items()
    }


@pytest.mark.every_server
def test_a_stored_generated_column_travels_and_a_virtual_one_is_null(server: Server, engine: Engine) -> None:
    metadata = things("statement")
    metadata.create_all(engine)
    run(engine, "ALTER TABLE thing ADD twice int GENERATED ALWAYS AS (id * 2) STORED")
    newest = server.version >= 18
    if newest:
        run(engine, "ALTER TABLE thing ADD thrice int GENERATED ALWAYS AS (id * 3) VIRTUAL")
    run(engine, "INSERT INTO thing VALUES (1)")
    wanted = {"id": 1, "twice": 2, **({"thrice": None} if newest else {})}
    assert changes(engine, metadata) == [("INSERT", None, wanted)]
