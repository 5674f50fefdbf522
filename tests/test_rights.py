"""What a role needs is found wherever the search path leads, however its names are written."""

import pytest
from sqlalchemy import Engine, MetaData, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import PubSub, after_insert
from sqla_pubsub.rights import homes, needed

pytestmark = pytest.mark.one_driver


def model() -> MetaData:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)

    @after_insert(Comment)
    def reader(new: Comment) -> None: ...

    return Base.metadata


@pytest.mark.every_server
@pytest.mark.in_turn("quoting")
@pytest.mark.parametrize("quoting", ["on", "off"])
@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("shop", "shop"),
        ("shop", '"shop", public'),
        ("shop", "elsewhere,SHOP"),
        ("My, shop", '"My, shop", public'),
        ('a"b', '"a""b"'),
        ("select", '"select"'),
        ("postgres", '"$user", public'),
        ("postgres", "$user"),
        ("$user x", '"$user x"'),
    ],
)
def test_the_outbox_is_found_by_its_place_on_the_search_path(
    schema: str, path: str, quoting: str, engine: Engine
) -> None:
    metadata = model()
    quoted = engine.dialect.identifier_preparer.quote_identifier(schema)
    with engine.connect() as connection:
        for setting, value in (("quote_all_identifiers", quoting), ("search_path", path)):
            connection.execute(
                text("SELECT set_config(:name, :value, false)"), {"name": setting, "value": value}
            )
        connection.execute(text(f"CREATE SCHEMA {quoted}"))
        metadata.create_all(connection)
        assert set(homes(connection, metadata).values()) == {schema}
        assert {right.schema for right in needed(connection, metadata, "listener")} == {schema}


@pytest.mark.parametrize("quoting", ["on", "off"])
def test_of_two_outboxes_the_first_on_the_path_counts_and_one_off_it_does_not(
    quoting: str, engine: Engine
) -> None:
    metadata = model()
    with engine.connect() as connection:
        for schema in ("first", "second", "off"):
            connection.execute(text(f"CREATE SCHEMA {schema}"))
            connection.execute(text(f"SET search_path = {schema}"))
            metadata.create_all(connection)
        connection.execute(text(f"SET quote_all_identifiers = {quoting}"))
        connection.execute(text("SET search_path = second, first"))
        assert set(homes(connection, metadata).values()) == {"second"}
