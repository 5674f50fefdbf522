"""An update is an event where a value changed, and only there."""

from typing import Any

import pytest
from sqlalchemy import JSON, Engine, MetaData
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import UserDefinedType

from sqla_pubsub import ConfigurationError, Publish, PubSub, after_update
from tests.declare.entries import changes, entries, nothing, run

pytestmark = pytest.mark.one_driver


class Named(UserDefinedType[Any]):
    """A type of the server by its name."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


def comments(capture: Any, *ofs: list[str]) -> MetaData:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        __pubsub__ = Publish(capture=capture)
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str | None]
        votes: Mapped[int | None]

    for of in ofs:
        after_update(Comment, name=f"of {of}", of=of)(nothing)
    return Base.metadata


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_an_update_that_leaves_all_values_as_they_were_publishes_nothing(
    capture: str, engine: Engine
) -> None:
    metadata = comments(capture, [], ["content"], ["content", "votes"])
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment VALUES (1, 'a', NULL), (2, NULL, 5)",
        "UPDATE comment SET content = content",
    )
    assert changes(engine, metadata) == []


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_of_names_the_columns_whose_change_counts(capture: str, engine: Engine) -> None:
    metadata = comments(capture, ["content"])
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment VALUES (1, 'a', 0), (2, 'b', 0), (3, NULL, 0), (4, 'd', 0)",
        "UPDATE comment SET votes = 1",
        "UPDATE comment SET content = 'b', votes = 2 WHERE id < 3",
        "UPDATE comment SET content = CASE id WHEN 3 THEN 'c' END WHERE id >= 3",
    )
    assert changes(engine, metadata) == [
        ("UPDATE", {"id": 1, "content": "a", "votes": 1}, {"id": 1, "content": "b", "votes": 2}),
        ("UPDATE", {"id": 3, "content": None, "votes": 1}, {"id": 3, "content": "c", "votes": 1}),
        ("UPDATE", {"id": 4, "content": "d", "votes": 1}, {"id": 4, "content": None, "votes": 1}),
    ]


def test_a_flush_of_an_unchanged_object_publishes_nothing(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    after_update(Comment, name="reader")(nothing)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        written = Comment(id=1, content="a")
        session.add(written)
        session.commit()
        written.content = "b"
        session.flush()
        written.content = "a"
        session.commit()
    assert [(entry.old or {})["content"] for entry in entries(engine, Base.metadata)] == ["a", "b"]


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.parametrize(
    ("type_", "before", "after"),
    [
        (JSON(), """'{"a": [1, null]}'""", """'{"a": [1, 2]}'"""),
        (JSONB(), """'{"a": "x"}'""", """'{"a": "y"}'"""),
        (Named("point"), "'(1,2)'", "'(1,3)'"),
        (Named("text[]"), "'{a,NULL}'", "'{a,b}'"),
        (Named("circle"), "'<(0,0),1>'", "'<(0,0),2>'"),
        (Named("tsvector"), "'a b'", "'a c'"),
        (Named("double precision"), "'NaN'", "'Infinity'"),
    ],
    ids=lambda value: getattr(value, "name", None) or type(value).__name__,
)
def test_values_without_an_equality_operator_are_compared_too(
    type_: Any, before: str, after: str, capture: Any, engine: Engine
) -> None:
    """json, point and xml have none that fits, so ``IS DISTINCT FROM`` would break the user's UPDATE."""
    update_and_compare(engine, type_, before, after, capture)


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.every_server
def test_xml_is_compared_too(capture: Any, engine: Engine) -> None:
    try:
        run(engine, "SELECT '<a/>'::xml")
    except NotSupportedError:
        pytest.skip("this server is built without libxml")
    update_and_compare(engine, Named("xml"), "'<a/>'", "'<b/>'", capture)


def update_and_compare(engine: Engine, type_: Any, before: str, after: str, capture: Any) -> None:
    """Let one of two rows get another value, and find only that one in the outbox."""

    class Base(DeclarativeBase): ...

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __pubsub__ = Publish(capture=capture)
        id: Mapped[int] = mapped_column(primary_key=True)
        value: Mapped[Any] = mapped_column(type_)

    after_update(Thing, name="any")(nothing)
    after_update(Thing, name="of", of=["value"])(nothing)
    Base.metadata.create_all(engine)
    run(
        engine, f"INSERT INTO thing VALUES (1, {before}), (2, {before})", f"UPDATE thing SET value = {before}"
    )
    assert changes(engine, Base.metadata) == []
    run(engine, f"UPDATE thing SET value = CASE id WHEN 1 THEN {after} ELSE {before} END::{type_name(type_)}")
    found = sorted((entry.listener, (entry.new or {})["id"]) for entry in entries(engine, Base.metadata))
    assert found == [("any", 1), ("of", 1)]


def type_name(type_: Any) -> str:
    return str(getattr(type_, "name", None) or type(type_).__name__)


def test_a_large_value_that_is_stored_apart_is_compared_by_its_content(engine: Engine) -> None:
    metadata = comments(None, ["content"])
    metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO comment SELECT 1, string_agg(md5(i::text), ''), 0 FROM generate_series(1, 5000) AS i",
        "UPDATE comment SET content = content || '', votes = 1",
    )
    assert changes(engine, metadata) == []
    run(engine, "UPDATE comment SET content = overlay(content PLACING 'X' FROM 100000)")
    assert len(changes(engine, metadata)) == 1


@pytest.mark.parametrize("column", ["pubsub_old", "pubsub_new"])
def test_a_column_with_a_name_of_the_capture_is_refused_where_it_would_be_taken_for_the_row(
    column: str, engine: Engine
) -> None:
    def odd(capture: Any) -> MetaData:
        class Base(DeclarativeBase): ...

        class Odd(PubSub, Base):
            __tablename__ = "odd"
            __pubsub__ = Publish(capture=capture)
            id: Mapped[int] = mapped_column(primary_key=True)
            value: Mapped[str] = mapped_column(column)

        after_update(Odd, name="note")(nothing)
        return Base.metadata

    with pytest.raises(ConfigurationError, match=rf"'odd' .* has a column '{column}', .*capture='row'"):
        odd("statement").create_all(engine)
    metadata = odd("row")
    metadata.create_all(engine)
    run(engine, "INSERT INTO odd VALUES (1, 'a')", f"UPDATE odd SET {column} = 'b'")
    assert changes(engine, metadata) == [("UPDATE", {"id": 1, column: "a"}, {"id": 1, column: "b"})]
