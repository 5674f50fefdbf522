"""A write publishes wherever it enters a partitioned table, and into whichever partition it falls."""

from typing import Any

import pytest
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import PubSub, after_delete, after_insert, after_truncate, after_update, check
from tests.declare.entries import changes, entries, nothing, run

pytestmark = pytest.mark.one_driver


class Base(DeclarativeBase): ...


class Reading(PubSub, Base):
    __tablename__ = "reading"
    __table_args__ = {"postgresql_partition_by": "LIST (region)"}  # noqa: RUF012
    id: Mapped[int] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


for decorator in (after_insert, after_update, after_delete, after_truncate):
    decorator(Reading, name="reader")(nothing)
after_insert(Reading, name="high", when=lambda new: new.value > 10)(nothing)
after_update(Reading, name="high", of=["value"], when=lambda old, new: new.value > old.value, ordered=False)(
    nothing
)

METADATA: MetaData = Base.metadata


@pytest.fixture
def tables(engine: Engine) -> Engine:
    """The installed table with the partitions north and south."""
    METADATA.create_all(engine)
    run(
        engine,
        "CREATE TABLE north PARTITION OF reading FOR VALUES IN ('north')",
        "CREATE TABLE south PARTITION OF reading FOR VALUES IN ('south')",
    )
    return engine


def row(number: int, region: str, value: int) -> dict[str, Any]:
    return {"id": number, "region": region, "value": value}


@pytest.mark.every_server
def test_a_write_through_the_parent_publishes_once(tables: Engine) -> None:
    run(
        tables,
        "INSERT INTO reading VALUES (1, 'north', 5), (2, 'south', 6)",
        "UPDATE reading SET value = value + 1",
        "UPDATE reading SET value = value",
        "DELETE FROM reading WHERE id = 1",
    )
    assert [(e.operation, e.old, e.new) for e in entries(tables, METADATA) if e.listener == "reader"] == [
        ("INSERT", None, row(1, "north", 5)),
        ("INSERT", None, row(2, "south", 6)),
        ("UPDATE", row(1, "north", 5), row(1, "north", 6)),
        ("UPDATE", row(2, "south", 6), row(2, "south", 7)),
        ("DELETE", row(1, "north", 6), None),
    ]
    assert {entry.source for entry in entries(tables, METADATA)} == {"reading"}


def test_a_write_sent_to_a_partition_publishes(tables: Engine) -> None:
    run(
        tables,
        "INSERT INTO north VALUES (1, 'north', 50)",
        "UPDATE north SET value = 60",
        "DELETE FROM north",
    )
    found = [(e.listener, e.operation, e.old, e.new) for e in entries(tables, METADATA)]
    assert sorted(found[:2], key=lambda entry: entry[0]) == [
        ("high", "INSERT", None, row(1, "north", 50)),
        ("reader", "INSERT", None, row(1, "north", 50)),
    ]
    assert sorted(entry[:2] for entry in found[2:]) == [
        ("high", "UPDATE"),
        ("reader", "DELETE"),
        ("reader", "UPDATE"),
    ]


@pytest.mark.every_server
def test_a_row_that_moves_between_partitions_is_a_delete_and_an_insert(tables: Engine) -> None:
    run(tables, "INSERT INTO reading VALUES (1, 'north', 5)", "DELETE FROM pubsub_outbox")
    run(tables, "UPDATE reading SET region = 'south'")
    assert changes(tables, METADATA) == [
        ("DELETE", row(1, "north", 5), None),
        ("INSERT", None, row(1, "south", 5)),
    ]


def test_a_partition_made_later_publishes(tables: Engine) -> None:
    run(
        tables,
        "CREATE TABLE west PARTITION OF reading FOR VALUES IN ('west')",
        "INSERT INTO west VALUES (1, 'west', 5)",
    )
    assert changes(tables, METADATA) == [("INSERT", None, row(1, "west", 5))]


def test_a_partition_with_another_order_of_columns_publishes(tables: Engine) -> None:
    run(
        tables,
        "CREATE TABLE east (gone int, value int NOT NULL, region varchar NOT NULL, id int NOT NULL)",
        "ALTER TABLE east DROP COLUMN gone",
        "ALTER TABLE reading ATTACH PARTITION east FOR VALUES IN ('east')",
        "INSERT INTO reading VALUES (1, 'east', 5), (2, 'north', 6)",
        "UPDATE reading SET value = 20",
    )
    found = [
        (e.operation, (e.new or {})["id"], e.new) for e in entries(tables, METADATA) if e.listener == "reader"
    ]
    assert sorted(found, key=lambda change: change[:2]) == [
        ("INSERT", 1, row(1, "east", 5)),
        ("INSERT", 2, row(2, "north", 6)),
        ("UPDATE", 1, row(1, "east", 20)),
        ("UPDATE", 2, row(2, "north", 20)),
    ]


def test_a_partition_of_a_partition_publishes(tables: Engine) -> None:
    run(
        tables,
        "CREATE TABLE west PARTITION OF reading FOR VALUES IN ('west') PARTITION BY RANGE (id)",
        "CREATE TABLE west_low PARTITION OF west FOR VALUES FROM (0) TO (10)",
        "INSERT INTO west_low VALUES (1, 'west', 5)",
        "INSERT INTO reading VALUES (2, 'west', 5)",
    )
    assert [entry.new for entry in entries(tables, METADATA)] == [row(1, "west", 5), row(2, "west", 5)]


def test_an_upsert_into_a_partitioned_table_publishes(tables: Engine) -> None:
    upsert = "INSERT INTO reading VALUES (1, 'north', {}) ON CONFLICT (id, region) DO UPDATE SET value = excluded.value"
    run(tables, upsert.format(5), upsert.format(6), upsert.format(6))
    assert [(e.operation, e.new) for e in entries(tables, METADATA) if e.listener == "reader"] == [
        ("INSERT", row(1, "north", 5)),
        ("UPDATE", row(1, "north", 6)),
    ]


def test_truncate_of_the_parent_publishes_once(tables: Engine) -> None:
    run(tables, "INSERT INTO reading VALUES (1, 'north', 5), (2, 'south', 5)", "DELETE FROM pubsub_outbox")
    run(tables, "TRUNCATE reading")
    assert changes(tables, METADATA) == [("TRUNCATE", None, None)]


def test_the_triggers_of_partitions_are_no_difference(tables: Engine) -> None:
    with tables.connect() as connection:
        assert check(connection, METADATA) == []
