"""Tables that come from the database, metadata that are copies, keys that only a mapper knows."""

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, Text
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_pubsub import Listener, Publish, PubSub, after_delete, after_insert, check, configure
from sqla_pubsub.errors import ConfigurationError
from tests.declare.entries import nothing, run

pytestmark = pytest.mark.one_driver

COMMENT = "CREATE TABLE comment (id serial PRIMARY KEY, content text)"


def handled(engine: Engine, model: type, metadata: MetaData) -> list[str]:
    """Install a listener on *model*, write a row and return what the listener got."""
    got: list[str] = []

    @after_insert(model, name="got")
    def _(new: object) -> None:
        got.append(new.content)  # type: ignore[attr-defined]

    metadata.create_all(engine)
    run(engine, "INSERT INTO comment (content) VALUES ('a')")
    Listener(engine, metadata).drain()
    with engine.connect() as connection:
        assert check(connection, metadata) == []
    return got


def test_automap_finds_the_outbox_of_an_earlier_start(engine: Engine) -> None:
    run(engine, COMMENT)
    for _ in range(3):
        base = automap_base()
        model = type("Comment", (PubSub, base), {"__tablename__": "comment"})
        base.prepare(autoload_with=engine)
        assert handled(engine, model, base.metadata) == ["a"]


@pytest.mark.parametrize("schema", [None, "events"])
def test_an_early_reflect_finds_the_outbox_of_an_earlier_start(engine: Engine, schema: str | None) -> None:
    run(engine, COMMENT, "CREATE SCHEMA events")
    for _ in range(3):
        metadata = MetaData()
        metadata.reflect(engine)
        metadata.reflect(engine, schema="events")
        base = type("Base", (DeclarativeBase,), {"metadata": metadata})
        configure(metadata, schema=schema)
        model = type("Comment", (PubSub, base), {"__table__": metadata.tables["comment"]})
        assert handled(engine, model, metadata) == ["a"]


def test_a_table_of_the_project_with_the_name_of_the_outbox_is_named() -> None:
    metadata = MetaData()
    Table("pubsub_outbox", metadata, Column("id", Integer, primary_key=True))
    base = type("Base", (DeclarativeBase,), {"metadata": metadata})
    with pytest.raises(
        ConfigurationError, match=r"'pubsub_outbox' is declared already .* none of ours.*prefix='shop_'"
    ):
        type("Note", (PubSub, base), {"__tablename__": "note", "id": Column(Integer, primary_key=True)})


def declared() -> tuple[type, MetaData]:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    return Comment, Base.metadata


def copied(metadata: MetaData, schema: str | None = None) -> MetaData:
    copy = MetaData()
    for table in metadata.tables.values():
        if schema is None:
            table.to_metadata(copy)
        else:
            table.to_metadata(copy, schema=schema)
    return copy


def test_create_all_of_a_copy_installs_what_the_original_declares(engine: Engine) -> None:
    model, metadata = declared()
    after_insert(model, name="got")(nothing)
    copy = copied(metadata)
    with engine.connect() as connection:
        assert [difference.kind for difference in check(connection, copy)] == ["table", "table", "missing"]
    copy.create_all(engine)
    with engine.connect() as connection:
        assert check(connection, copy) == check(connection, metadata) == []


def test_a_copy_for_another_schema_is_refused_with_the_remedy(engine: Engine) -> None:
    model, metadata = declared()
    after_insert(model, name="got")(nothing)
    run(engine, "CREATE SCHEMA tenant")
    copy = copied(metadata, "tenant")
    words = "'tenant.pubsub_outbox' is a copy of 'pubsub_outbox' in another schema.*schema_translate_map"
    with pytest.raises(ConfigurationError, match=words):
        copy.create_all(engine)
    with engine.connect() as connection, pytest.raises(ConfigurationError, match=words):
        check(connection, copy)


@pytest.mark.parametrize("publish", [Publish(columns=["content"]), Publish(exclude=["code", "size"])])
def test_the_key_of_the_mapper_travels_where_it_is_none_of_the_table(
    engine: Engine, publish: Publish
) -> None:
    class Base(DeclarativeBase): ...

    class Note(PubSub, Base):
        __table__ = Table(
            "note", Base.metadata, Column("code", String), Column("content", Text), Column("size", Integer)
        )
        __mapper_args__ = {"primary_key": [__table__.c.code]}  # noqa: RUF012
        __pubsub__ = publish

    got: list[tuple[str, str]] = []

    @after_insert(Note)
    def inserted(new: Note, session: Session) -> None:
        assert new in session
        got.append((new.code, new.content))  # type: ignore[attr-defined]

    @after_delete(Note)
    def deleted(old: Note) -> None:
        got.append((old.code, old.content))  # type: ignore[attr-defined]

    Base.metadata.create_all(engine)
    run(
        engine,
        "INSERT INTO note VALUES ('x', 'first', 1), ('y', 'second', 2)",
        "DELETE FROM note WHERE code = 'x'",
    )
    listener = Listener(engine, Base.metadata)
    assert listener.drain() == 3
    assert sorted(got) == [("x", "first"), ("x", "first"), ("y", "second")]


@pytest.mark.parametrize("publish", [Publish(columns=["content"]), Publish(exclude=["code"])])
def test_the_key_of_the_mapper_travels_beside_that_of_the_table(engine: Engine, publish: Publish) -> None:
    class Base(DeclarativeBase): ...

    class Note(PubSub, Base):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        code: Mapped[str] = mapped_column(unique=True)
        content: Mapped[str]
        __mapper_args__ = {"primary_key": ["code"]}  # noqa: RUF012
        __pubsub__ = publish

    got: list[tuple[int, str, str]] = []

    @after_insert(Note)
    def inserted(new: Note) -> None:
        got.append((new.id, new.code, new.content))

    Base.metadata.create_all(engine)
    run(engine, "INSERT INTO note VALUES (1, 'x', 'first')")
    assert Listener(engine, Base.metadata).drain() == 1
    assert got == [(1, "x", "first")]
