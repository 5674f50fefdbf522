"""Who may create in a schema of a capture's search path is named: its conditions look names up there."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, MetaData, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_pubsub import PubSub, after_insert, check, configure
from tests.declare.entries import nothing, run

pytestmark = pytest.mark.one_driver

MAKER, OWNER, HEIR = "pubsub_maker", "pubsub_owner", "pubsub_heir"


def model(schema: str | None = None) -> MetaData:
    class Base(DeclarativeBase): ...

    configure(Base.metadata, schema=schema)

    class Comment(PubSub, Base):
        __tablename__ = "comment"
        id: Mapped[int] = mapped_column(primary_key=True)
        content: Mapped[str]

    after_insert(Comment, name="reader", when="length(new.content) > 3")(nothing)
    return Base.metadata


@pytest.fixture
def roles(engine: Engine) -> Iterator[None]:
    for role in (MAKER, OWNER, HEIR):
        run(
            engine,
            f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        )
    run(engine, f"GRANT {OWNER} TO {HEIR}")
    yield
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {MAKER}, {OWNER}, {HEIR} CASCADE"))


def found(engine: Engine, metadata: MetaData) -> list[str]:
    with engine.connect() as connection:
        return [str(difference) for difference in check(connection, metadata)]


@pytest.mark.usefixtures("roles")
def test_check_names_schemas_of_the_path_in_which_others_may_create(engine: Engine) -> None:
    metadata = model()
    metadata.create_all(engine)
    assert found(engine, metadata) == []
    run(engine, f"GRANT CREATE ON SCHEMA public TO {MAKER}, PUBLIC")
    (sentence,) = found(engine, metadata)
    assert sentence.startswith(
        f"everybody, role {MAKER} may CREATE in schema public, which is on the search path"
    )
    assert sentence.endswith(f"Run: REVOKE CREATE ON SCHEMA public FROM PUBLIC, {MAKER};")
    run(engine, sentence.partition("Run: ")[2])
    assert found(engine, metadata) == []


@pytest.mark.usefixtures("roles")
def test_another_schema_of_the_path_counts_and_one_off_it_does_not(engine: Engine) -> None:
    metadata = model()
    run(
        engine,
        f'CREATE SCHEMA "My, types" AUTHORIZATION {MAKER}',
        f"CREATE SCHEMA elsewhere AUTHORIZATION {MAKER}",
        f"""ALTER DATABASE "{engine.url.database}" SET search_path = public, "My, types" """,
    )
    engine.dispose()
    metadata.create_all(engine)
    (sentence,) = found(engine, metadata)
    assert sentence.startswith(f'role {MAKER} may CREATE in schema "My, types", which')
    run(engine, sentence.partition("Run: ")[2])
    assert found(engine, metadata) == []


@pytest.mark.usefixtures("roles")
def test_who_can_act_as_the_owner_anyway_is_no_stranger(engine: Engine) -> None:
    run(
        engine,
        f"CREATE SCHEMA app AUTHORIZATION {OWNER}",
        f"GRANT CREATE ON SCHEMA app TO {HEIR}, CURRENT_USER",
    )
    run(engine, f'ALTER DATABASE "{engine.url.database}" SET search_path = app')
    engine.dispose()
    metadata = model("app")
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        metadata.create_all(connection)
    assert found(engine, metadata) == []
    run(engine, f"GRANT CREATE ON SCHEMA app TO {MAKER}")
    (sentence,) = found(engine, metadata)
    assert sentence.startswith(f"role {MAKER} may CREATE in schema app, ")
    assert f"runs as their owner, {OWNER}" in sentence


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(("installing", "checking"), [("on", "off"), ("off", "on"), ("on", "on")])
def test_a_schema_of_the_path_is_named_however_the_path_is_quoted(
    installing: str, checking: str, engine: Engine
) -> None:
    metadata = model()
    run(engine, f"GRANT CREATE ON SCHEMA public TO {MAKER}")
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL quote_all_identifiers = {installing}"))
        metadata.create_all(connection)
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL quote_all_identifiers = {checking}"))
        (difference,) = check(connection, metadata)
    assert difference.kind == "exposed"
    assert "in schema public, which" in difference.detail
