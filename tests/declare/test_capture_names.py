"""Names that need care: quotes, ``%``, ``:``, unicode, our own words, 63 bytes."""

import logging
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, registry
from sqlalchemy.schema import CreateSchema

from sqla_pubsub import (
    PubSub,
    after_delete,
    after_insert,
    after_truncate,
    after_update,
    check,
    configure,
    outbox,
)
from sqla_pubsub.registry import registry_of
from tests.declare.entries import entries, nothing, run

ODD_NAMES = [
    "MixedCase",
    "with space",
    'double"quote',
    "single'quote",
    "back\\slash",
    "per%cent %s %(name)s %%",
    "co:lon :name ::text",
    "dollar$pubsub$",
    "naïve_Größe_表_🐘",
    "a.dot",
    "semi;colon--comment/*",
    "tab\tand\nnewline",
    "{brace}",
    "select",
    "order",
]

OUR_WORDS = [
    "new",
    "old",
    "listener",
    "position",
    "format",
    "r",
    "name",
    "holds",
    "key",
    "context",
    "found",
    "tg_op",
]


def model(
    table: str, column: str, schema: str | None = None, metadata: MetaData | None = None, **options: Any
) -> type[Any]:
    """Map a class with one odd column, and let listeners of every kind name that column.

    Their names end with the number of the table in its metadata.
    """
    metadata = MetaData() if metadata is None else metadata
    number = number_of_models(metadata)
    columns = Column("id", Integer, primary_key=True), Column(column, String, key="value")

    class Odd(PubSub): ...

    mappers = registry(metadata=metadata)
    mappers.map_imperatively(Odd, Table(table, metadata, *columns, schema=schema, **options))
    after_insert(Odd, name=f"every insert {number}")(nothing)
    after_insert(Odd, name=f"insert {number}", when=lambda new: new.value == "one")(nothing)
    changed = {"of": ["value"], "when": lambda old, new: old.value != new.value}
    after_update(Odd, name=f"update {number}", **changed)(nothing)  # type: ignore[arg-type]
    after_update(Odd, name=f"ordered {number}", ordered=True)(nothing)
    after_delete(Odd, name=f"delete {number}", when=lambda old: old.value == "two")(nothing)
    after_truncate(Odd, name=f"truncate {number}")(nothing)
    return Odd


def number_of_models(metadata: MetaData) -> int:
    return len(registry_of(metadata).published)


def write(engine: Engine, odd: Any) -> None:
    with Session(engine) as session:
        row = odd()
        row.id, row.value = 1, "one"
        session.add(row)
        session.commit()
        row.value = "two"
        session.commit()
        session.delete(row)
        session.commit()
        quoted = engine.dialect.identifier_preparer.format_table(odd.__table__)
        session.connection().exec_driver_sql(f"TRUNCATE {quoted}")
        session.commit()


def expected(source: str, column: str, number: int = 0) -> list[tuple[str, str, str, Any, Any]]:
    one, two = {"id": 1, column: "one"}, {"id": 1, column: "two"}
    return [
        (source, f"every insert {number}", "INSERT", None, one),
        (source, f"insert {number}", "INSERT", None, one),
        (source, f"ordered {number}", "UPDATE", one, two),
        (source, f"update {number}", "UPDATE", one, two),
        (source, f"delete {number}", "DELETE", two, None),
        (source, f"truncate {number}", "TRUNCATE", None, None),
    ]


def found(engine: Engine, metadata: MetaData) -> list[tuple[str, str, str, Any, Any]]:
    return [(e.source, e.listener, e.operation, e.old, e.new) for e in entries(engine, metadata)]


def test_odd_names_of_tables_and_columns_are_kept_letter_by_letter(engine: Engine) -> None:
    metadata = MetaData()
    models = [model(name, name, metadata=metadata) for name in ODD_NAMES]
    metadata.create_all(engine)
    for number, (name, odd) in enumerate(zip(ODD_NAMES, models, strict=True)):
        write(engine, odd)
        assert found(engine, metadata) == expected(name, name, number)
        run(engine, "DELETE FROM pubsub_outbox")
    with engine.begin() as connection:
        assert check(connection, metadata) == []
        metadata.drop_all(connection)
        assert functions(connection) == []


def functions(connection: Connection) -> list[str]:
    query = text("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
    return list(connection.scalars(query))


@pytest.mark.parametrize("capture", ["statement", "row"])
@pytest.mark.one_driver
def test_a_column_may_carry_a_word_of_the_capture(capture: str, engine: Engine) -> None:
    metadata = MetaData()
    options = {} if capture == "statement" else {"postgresql_partition_by": "RANGE (id)"}
    models = [model(f"with_{word}", word, metadata=metadata, **options) for word in OUR_WORDS]
    metadata.create_all(engine)
    for number, (word, odd) in enumerate(zip(OUR_WORDS, models, strict=True)):
        if capture == "row":
            run(engine, f"CREATE TABLE all_{word} PARTITION OF with_{word} DEFAULT")
        write(engine, odd)
        assert found(engine, metadata) == expected(f"with_{word}", word, number)
        run(engine, "DELETE FROM pubsub_outbox")


@pytest.mark.parametrize("schema", ["shop", 'Odd %schema\'s "name".'])
def test_a_table_may_live_in_another_schema_than_the_outbox(schema: str, engine: Engine) -> None:
    odd = model("comment", "content", schema)
    metadata = odd.__table__.metadata
    with engine.begin() as connection:
        connection.execute(CreateSchema(schema))
    metadata.create_all(engine)
    write(engine, odd)
    assert found(engine, metadata) == expected(f"{schema}.comment", "content")
    with engine.connect() as connection:
        assert check(connection, metadata) == []


@pytest.mark.one_driver
def test_the_schema_of_the_metadata_is_that_of_the_outbox(engine: Engine) -> None:
    metadata = MetaData(schema="Shop %1")
    odd = model("comment", "content", metadata=metadata)
    with engine.begin() as connection:
        connection.execute(CreateSchema("Shop %1"))
    metadata.create_all(engine)
    write(engine, odd)
    assert found(engine, metadata) == expected("Shop %1.comment", "content")
    assert outbox(metadata).Entry.__table__.schema == "Shop %1"


@pytest.mark.one_driver
def test_the_first_schema_of_the_search_path_takes_all_where_none_is_declared(engine: Engine) -> None:
    """A tenant's schema is a matter of the connection then, and the writer's search path of none."""
    odd = model("comment", "content")
    metadata = odd.__table__.metadata
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE SCHEMA "Tenant 1"')
        connection.exec_driver_sql('SET search_path = "Tenant 1", public')
        metadata.create_all(connection)
        assert check(connection, metadata) == []
    run(engine, "SET search_path = pg_catalog", """INSERT INTO "Tenant 1".comment VALUES (1, 'one')""")
    with engine.begin() as connection:
        listeners = connection.scalars(text('SELECT listener FROM "Tenant 1".pubsub_outbox')).all()
        places = connection.scalars(text("SELECT DISTINCT pronamespace::regnamespace::text FROM pg_proc "
                                         "WHERE proname LIKE 'pubsub%'")).all()  # fmt: skip
    assert sorted(listeners) == ["every insert 0", "insert 0"]
    assert places == ['"Tenant 1"']


@pytest.mark.one_driver
def test_tables_of_one_name_in_two_schemas_do_not_mix(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    def comment(schema: str | None) -> type[Any]:
        table = Table("comment", Base.metadata, Column("id", Integer, primary_key=True), schema=schema)
        model_of_it = type(f"Comment{schema}", (PubSub, Base), {"__table__": table})
        after_insert(model_of_it, name=f"reader of {schema}")(nothing)
        return model_of_it

    comments = [comment(schema) for schema in (None, "a", "b")]
    run(engine, "CREATE SCHEMA a", "CREATE SCHEMA b")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number, each in enumerate(comments):
            session.add(each(id=number))
            session.commit()
    assert [(e.listener, e.source, e.new) for e in entries(engine, Base.metadata)] == [
        ("reader of None", "comment", {"id": 0}),
        ("reader of a", "a.comment", {"id": 1}),
        ("reader of b", "b.comment", {"id": 2}),
    ]


@pytest.mark.one_driver
def test_two_projects_in_one_schema_have_two_prefixes(engine: Engine) -> None:
    found = []
    for prefix in ("shop_", "blog_"):
        metadata = MetaData()
        configure(metadata, prefix=prefix)
        mappers = registry(metadata=metadata)

        class Comment(PubSub): ...

        mappers.map_imperatively(Comment, Table("comment", metadata, Column("id", Integer, primary_key=True)))
        after_insert(Comment, name=f"{prefix}reader")(nothing)
        metadata.create_all(engine)
        found.append(metadata)
    run(engine, "INSERT INTO comment VALUES (1)")
    assert [[entry.listener for entry in entries(engine, metadata)] for metadata in found] == [
        ["shop_reader"],
        ["blog_reader"],
    ]


@pytest.mark.parametrize("name", ["t" * 63, "é" * 31 + "e", "T " * 31 + "T"])
def test_a_table_name_of_63_bytes_publishes_under_a_shortened_function(
    name: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    odd = model(name, name)
    metadata = odd.__table__.metadata
    with caplog.at_level(logging.WARNING, "sqla_pubsub.contract.names"):
        metadata.create_all(engine)
    assert f"pubsub_{name}_insert" in caplog.text
    with engine.connect() as connection:
        installed = functions(connection)
        assert check(connection, metadata) == []
    assert len(installed) == 4
    assert all(len(function.encode()) <= 63 and repr(function) in caplog.text for function in installed)
    write(engine, odd)
    assert found(engine, metadata) == expected(name, name)


@pytest.mark.one_driver
def test_shortened_names_that_begin_alike_stay_apart(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    for ending in "ab":
        table = Table("t" * 62 + ending, Base.metadata, Column("id", Integer, primary_key=True))
        model_of_it = type(f"Model{ending}", (PubSub, Base), {"__table__": table})
        after_insert(model_of_it, name=ending)(nothing)
    Base.metadata.create_all(engine)
    run(engine, f"INSERT INTO {'t' * 62}b VALUES (1)")
    assert [entry.listener for entry in entries(engine, Base.metadata)] == ["b"]


def test_a_listener_may_be_called_anything(engine: Engine) -> None:
    class Base(DeclarativeBase): ...

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)

    names = ["it's", 'a "quoted" one', "50 % off %s", ":bind", "back\\slash", "größer 表 🐘", "l" * 200]
    for name in names:
        after_insert(Comment, name=name)(nothing)
    Base.metadata.create_all(engine)
    run(engine, "INSERT INTO comment VALUES (1)")
    assert {entry.listener for entry in entries(engine, Base.metadata)} == set(names)
    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []


@pytest.mark.one_driver
def test_an_outbox_in_a_schema_of_any_name_reads_as_installed(engine: Engine) -> None:
    """The name stands in the body as an identifier and as a string, which is compared letter by letter."""
    for number, name in enumerate(ODD_NAMES):
        metadata = MetaData()
        configure(metadata, schema=name)
        odd = model(f"odd {number}", "value", metadata=metadata)
        with engine.begin() as connection:
            connection.execute(CreateSchema(name))
        metadata.create_all(engine)
        with engine.connect() as connection:
            assert check(connection, metadata) == [], name
        write(engine, odd)
        assert len(entries(engine, metadata)) == 6
