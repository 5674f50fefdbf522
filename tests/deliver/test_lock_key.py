"""Worker and captures come to one lock key, whatever their sessions' ``quote_all_identifiers`` is."""

from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import PubSub, after_insert, check, configure, outbox
from sqla_pubsub.contract.quoting import qualified
from sqla_pubsub.contract.wakeup import LOCK_KEY, WAKE, lock_parameters

pytestmark = [pytest.mark.one_driver, pytest.mark.every_server]

SCHEMAS = ["plain", "_a1", "Mixed", "order", "reset", "a b", 'qu"ote', "été", "1st", "back\\slash", "a$b"]
"""Names with and without a need for quotes; 'order' is a reserved word and 'reset' is not."""


def things(schema: str) -> MetaData:
    class Base(DeclarativeBase): ...

    configure(Base.metadata, schema=schema)

    class Thing(PubSub, Base):
        __tablename__ = "thing"
        __table_args__ = ({"schema": schema},)
        id: Mapped[int] = mapped_column(primary_key=True)

    @after_insert(Thing)
    def hear(new: Any) -> None: ...

    return Base.metadata


def quote_all(engine: Engine, value: str) -> Any:
    """Let every new connection of *engine* have the setting."""

    def on_connect(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET quote_all_identifiers = {value}")
        connection.commit()

    engine.dispose()
    event.listen(engine, "connect", on_connect)
    return on_connect


@pytest.mark.parametrize("schema", SCHEMAS)
def test_captures_and_workers_come_to_one_key(schema: str, engine: Engine) -> None:
    metadata = things(schema)
    entry = outbox(metadata).Entry.__table__
    found = set()
    for installs in ("on", "off"):
        hook = quote_all(engine, installs)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {qualified(None, schema)}")
            metadata.drop_all(connection)
            metadata.create_all(connection)
        event.remove(engine, "connect", hook)
        for works in ("on", "off"):
            hook = quote_all(engine, works)
            with engine.connect() as connection:
                assert check(connection, metadata) == []
                key = connection.execute(LOCK_KEY, lock_parameters(entry, connection)).one().key
                assert connection.execute(WAKE, lock_parameters(entry, connection)).rowcount == 1
                found.add(key)
            event.remove(engine, "connect", hook)
    with engine.connect() as connection:
        # As releases before have it, whose captures are installed.
        written = "SELECT hashtextextended(quote_ident(:schema) || '.\"pubsub_outbox\"', 0)"
        connection.execute(text("SET quote_all_identifiers = off"))
        assert found == {connection.scalar(text(written), {"schema": schema})}


def test_a_writer_wakes_a_worker_whose_session_quotes_all(engine: Engine) -> None:
    metadata = things("public")
    metadata.create_all(engine)
    hook = quote_all(engine, "on")
    entry = outbox(metadata).Entry.__table__
    with engine.connect() as sleeper, engine.connect() as writer:
        parameters = sleeper.execute(LOCK_KEY, lock_parameters(entry, sleeper)).one()
        sleeper.execute(text("SELECT pg_advisory_lock(:key)"), {"key": parameters.key})
        sleeper.exec_driver_sql(f'LISTEN "{parameters.channel}"')
        sleeper.commit()
        writer.execute(text("INSERT INTO thing VALUES (1)"))
        writer.commit()
        sleeper.execute(text("SELECT 1"))
        driver: Any = sleeper.connection.driver_connection
        assert [each.channel for each in driver.notifies] == [parameters.channel]
    event.remove(engine, "connect", hook)
