"""``session_replication_role = replica`` silences triggers, those of ``always=True`` excepted."""

from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import (
    ConfigurationError,
    Publish,
    PubSub,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    check,
)
from sqla_pubsub.declare.spec import TriggerSpec
from tests.declare.entries import changes, nothing, run

REPLICA = "SET LOCAL session_replication_role = replica"
WRITES = (
    "INSERT INTO comment VALUES (1, 'a')",
    "UPDATE comment SET content = 'b'",
    "DELETE FROM comment",
    "TRUNCATE comment",
)
ALL = ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]


def comments(publish: Publish | None = None, *names: str, **table: Any) -> Any:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        __table_args__ = table
        __pubsub__ = publish or Publish()
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    for name in names or ("reader",):
        for decorator in (after_insert, after_update, after_delete, after_truncate):
            decorator(Comment, name=name)(nothing)
    return Comment


def found(engine: Engine, model: Any) -> list[str]:
    with engine.connect() as connection:
        return [difference.detail for difference in check(connection, model.metadata)]


def operations(engine: Engine, model: Any) -> list[str]:
    return [operation for operation, _, _ in changes(engine, model.metadata)]


@pytest.mark.parametrize("capture", ["statement", "row"])
def test_always_publishes_what_a_replica_session_writes(engine: Engine, capture: Any) -> None:
    model = comments(Publish(always=True, capture=capture))
    model.metadata.create_all(engine)
    run(engine, REPLICA, *WRITES)
    assert operations(engine, model) == ALL
    assert found(engine, model) == []


@pytest.mark.one_driver
def test_without_always_a_replica_session_publishes_nothing(engine: Engine) -> None:
    model = comments()
    model.metadata.create_all(engine)
    run(engine, REPLICA, *WRITES)
    assert operations(engine, model) == []
    run(engine, *WRITES)
    assert operations(engine, model) == ALL


@pytest.mark.every_server
@pytest.mark.one_driver
def test_partitions_of_now_and_later_publish_always(engine: Engine) -> None:
    model = comments(Publish(always=True), postgresql_partition_by="RANGE (id)")
    run(engine, "CREATE TABLE comment (id int PRIMARY KEY, content text) PARTITION BY RANGE (id)")
    run(engine, "CREATE TABLE early PARTITION OF comment FOR VALUES FROM (0) TO (10)")
    model.metadata.create_all(engine)
    run(engine, "CREATE TABLE late PARTITION OF comment FOR VALUES FROM (10) TO (20)")
    run(engine, REPLICA, "INSERT INTO early VALUES (1, 'a')", "INSERT INTO late VALUES (11, 'a')")
    assert operations(engine, model) == ["INSERT", "INSERT"]
    assert found(engine, model) == []


@pytest.mark.one_driver
def test_a_trigger_that_somebody_enabled_always_is_no_difference_and_stays_so(engine: Engine) -> None:
    model = comments()
    model.metadata.create_all(engine)
    run(engine, "ALTER TABLE comment ENABLE ALWAYS TRIGGER pubsub_insert")
    assert found(engine, model) == []
    more = comments(None, "reader", "second")
    more.metadata.create_all(engine)
    assert found(engine, more) == []
    run(engine, REPLICA, *WRITES)
    assert operations(engine, model) == ["INSERT", "INSERT"]


@pytest.mark.one_driver
@pytest.mark.parametrize("state", ["ENABLE TRIGGER", "DISABLE TRIGGER", "ENABLE REPLICA TRIGGER"])
def test_a_trigger_that_does_not_fire_always_any_more_is_mended(engine: Engine, state: str) -> None:
    model = comments(Publish(always=True))
    model.metadata.create_all(engine)
    run(engine, f"ALTER TABLE comment {state} pubsub_insert")
    (detail,) = found(engine, model)
    assert "is not as installed" in detail
    model.metadata.create_all(engine)
    assert found(engine, model) == []
    run(engine, REPLICA, *WRITES)
    assert operations(engine, model) == ALL


@pytest.mark.one_driver
def test_always_is_switched_on_and_off(engine: Engine) -> None:
    model = comments()
    model.metadata.create_all(engine)
    always = comments(Publish(always=True))
    details = found(engine, always)
    assert len(details) == 4
    assert all("it is to fire also under session_replication_role = replica" in detail for detail in details)
    always.metadata.create_all(engine)
    assert found(engine, always) == []
    run(engine, REPLICA, *WRITES)
    assert operations(engine, model) == ALL
    assert "no more under session_replication_role" in found(engine, model)[0]
    model.metadata.create_all(engine)
    assert found(engine, model) == []
    run(engine, REPLICA, *WRITES)
    assert operations(engine, model) == ALL


def test_always_is_part_of_the_plain_form_where_it_is_set() -> None:
    plain = {"table": "comment", "operation": "INSERT", "listeners": ["reader"], "always": True}
    spec = TriggerSpec.from_dict(plain)
    assert spec.always
    assert spec.as_dict() == plain
    assert "always" not in TriggerSpec.from_dict({**plain, "always": False}).as_dict()


def test_always_is_true_or_false() -> None:
    with pytest.raises(ConfigurationError, match=r"Publish\(always='yes'\) is unknown. Give True or False"):
        Publish(always="yes")  # type: ignore[arg-type]
