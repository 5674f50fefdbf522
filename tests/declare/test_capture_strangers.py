"""No value fails the application's write, and of a row only what travels or is compared is looked at."""

import json
from typing import Any

import pytest
from sqlalchemy import JSON, Engine, MetaData, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import (
    Message,
    Publish,
    PubSub,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    check,
    on_message,
)
from sqla_pubsub.declare.capture.cells import LONGEST_KEY
from tests.declare.entries import entries, nothing, run

pytestmark = pytest.mark.one_driver

ODD = [
    r'{"a": "\u0000"}',
    r'{"a": "\ud800"}',
    r'["\udc00", "\\u0000", "\\\u0000"]',
    '{"n": 1e400000, "m": -1E-400000}',
    '{"\\u0000": ["' + "x" * 5000 + '"]}',
]
"""Values of json that PostgreSQL stores and can neither turn into jsonb nor take apart."""


def documents(publish: Publish, **options: Any) -> MetaData:
    class Base(DeclarativeBase): ...

    class Document(PubSub, Base):
        __tablename__ = "document"
        __pubsub__ = publish
        id: Mapped[str] = mapped_column(Text, primary_key=True)
        title: Mapped[str | None]
        body: Mapped[Any] = mapped_column(JSON)
        secret: Mapped[str | None]

    for decorator in (after_insert, after_delete):
        decorator(Document, name="reader", **options)(nothing)
    after_update(Document, name="reader", of=[Document.title, Document.body], **options)(nothing)
    after_truncate(Document, name="reader", **options)(nothing)
    return Base.metadata


def raw(engine: Engine, statement: str, *values: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement, values)


def stored(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT operation, old::text, new::text FROM pubsub_outbox ORDER BY id")
        )
        return [tuple(row) for row in rows]


@pytest.mark.every_server
@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.parametrize(
    "narrowed",
    [
        {},
        {"columns": ["title"]},
        {"columns": ["title", "body"]},
        {"exclude": ["body"]},
        {"exclude": ["secret"]},
    ],
    ids=str,
)
def test_json_that_postgresql_cannot_take_apart_fails_no_write_and_travels_as_it_is(
    narrowed: dict[str, Any], capture: Any, engine: Engine
) -> None:
    documents(Publish(capture=capture, **narrowed), ordered=True).create_all(engine)
    for number, body in enumerate(ODD):
        raw(engine, "INSERT INTO document VALUES (%s, 'a', %s, 's')", str(number), body)
        raw(engine, "UPDATE document SET title = 'b' WHERE id = %s", str(number))
        raw(engine, "DELETE FROM document WHERE id = %s", str(number))
    found = stored(engine)
    assert [row[0] for row in found] == ["INSERT", "UPDATE", "DELETE"] * len(ODD)
    kept = {"id", "title", "body", "secret"} - set(narrowed.get("exclude", ()))
    kept &= {"id", *narrowed.get("columns", kept)}
    for (_, old, new), body in zip(found, (each for each in ODD for _ in range(3)), strict=True):
        for side in (old, new):
            if side is not None:
                assert set(json.loads(side)) == kept
                assert ("body" in kept) == (json.loads(body) == json.loads(side).get("body"))


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_a_change_of_such_json_is_one(capture: Any, engine: Engine) -> None:
    documents(Publish(capture=capture)).create_all(engine)
    raw(engine, "INSERT INTO document VALUES ('1', 'a', %s, 's')", ODD[0])
    raw(engine, "UPDATE document SET body = %s", ODD[1])
    raw(engine, "UPDATE document SET body = %s, secret = 't'", ODD[1])
    assert [row[0] for row in stored(engine)] == ["INSERT", "UPDATE"]


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.parametrize("name", ["back\\slash", 'qu"ote', "tab\tand \x01", "\\u0041", "ümlaut 50% :x"])
def test_a_column_of_any_name_is_left_out(name: str, capture: Any, engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __pubsub__ = Publish(exclude=["secret"], capture=capture)
        id: Mapped[int] = mapped_column(primary_key=True)
        kept: Mapped[str] = mapped_column("kept " + name)
        secret: Mapped[str] = mapped_column(name)

    after_insert(Thing, name="reader", ordered=True)(nothing)
    Base.metadata.create_all(engine)
    raw(engine, "INSERT INTO thing VALUES (1, %s, 's')", 'a\\b\\\\c \\u0041 \x01 "')
    assert [entry.new for entry in entries(engine, Base.metadata)] == [
        {"id": 1, "kept " + name: 'a\\b\\\\c \\u0041 \x01 "'}
    ]
    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []


@pytest.mark.parametrize("publish", [Publish(), Publish(columns=["title"])], ids=["all", "columns"])
def test_a_text_that_jsonb_cannot_hold_fails_no_write(publish: Publish, engine: Engine) -> None:
    documents(publish, ordered=True).create_all(engine)
    run(engine, "INSERT INTO document VALUES ('1', 'a', '{}', repeat('x', 280000000))")
    with engine.connect() as connection:
        size = connection.scalar(text("SELECT length(new::text) FROM pubsub_outbox"))
    assert (size < 100) == (publish.columns is not None)


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_a_domain_that_takes_no_null_may_be_left_out(capture: Any, engine: Engine) -> None:
    documents(Publish(exclude=["secret"], capture=capture)).create_all(engine)
    run(
        engine,
        "CREATE DOMAIN filled AS text NOT NULL CHECK (VALUE <> '')",
        "CREATE DOMAIN twice AS filled",
        "ALTER TABLE document ALTER secret TYPE twice",
    )
    with engine.begin() as connection:
        metadata = documents(Publish(exclude=["secret"], capture=capture))
        metadata.create_all(connection)
    run(engine, "INSERT INTO document VALUES ('1', 'a', '{}', 's')")
    assert [json.loads(row[2]) for row in stored(engine)] == [{"id": "1", "title": "a", "body": {}}]


@pytest.mark.every_server
@pytest.mark.parametrize("capture", ["statement", "row"])
def test_a_key_that_no_index_would_take_is_hashed(capture: Any, engine: Engine) -> None:
    metadata = documents(Publish(capture=capture), ordered=True)
    metadata.create_all(engine)
    # Long, and not to be compressed below what the index takes; the table has no index for it.
    run(engine, "ALTER TABLE document DROP CONSTRAINT document_pkey")
    long = "(SELECT string_agg(md5(i::text), '') FROM generate_series({}, {}) AS i)"
    run(
        engine,
        f"INSERT INTO document VALUES ({long.format(1, 200)}, 'a', '{{}}', 's')",
        "UPDATE document SET title = 'b'",
        f"UPDATE document SET id = {long.format(2, 201)}, title = 'c'",
        "UPDATE document SET id = 'short', title = 'd'",
        "DELETE FROM document",
    )
    inserted, updated, moved, shortened, deleted = entries(engine, metadata)
    assert inserted.key == updated.key != moved.key
    assert updated.old_key is None
    assert moved.old_key == inserted.key
    assert (shortened.key, shortened.old_key) == (["short"], moved.key)
    assert deleted.key == ["short"]
    assert len((inserted.new or {})["id"]) == 6400
    assert len(json.dumps(inserted.key)) < 100


def test_a_key_is_hashed_from_two_thousand_bytes_on(engine: Engine) -> None:
    metadata = documents(Publish(), ordered=True)
    metadata.create_all(engine)
    lengths = [LONGEST_KEY - 100, LONGEST_KEY + 1]
    for length in lengths:
        raw(engine, "INSERT INTO document VALUES (repeat('x', %s), 'a', '{}', 's')", length)
    short, long = (entry.key or [] for entry in entries(engine, metadata))
    assert short == ["x" * lengths[0]]
    assert set(long[0]) == {"sha256"}


def messages() -> MetaData:
    class Base(DeclarativeBase): ...

    class Said(Message, metadata=Base.metadata, name="said"):
        who: str
        words: str = ""

    on_message(Said, name="plain")(nothing)
    on_message(Said, name="in order", ordered=True, ordered_by="who")(nothing)
    on_message(Said, name="by words", ordered=True, ordered_by="words")(nothing)
    return Base.metadata


def say(engine: Engine, payload: str) -> None:
    raw(engine, "SELECT pubsub_publish('said', %s)", payload)


def keys_of(engine: Engine, metadata: MetaData, listener: str) -> list[Any]:
    return [entry.key for entry in entries(engine, metadata) if entry.listener == listener]


@pytest.mark.every_server
def test_what_another_field_holds_fails_no_publishing(engine: Engine) -> None:
    metadata = messages()
    metadata.create_all(engine)
    for words in (r'"\u0000"', r'"\ud800"', "1e400000", f'"{"x" * 9000}"', r'"\\u0000"', "null"):
        say(engine, f'{{"words": {words}, "who": "me \\u00e9 \\\\ \\" {{}}"}}')
    assert keys_of(engine, metadata, "in order") == [['me é \\ " {}']] * 6
    by_words = keys_of(engine, metadata, "by words")
    assert [[*each[0]] == ["sha256"] for each in by_words[:4]] == [True] * 4
    assert len({json.dumps(each) for each in by_words}) == 6
    assert by_words[4:] == [["\\u0000"], [None]]


def test_equal_values_of_a_field_make_equal_keys(engine: Engine) -> None:
    metadata = messages()
    metadata.create_all(engine)
    for who in (
        r'"\u0000"',
        r' "\u0000"',
        '"é"',
        r'"\u00e9"',
        "1",
        "1.0",
        f'"{"x" * 9000}"',
        f'"{"x" * 9000}"',
    ):
        say(engine, f'{{"who": {who}}}')
    say(engine, "{}")
    say(engine, '{"who": null}')
    found = keys_of(engine, metadata, "in order")
    assert all(found[i] == found[i + 1] for i in range(0, len(found), 2))
    assert found[2:6:2] == [["é"], [1]]
    assert found[8] == [None]
