"""What a capture costs the writer, by the plan of its INSERT."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import PubSub, after_insert
from tests.declare.entries import nothing, run

pytestmark = [pytest.mark.one_driver, pytest.mark.every_server]

ROWS, LISTENERS = 7, 3


class Base(DeclarativeBase): ...


class Article(PubSub, Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Picture(PubSub, Base):
    __tablename__ = "picture"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Review(PubSub, Base):
    __tablename__ = "review"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


after_insert(Review, name="critic", when=lambda new: new.title != "good")(nothing)
after_insert(Review, name="archive")(nothing)
for number in range(LISTENERS):
    after_insert(Article, name=f"reader_{number}")(nothing)
    after_insert(Picture, name=f"painter_{number}", when=lambda new: new.title == "good")(nothing)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def conversions(engine: Engine, table: str) -> tuple[int, int]:
    """Run the INSERT of a capture for all rows of a table; return how many rows it converted, and wrote."""
    with engine.connect() as connection:
        body = connection.exec_driver_sql(
            "SELECT prosrc FROM pg_proc WHERE proname = %s", (f"pubsub_{table}_insert",)
        ).scalar_one()
        insert = body[body.index("INSERT INTO") : body.index(";\n")].replace("new_rows", table)
        found = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, VERBOSE, TIMING OFF, FORMAT JSON) {insert}"
        ).scalar_one()
        (plan,) = found if isinstance(found, list) else json.loads(found)
        converting = (
            node
            for node in nodes(plan["Plan"])
            # In brackets, it is what a node below has computed.
            if any(column.startswith("row_to_json") for column in node.get("Output", ()))
        )
        converted = sum(round(node["Actual Rows"] * node["Actual Loops"]) for node in converting)
        return converted, connection.exec_driver_sql("SELECT count(*) FROM pubsub_outbox").scalar_one()


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """Tables with rows that nobody was told of."""
    Base.metadata.create_all(engine)
    for table in ("article", "picture", "review"):
        run(engine, f"INSERT INTO {table} SELECT n, 'title' FROM generate_series(1, {ROWS}) AS n")
    run(engine, "DELETE FROM pubsub_outbox")
    return engine


def test_a_row_is_converted_once_for_all_its_listeners(filled: Engine) -> None:
    assert conversions(filled, "article") == (ROWS, ROWS * LISTENERS)


def test_a_row_is_converted_once_if_one_of_two_listeners_gets_every_row(filled: Engine) -> None:
    assert conversions(filled, "review") == (ROWS, ROWS * 2)


def test_a_row_that_no_listener_gets_is_not_converted(filled: Engine) -> None:
    assert conversions(filled, "picture") == (0, 0)
