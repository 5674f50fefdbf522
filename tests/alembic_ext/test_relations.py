"""What a table is in the database decides how it is captured: partitions and views that no model shows."""

import pytest
from alembic.util import CommandError

from sqla_pubsub.errors import ConfigurationError
from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, MODELS, Project, called

pytestmark = pytest.mark.one_driver

VISIT = f"""{MODELS}

class Visit(PubSub, Base):
    __tablename__ = "visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    country: Mapped[str] = mapped_column(primary_key=True)


@after_insert(Visit)
def count(new): ...


@after_update(Visit)
def follow(old, new): ...
"""
PARTITION = f"""{MODELS}

class French(PubSub, Base):
    __tablename__ = "visit_fr"
    id: Mapped[int] = mapped_column(primary_key=True)
    country: Mapped[str] = mapped_column(primary_key=True)


@after_insert(French)
def count_french(new): ...
"""
NO_PARTITIONS = """
def keep(object, name, type_, reflected, compare_to):
    return type_ != "table" or not reflected or not name.startswith(("visit", "plain"))
"""
COLUMNS = "(id int NOT NULL, country varchar NOT NULL, PRIMARY KEY (id, country))"
PARENT = f"CREATE TABLE visit {COLUMNS} PARTITION BY LIST (country)"
FRENCH = "CREATE TABLE visit_fr PARTITION OF visit FOR VALUES IN ('fr')"
TO_PARENT = "INSERT INTO visit VALUES ({}, 'fr')"
TO_FRENCH = "INSERT INTO visit_fr VALUES ({}, 'fr')"
# As a migration by hand or pg_partman does it: the old table becomes a partition of the new one.
SWAP = (
    "ALTER TABLE visit RENAME TO visit_fr",
    PARENT.replace("PRIMARY KEY", "CONSTRAINT visit_key PRIMARY KEY"),
    "ALTER TABLE visit ATTACH PARTITION visit_fr FOR VALUES IN ('fr')",
)


@pytest.fixture
def project(project: Project) -> Project:
    """A project that leaves the partitions of its tables alone."""
    project.configure("include_object=keep", NO_PARTITIONS)
    return project


@pytest.mark.every_server
def test_a_table_that_only_the_database_knows_to_be_partitioned_is_captured_per_row(project: Project) -> None:
    project.execute(PARENT, FRENCH)
    project.models(VISIT)
    source = project.migrate()
    assert source.count("capture='row'") == 4
    assert project.differences() == []
    project.execute(TO_PARENT.format(1), TO_FRENCH.format(2))
    assert project.entries() == [("count", "INSERT")] * 2
    project.downgrade()
    project.upgrade()
    assert project.differences() == []


@pytest.mark.every_server
def test_partitioning_a_table_that_publishes_is_found_and_mended(project: Project) -> None:
    project.models(VISIT)
    project.migrate()
    project.execute(*SWAP)
    found = " ".join(map(str, project.differences()))
    assert "not installed: INSERT on table 'visit'" in found
    source = project.migrate()
    assert called(source, "upgrade") == [
        "drop_pubsub_trigger visit_fr",
        "drop_pubsub_trigger visit_fr",
        "create_pubsub_trigger visit",
        "create_pubsub_trigger visit",
    ]
    assert project.differences() == []
    project.execute(TO_PARENT.format(1), TO_FRENCH.format(2), "UPDATE visit_fr SET id = id + 10")
    assert project.entries() == [("count", "INSERT")] * 2 + [("follow", "UPDATE")] * 2
    project.downgrade()
    project.upgrade()
    assert project.differences() == []
    project.execute(TO_FRENCH.format(3))
    assert project.entries() == [("count", "INSERT")]


def test_a_statement_trigger_on_a_table_with_partitions_is_a_difference_with_its_reason(
    project: Project,
) -> None:
    project.execute(PARENT, FRENCH)
    project.models(VISIT)
    project.migrate()
    statement = "op.create_pubsub_trigger('visit', operation='INSERT', listeners=['count'])"
    project.revision()
    drop = "op.drop_pubsub_trigger('visit', operation='INSERT', listeners=['count'])"
    project.edit_last_revision({r"(?<=def upgrade\(\) -> None:\n)": f"    {drop}\n    {statement}\n"})
    project.upgrade()
    (found,) = [item for item in project.differences() if isinstance(item, str)]
    reason = "trigger for INSERT on table 'visit' differs: it fires per statement, and is to fire per row. Run: alembic"
    assert found.startswith(reason)
    project.migrate()
    assert project.differences() == []


@pytest.mark.every_server
def test_a_model_of_one_partition_gets_what_enters_by_its_table(project: Project) -> None:
    project.execute(PARENT, FRENCH)
    project.models(PARTITION)
    project.migrate()
    assert project.differences() == []
    project.execute(TO_PARENT.format(1), TO_FRENCH.format(2))
    assert project.entries() == [("count_french", "INSERT")] * 2
    project.execute("ALTER TABLE visit DETACH PARTITION visit_fr")
    assert called(project.migrate(), "upgrade") == [
        "drop_pubsub_trigger visit_fr",
        "create_pubsub_trigger visit_fr",
    ]
    project.execute(TO_FRENCH.format(3))
    assert (project.differences(), project.entries()) == ([], [("count_french", "INSERT")])


def test_a_child_by_inherits_gets_what_is_written_by_its_parent(project: Project) -> None:
    project.execute(f"CREATE TABLE plain {COLUMNS}", f"CREATE TABLE visit_fr {COLUMNS} INHERITS (plain)")
    project.models(PARTITION.replace("@after_insert", "@after_update").replace("(new)", "(old, new)"))
    project.migrate()
    project.execute(TO_FRENCH.format(1), "UPDATE plain SET id = 2")
    assert (project.differences(), project.entries()) == ([], [("count_french", "UPDATE")])


def test_a_table_and_its_partition_cannot_both_publish_an_operation(project: Project) -> None:
    project.execute(PARENT, FRENCH)
    project.models(VISIT + PARTITION.replace(MODELS, ""))
    words = "table 'visit_fr' is a partition of 'visit', and both publish INSERT.*'count_french' on the model of 'visit'"
    with pytest.raises(CommandError, match=words):
        project.revision()
    with pytest.raises(ConfigurationError, match=words):
        project.create_all()
    project.models(VISIT)
    project.migrate()
    project.models(VISIT + PARTITION.replace(MODELS, ""))
    with pytest.raises(CommandError, match=words):
        project.revision()


def test_create_all_captures_per_row_what_is_partitioned(project: Project) -> None:
    project.execute(PARENT, FRENCH)
    project.models(VISIT)
    project.create_all()
    project.execute(TO_FRENCH.format(1))
    assert project.entries() == [("count", "INSERT")]


def test_create_all_replaces_the_captures_of_a_table_that_became_a_partition(project: Project) -> None:
    project.models(VISIT)
    project.create_all()
    project.execute(*SWAP)
    project.create_all()
    project.execute(TO_FRENCH.format(1), TO_PARENT.format(2))
    assert project.entries() == [("count", "INSERT")] * 2


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_is_refused_with_the_remedy(project: Project, kind: str) -> None:
    project.execute(f"CREATE TABLE plain {COLUMNS}", f"CREATE {kind} visit AS SELECT * FROM plain")
    # A view is no table of Alembic's, so env.py leaves it out.
    project.env("not reflected or not", "not")
    project.models(VISIT)
    words = f"'visit' is a {kind.lower()}, and PostgreSQL has no triggers that see its rows. Declare 'count' on the tables"
    with pytest.raises(CommandError, match=words):
        project.revision()
    with pytest.raises(ConfigurationError, match=words):
        project.create_all()


def test_a_view_that_comes_with_the_migration_is_named_when_it_is_run(project: Project) -> None:
    project.models(VISIT)
    project.revision()
    view = "op.execute(\"CREATE VIEW visit AS SELECT 1 AS id, 'fr' AS country\")"
    view = "op.execute(\"CREATE VIEW visit AS SELECT 1 AS id, 'fr' AS country\")"
    project.edit_last_revision({r"op\.create_table\('visit',(?:.|\n)*?\n    \)": view})
    with pytest.raises(
        CommandError, match=r"INSERT on 'visit' cannot be captured: \"visit\" is a view\. Declare 'count'"
    ):
        project.upgrade()


def test_a_foreign_table_is_captured_per_row(project: Project) -> None:
    project.execute(
        "CREATE FOREIGN DATA WRAPPER elsewhere",
        "CREATE SERVER far FOREIGN DATA WRAPPER elsewhere",
        "CREATE FOREIGN TABLE visit (id int NOT NULL, country varchar NOT NULL) SERVER far",
    )
    project.models(VISIT)
    project.create_all()
    with project.engine.connect() as connection:
        levels = connection.exec_driver_sql("SELECT tgtype & 1 FROM pg_trigger WHERE tgname LIKE 'pubsub%%'")
        assert list(levels.scalars()) == [1, 1]


def test_what_is_plain_stays_captured_per_statement(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    assert "capture" not in project.migrate()
