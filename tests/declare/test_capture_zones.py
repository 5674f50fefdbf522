"""Writers in different time zones: one row has one key, and a condition means the zone of the writer."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import ARRAY, DateTime, Dialect, Engine, Integer, MetaData, String, text
from sqlalchemy.dialects.postgresql import DOMAIN, TIMESTAMP, TSTZRANGE
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from sqla_pubsub import ConfigurationError, PubSub, after_delete, after_insert, after_update
from sqla_pubsub.declare.declared import declared
from tests.declare.entries import entries, nothing

pytestmark = pytest.mark.one_driver


class Instant(TypeDecorator[datetime]):
    """A time with its zone, in a type of the user's own."""

    impl = Integer
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=True))


def readings(kind: TypeEngine[Any], when: Callable[[Any], Any] | None = None) -> MetaData:
    class Base(DeclarativeBase): ...

    class Reading(PubSub, Base):
        __tablename__ = "reading"
        at: Mapped[Any] = mapped_column("at's", kind, primary_key=True)
        sensor: Mapped[int] = mapped_column(primary_key=True)
        value: Mapped[int] = mapped_column(Integer)

    after_insert(Reading, name="reader", ordered=True, when=when)(nothing)
    after_update(Reading, name="reader", ordered=True)(nothing)
    after_delete(Reading, name="reader", ordered=True)(nothing)
    return Base.metadata


def write(engine: Engine, zone: str, *statements: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL TimeZone = '{zone}'"))
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.every_server
@pytest.mark.parametrize(
    "kind",
    [
        DateTime(timezone=True),
        TIMESTAMP(timezone=True, precision=3),
        Instant(),
        DateTime().with_variant(TIMESTAMP(timezone=True), "postgresql"),
        DOMAIN("instant", DateTime(timezone=True)),
    ],
    ids=["plain", "precise", "decorated", "variant", "domain"],
)
@pytest.mark.in_turn("at")
@pytest.mark.parametrize(
    "at", ["2024-10-27 00:30:00.123+00", "infinity", "0044-03-15 12:00:00+00 BC", "20000-01-01 00:00:00+00"]
)
def test_a_row_has_the_same_key_for_writers_in_all_time_zones(
    engine: Engine, kind: TypeEngine[Any], at: str
) -> None:
    metadata = readings(kind)
    metadata.create_all(engine)
    write(engine, "Europe/Berlin", f"INSERT INTO reading VALUES ('{at}', 1, 0)")
    write(engine, "Asia/Kathmandu", "UPDATE reading SET value = 1")
    write(engine, "America/New_York", "DELETE FROM reading")
    found = entries(engine, metadata)
    assert [entry.operation for entry in found] == ["INSERT", "UPDATE", "DELETE"]
    assert [entry.key for entry in found] == [found[0].key] * 3
    # It would be told if it was another one.
    assert found[1].old_key is None
    assert found[0].key is not None
    assert None not in found[0].key


def test_a_condition_means_the_time_zone_of_the_writer(engine: Engine) -> None:
    metadata = readings(DateTime(timezone=True), when=lambda new: new.at.cast(String).like("%09:30:00%"))
    metadata.create_all(engine)
    write(engine, "UTC", "INSERT INTO reading VALUES ('2024-01-01 00:30+00', 1, 0)")
    write(engine, "Asia/Tokyo", "INSERT INTO reading VALUES ('2024-01-01 00:30+00', 2, 0)")
    [entry] = entries(engine, metadata)
    assert entry.new is not None
    assert entry.new["sensor"] == 2


@pytest.mark.parametrize("kind", [TSTZRANGE(), ARRAY(DateTime(timezone=True))], ids=["range", "array"])
def test_a_key_that_holds_times_within_is_refused_for_an_ordered_listener(kind: TypeEngine[Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"its own time zone\. Drop ordered="):
        declared(readings(kind))
