"""A changed table breaks no statement of the user, unless a ``when=`` names what is gone.

A session keeps the plans of its triggers, so each change comes after a plan was made, from the
session that keeps it and from another one.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, MetaData, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import Publish, PubSub, after_delete, after_insert, after_update
from tests.declare.entries import entries, heard, nothing, run

pytestmark = [pytest.mark.one_driver, pytest.mark.every_server]


def comments(publish: Publish, when: Any = None) -> MetaData:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        __pubsub__ = publish
        id: Mapped[int] = mapped_column(primary_key=True, server_default="1", autoincrement=False)
        content: Mapped[str] = mapped_column(server_default="a")
        votes: Mapped[int] = mapped_column(server_default="5")

    after_insert(Comment, name="any", ordered=True, when=when)(nothing)
    after_update(Comment, name="any", ordered=True)(nothing)
    after_update(Comment, name="of", of=[Comment.content, Comment.votes])(nothing)
    after_delete(Comment, name="any", ordered=True)(nothing)
    return Base.metadata


@pytest.fixture
def writer(engine: Engine) -> Iterator[Connection]:
    """The session that keeps its plans."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def execute(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement))


CHANGES = [
    ([], {"id", "content", "votes"}),
    (["ADD added text DEFAULT 'x'"], {"id", "content", "votes", "added"}),
    (["ALTER content TYPE varchar(10)", "ALTER id TYPE bigint"], {"id", "content", "votes", "added"}),
    (["RENAME added TO renamed"], {"id", "content", "votes", "renamed"}),
    (["DROP votes"], {"id", "content", "renamed"}),
    (["RENAME content TO body", "ADD last int[] DEFAULT '{1}'"], {"id", "body", "renamed", "last"}),
    (["DROP renamed", "ADD content int DEFAULT 1"], {"id", "body", "last", "content"}),
]


@pytest.mark.parametrize("place", ["the same session", "another session"])
@pytest.mark.parametrize(
    "publish", [Publish(), Publish(exclude=["votes"]), Publish(capture="row")], ids=["all", "exclude", "row"]
)
def test_a_column_may_come_and_go_while_sessions_write(
    publish: Publish, place: str, engine: Engine, writer: Connection
) -> None:
    metadata = comments(publish)
    metadata.create_all(engine)
    for actions, columns in CHANGES:
        alterations = [f"ALTER TABLE comment {action}" for action in actions]
        if place == "the same session":
            execute(writer, *alterations)
        else:
            run(engine, *alterations)
        execute(
            writer,
            "INSERT INTO comment DEFAULT VALUES",
            "UPDATE comment SET id = -1",
            "DELETE FROM comment",
        )
        found = [(e.operation, e.key, e.old_key, e.old, e.new) for e in entries(engine, metadata)]
        assert [entry[:3] for entry in found] == [
            ("INSERT", [1], None),
            ("UPDATE", [-1], [1]),
            ("DELETE", [-1], None),
        ]
        travels = columns - {"votes"} if publish.exclude else columns
        assert [set(row) for entry in found for row in entry[3:] if row is not None] == [travels] * 4
        execute(writer, "DELETE FROM pubsub_outbox")


def test_of_a_column_that_is_gone_hears_of_the_others(engine: Engine, writer: Connection) -> None:
    metadata = comments(Publish())
    metadata.create_all(engine)
    execute(
        writer,
        "INSERT INTO comment DEFAULT VALUES",
        "UPDATE comment SET votes = 6",
        "DELETE FROM pubsub_outbox",
    )
    run(engine, "ALTER TABLE comment DROP votes")
    execute(writer, "UPDATE comment SET id = 2", "UPDATE comment SET content = 'b'")
    assert heard(engine, metadata) == [("any", "UPDATE"), ("any", "UPDATE"), ("of", "UPDATE")]


@pytest.mark.parametrize("publish", [Publish(), Publish(capture="row")], ids=["statement", "row"])
def test_a_condition_on_a_column_that_is_gone_breaks_the_statement(
    publish: Publish, engine: Engine, writer: Connection
) -> None:
    """The one exception: dropping the condition would send events nobody asked for, dropping the event lose some."""
    metadata = comments(publish, when=lambda new: new.votes > 1)
    metadata.create_all(engine)
    execute(writer, "INSERT INTO comment DEFAULT VALUES")
    run(engine, "ALTER TABLE comment RENAME votes TO points")
    with pytest.raises(ProgrammingError, match="votes"):
        execute(writer, "INSERT INTO comment (id) VALUES (2)")
    execute(writer, "UPDATE comment SET points = 7", "DELETE FROM comment")
    assert heard(engine, metadata) == [("any", "DELETE"), ("any", "INSERT"), ("any", "UPDATE")]


def test_a_table_that_had_lost_columns_before_it_published_publishes(engine: Engine) -> None:
    metadata = comments(Publish())
    run(
        engine,
        "CREATE TABLE comment (gone text, id int PRIMARY KEY DEFAULT 1, also_gone int, content text DEFAULT 'a', "
        "votes int DEFAULT 5)",
        "ALTER TABLE comment DROP gone, DROP also_gone",
    )
    metadata.create_all(engine)
    run(engine, "INSERT INTO comment DEFAULT VALUES", "UPDATE comment SET votes = 6", "DELETE FROM comment")
    first, second = {"id": 1, "content": "a", "votes": 5}, {"id": 1, "content": "a", "votes": 6}
    assert [(e.old, e.new) for e in entries(engine, metadata) if e.listener == "any"] == [
        (None, first),
        (first, second),
        (second, None),
    ]


def test_a_table_may_be_renamed_and_moved_while_sessions_write(engine: Engine, writer: Connection) -> None:
    """The name in ``source`` is the declared one: the entries still find their model."""
    metadata = comments(Publish())
    metadata.create_all(engine)
    execute(writer, "INSERT INTO comment DEFAULT VALUES")
    run(
        engine,
        "ALTER TABLE comment RENAME TO remark",
        "CREATE SCHEMA elsewhere",
        "ALTER TABLE remark SET SCHEMA elsewhere",
    )
    execute(writer, "DELETE FROM elsewhere.remark")
    assert [(entry.operation, entry.source) for entry in entries(engine, metadata)] == [
        ("INSERT", "comment"),
        ("DELETE", "comment"),
    ]
