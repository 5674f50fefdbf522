"""The operations by hand, as a migration calls them, without autogenerate."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import given
from sqlalchemy import Connection, Engine, MetaData, create_engine, inspect

import tests.declare.strategies as some
from alembic_ext.operations import (
    CreateTriggerOp,
    DropTriggerOp,
    PubSubOperation,
    ReplaceFunctionOp,
    TriggerOperation,
)
from alembic_ext.publish import CreatePublishOp, DropPublishOp
from sqla_pubsub import ConfigurationError
from sqla_pubsub.declare.catalog import installed
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CAPTURE_FORMAT, CapturedListener, TriggerSpec
from sqla_pubsub.registry import Registry

SPEC = TriggerSpec(table="comment", operation="INSERT", listeners=(CapturedListener(name="email_author"),))
OTHER = TriggerSpec(table="comment", operation="INSERT", listeners=(CapturedListener(name="audit"),))
FAN_OUT = FanOut(messages=(("viewed", (("count_views", None),)),))


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A transaction on a database with a published table and the outbox."""
    metadata = MetaData()
    _ = Registry(metadata).outbox
    with engine.connect() as connection:
        metadata.create_all(connection)
        connection.exec_driver_sql("CREATE TABLE comment (id int PRIMARY KEY)")
        yield connection


@pytest.fixture
def op(connection: Connection) -> Any:
    """What a migration imports as ``op``."""
    return Operations(MigrationContext.configure(connection))


def now(connection: Connection) -> list[TriggerSpec | None]:
    found = installed(connection, [(None, "comment")], "pubsub_")
    return [item.spec for item in found if not item.faults + item.function_faults]


@pytest.mark.one_driver
def test_create_replace_and_drop_do_what_they_say(connection: Connection, op: Any) -> None:
    op.create_pubsub_trigger("comment", operation="INSERT", listeners=["email_author"], format=CAPTURE_FORMAT)
    assert now(connection) == [SPEC]
    op.replace_pubsub_function(
        "comment", operation="INSERT", listeners=[{"name": "audit"}], format=CAPTURE_FORMAT
    )
    assert now(connection) == [OTHER]
    op.drop_pubsub_trigger("comment", operation="INSERT", listeners=["audit"])
    assert now(connection) == []


@pytest.mark.one_driver
def test_creating_twice_and_dropping_twice_is_no_error(connection: Connection, op: Any) -> None:
    for _ in range(2):
        op.create_pubsub_trigger("comment", operation="INSERT", listeners=["email_author"])
    # As the first release wrote it, whose revisions name no format.
    assert now(connection) == [replace(SPEC, format=1)]
    for _ in range(2):
        op.drop_pubsub_trigger("comment", operation="INSERT", listeners=["email_author"])
    assert now(connection) == []


@pytest.mark.one_driver
def test_without_the_outbox_a_trigger_is_refused_with_a_sentence(connection: Connection, op: Any) -> None:
    op.drop_table("pubsub_outbox")
    with pytest.raises(Exception, match="outbox table pubsub_outbox is not there"):
        op.create_pubsub_trigger("comment", operation="INSERT", listeners=["email_author"])


@pytest.mark.one_driver
def test_the_publish_function_is_created_and_dropped(connection: Connection, op: Any) -> None:
    op.create_pubsub_publish_function(messages={"viewed": ["count_views"]})
    connection.exec_driver_sql("""SELECT pubsub_publish('viewed', '{"id": 1}')""")
    found = connection.exec_driver_sql("SELECT listener, operation, source FROM pubsub_outbox").all()
    assert found == [("count_views", "MESSAGE", "viewed")]
    op.drop_pubsub_publish_function(messages={"viewed": ["count_views"]})
    query = "SELECT count(*) FROM pg_proc WHERE proname = 'pubsub_publish'"
    assert connection.exec_driver_sql(query).scalar_one() == 0


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"operation": "INSERT"}, "listeners"),
        ({"operation": "UPSERT", "listeners": ["a"]}, "'UPSERT' of a trigger is unknown"),
        ({"operation": "INSERT", "listeners": []}, "without listeners"),
        ({"operation": "INSERT", "listeners": ["a"], "colums": ["b"]}, "colums"),
        ({"operation": "INSERT", "listeners": [{"name": "a", "if": "b"}]}, "any of: of, when, ordered"),
        ({"operation": "INSERT", "listeners": ["a"], "format": 99}, "format 99 is unknown"),
    ],
)
def test_impossible_keywords_are_refused_with_a_sentence(keywords: dict[str, object], words: str) -> None:
    op: Any = Operations(MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True}))
    with pytest.raises(ConfigurationError, match=words):
        op.create_pubsub_trigger("comment", **keywords)


@pytest.mark.parametrize(
    "operation",
    [
        CreateTriggerOp(SPEC),
        ReplaceFunctionOp(SPEC, previous=OTHER),
        DropTriggerOp(SPEC),
        CreatePublishOp(FAN_OUT),
        DropPublishOp(FAN_OUT),
    ],
    ids=lambda operation: operation.name,
)
def test_on_another_dialect_an_operation_does_nothing(operation: PubSubOperation) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        Operations(MigrationContext.configure(connection)).invoke(operation)
        assert inspect(connection).get_table_names() == []
    engine.dispose()


@given(some.specs(), some.specs())
def test_reversing_twice_gives_the_same_operation(spec: TriggerSpec, other: TriggerSpec) -> None:
    """Alembic builds the downgrade of a downgrade when a revision is merged or rewritten."""
    operations: list[TriggerOperation] = [
        CreateTriggerOp(spec),
        CreateTriggerOp(spec, previous=other),
        ReplaceFunctionOp(spec, previous=other),
        DropTriggerOp(spec),
    ]
    for operation in operations:
        back = operation.reverse().reverse()
        assert type(back) is type(operation)
        assert vars(back) == vars(operation)


def test_what_undoes_an_operation_knows_what_was_there() -> None:
    create, drop = CreateTriggerOp(SPEC).reverse(), DropTriggerOp(SPEC).reverse()
    assert isinstance(create, DropTriggerOp)
    assert isinstance(drop, CreateTriggerOp)
    assert create.spec == drop.spec == SPEC
    replaced = ReplaceFunctionOp(SPEC, previous=OTHER).reverse()
    assert isinstance(replaced, ReplaceFunctionOp)
    assert (replaced.spec, replaced.previous) == (OTHER, SPEC)


def test_a_replacement_written_by_hand_cannot_be_reversed_and_says_so() -> None:
    with pytest.raises(NotImplementedError, match="does not know what was there before"):
        ReplaceFunctionOp(SPEC).reverse()


def test_a_difference_shows_name_and_arguments() -> None:
    expected = (
        "drop_pubsub_trigger",
        {"table": "comment", "operation": "INSERT", "listeners": ["email_author"], "format": CAPTURE_FORMAT},
    )
    assert DropTriggerOp(SPEC).to_diff_tuple() == expected


def test_help_shows_how_to_call_an_operation() -> None:
    for name in ("create_pubsub_trigger", "replace_pubsub_function", "drop_pubsub_trigger"):
        assert f"op.{name}(\n" in str(getattr(Operations, name).__doc__)
