"""What looks like a member that does not travel, in somebody else's value, stays; what is one, never travels."""

import json
from typing import Any

import pytest
from sqlalchemy import JSON, Engine, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Publish, PubSub, after_delete, after_insert, after_update, check
from tests.declare.entries import nothing, run
from tests.declare.test_capture_strangers import raw, stored

pytestmark = pytest.mark.one_driver

LOOKALIKES = [
    '{"a":1,"secret":null}',
    '{"secret":null}',
    '{"a":1,"secret":"x"}',
    '{"a":{"b":1,"secret":null},"c":[{"d":1,"secret":null}]}',
    '{"a":",\\"secret\\":null"}',
    '{"a":1, "secret": null}',
    '["a,",{"b":2,"secret":null,"token":null}]',
]
"""Values of json with a member that is called as the column that does not travel, or with the text of one."""


def notes(capture: Any, exclude: list[str]) -> MetaData:
    class Base(DeclarativeBase): ...

    class Note(PubSub, Base):
        __tablename__ = "note"
        __pubsub__ = Publish(exclude=exclude, capture=capture)
        secret: Mapped[str | None]
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[Any] = mapped_column(JSON)
        token: Mapped[str | None]

    for decorator in (after_insert, after_update, after_delete):
        decorator(Note, name="reader")(nothing)
    return Base.metadata


def payloads(engine: Engine) -> list[Any]:
    """Return what travelled, old and new in the order in which it was written."""
    return [json.loads(side) for row in stored(engine) for side in row[1:] if side is not None]


@pytest.mark.every_server
@pytest.mark.parametrize("exclude", [["secret"], ["secret", "token"], ["token", "secret"]], ids=str)
@pytest.mark.parametrize("capture", ["statement", "row"])
def test_a_value_that_looks_like_an_excluded_member_arrives_whole(
    capture: Any, exclude: list[str], engine: Engine
) -> None:
    metadata = notes(capture, exclude)
    metadata.create_all(engine)
    for number, body in enumerate(LOOKALIKES):
        raw(engine, "INSERT INTO note VALUES ('s', %s, %s, 't')", number, body)
    raw(engine, "UPDATE note SET body = '[]'")
    raw(engine, "DELETE FROM note")
    rest = {} if "token" in exclude else {"token": "t"}
    whole = [{"id": n, "body": json.loads(body), **rest} for n, body in enumerate(LOOKALIKES)]
    empty = [row | {"body": []} for row in whole]
    changed = [side for pair in zip(whole, empty, strict=True) for side in pair]
    assert payloads(engine) == [*whole, *changed, *empty]
    with engine.connect() as connection:
        assert check(connection, metadata) == []


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.parametrize("body", LOOKALIKES)
def test_nothing_is_cut_out_for_an_excluded_column_that_is_gone(
    body: str, capture: Any, engine: Engine
) -> None:
    notes(capture, ["secret"]).create_all(engine)
    run(engine, "INSERT INTO note VALUES ('s', 1, '[]', 't')", "ALTER TABLE note DROP secret")
    raw(engine, "INSERT INTO note VALUES (2, %s, 't')", body)
    assert payloads(engine)[1:] == [{"id": 2, "body": json.loads(body), "token": "t"}]


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.parametrize("body", LOOKALIKES)
def test_a_column_of_json_that_is_added_later_arrives_whole(body: str, capture: Any, engine: Engine) -> None:
    notes(capture, ["secret"]).create_all(engine)
    run(engine, "INSERT INTO note VALUES ('s', 1, '[]', 't')", "ALTER TABLE note ADD more json")
    raw(engine, "INSERT INTO note VALUES ('s', 2, '[]', 't', %s)", body)
    assert payloads(engine)[1:] == [{"id": 2, "body": [], "token": "t", "more": json.loads(body)}]


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_an_excluded_column_that_comes_after_its_capture_does_not_travel(
    capture: Any, engine: Engine
) -> None:
    metadata = notes(capture, ["secret"])
    metadata.create_all(engine)
    run(engine, "ALTER TABLE note DROP secret")
    notes(capture, ["secret"]).create_all(engine)
    run(engine, "ALTER TABLE note ADD secret json")
    insert = "INSERT INTO note (id, body, secret) VALUES (1, %s, %s)"
    raw(engine, insert, '{"a":1,"secret":null}', '{"b":1,"secret":2}')
    assert payloads(engine) == [{"id": 1, "body": {"a": 1, "secret": None}, "token": None}]


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_a_row_of_which_nothing_travels_fails_no_write(capture: Any, engine: Engine) -> None:
    notes(capture, ["secret", "token"]).create_all(engine)
    run(
        engine,
        "ALTER TABLE note DROP id",
        "ALTER TABLE note DROP body",
        "INSERT INTO note VALUES ('s', 't')",
        "DELETE FROM note",
    )
    assert payloads(engine) == []
    assert [row[0] for row in stored(engine)] == ["INSERT", "DELETE"]
