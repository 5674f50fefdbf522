"""From a trigger to the catalog and back, for any trigger: what is installed is read as what it was."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, MetaData, text

import tests.declare.strategies as some
from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.declare.catalog import existing, installed, installed_publish
from sqla_pubsub.declare.ddl import CreatePublish, create
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.registry import Registry, Settings

tables = some.names.filter(lambda name: len(name.encode()) <= 63)


def with_outboxes(connection: Connection) -> None:
    """Make the outboxes of the prefixes that the strategies use; their functions may then hold anything."""
    metadata = MetaData()
    for prefix in ("pubsub_", "shop_"):
        registry = Registry(metadata)
        registry.configure(Settings(prefix=prefix))
        _ = registry.outbox
    metadata.create_all(connection)
    connection.execute(text("SET check_function_bodies = off"))


@pytest.mark.every_server
def test_round_trip_any_installed_trigger_is_read_back_without_a_fault(engine: Engine) -> None:
    with engine.connect() as connection:
        with_outboxes(connection)
        connection.commit()

        @settings(max_examples=settings().max_examples // 2)
        @given(some.specs(), tables)
        def round_trip(spec: TriggerSpec, table: str) -> None:
            spec = replace(spec, table=table, schema=None, outbox_schema=None)
            connection.exec_driver_sql(f"CREATE TABLE {identifier(table).replace('%', '%%')} ()")
            create(connection, spec)
            (item,) = installed(connection, [(None, table)], spec.prefix)
            connection.rollback()
            assert (item.spec, item.faults, item.function_faults) == (spec, (), ())

        round_trip()


@pytest.mark.one_driver
def test_round_trip_any_installed_publish_function_is_read_back_without_a_fault(engine: Engine) -> None:
    with engine.connect() as connection:
        with_outboxes(connection)
        connection.commit()

        @settings(max_examples=settings().max_examples // 2)
        @given(some.fan_outs(), st.none())
        def round_trip(fan_out: FanOut, schema: None) -> None:
            fan_out = replace(fan_out, outbox_schema=schema)
            connection.execute(CreatePublish(fan_out))
            found = installed_publish(connection, (schema, fan_out.outbox), fan_out.function)
            connection.rollback()
            assert found is not None
            assert (found.fan_out, found.faults) == (fan_out, ())

        round_trip()


@pytest.mark.one_driver
def test_reading_waits_for_nobody_and_needs_no_rights(engine: Engine) -> None:
    """A comparison runs beside an application, and in a program that may only read."""
    spec = TriggerSpec.from_dict({"table": "comment", "operation": "INSERT", "listeners": ["email_author"]})
    with engine.begin() as connection:
        with_outboxes(connection)
        connection.execute(text("CREATE TABLE comment ()"))
        create(connection, spec)
    with engine.connect() as holder, engine.connect() as reader:
        holder.execute(text("LOCK TABLE comment, pubsub_outbox IN ACCESS EXCLUSIVE MODE"))
        reader.execute(text("CREATE ROLE pubsub_reader"))
        reader.execute(text("SET ROLE pubsub_reader"))
        reader.execute(text("SET lock_timeout = '1s'"))
        assert [item.spec for item in installed(reader, [(None, "comment")], "pubsub_")] == [spec]
        assert existing(reader, [(None, "comment"), (None, "absent")]) == {(None, "comment"): "r"}
        locks = text("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation >= 16384")
        assert reader.execute(locks).scalar_one() == 0
