"""Names stay within what PostgreSQL keeps, and different things keep different names."""

import itertools
import logging

import pytest
from hypothesis import given

import tests.declare.strategies as some
from sqla_pubsub.contract.names import MAX_BYTES, OPERATIONS, bounded, capture_function, capture_trigger

LONG = "a_table_whose_name_has_as_many_letters_as_postgresql_ever_keeps"


def test_a_name_that_fits_is_left_as_it_is() -> None:
    assert bounded("x" * MAX_BYTES) == "x" * MAX_BYTES


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🙂"])
def test_a_longer_name_is_cut_between_letters_and_counted_in_bytes(letter: str) -> None:
    short = bounded(letter * 64)
    assert len(short.encode()) <= MAX_BYTES
    assert short.startswith(letter * 10)


def test_names_that_differ_at_the_end_stay_apart() -> None:
    assert bounded("x" * 70 + "a") != bounded("x" * 70 + "b")


def test_a_shortened_name_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sqla_pubsub.contract.names"):
        short = bounded("x" * 64)
    assert f"has 64 bytes, PostgreSQL keeps 63; it is called {short!r} instead" in caplog.text


def test_functions_of_all_tables_and_operations_have_names_of_their_own() -> None:
    """They share one schema, whatever the schemas of their tables."""
    tables = [(None, "b"), ("a", "b"), ("a_b", "c"), ("a", "b_c"), (None, "a_b_c"), (None, LONG), ("a", LONG)]
    names = [
        capture_function("pubsub_", schema, table, operation)
        for (schema, table), operation in itertools.product(tables, OPERATIONS)
    ]
    assert len(set(names)) == len(names)


def test_a_trigger_is_named_by_prefix_and_operation() -> None:
    assert [capture_trigger("shop_", operation) for operation in OPERATIONS] == [
        "shop_insert",
        "shop_update",
        "shop_delete",
        "shop_truncate",
    ]


@given(some.names, some.names)
def test_any_table_in_any_schema_gets_a_name_that_fits(schema: str, table: str) -> None:
    assert len(capture_function("pubsub_", schema, table, "INSERT").encode()) <= MAX_BYTES
