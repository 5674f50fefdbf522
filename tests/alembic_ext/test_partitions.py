"""Partitions come and go outside the models, and publish as part of their table."""

import pytest
from sqlalchemy.exc import ProgrammingError

from tests.alembic_ext.project import MODELS, Project, called

pytestmark = pytest.mark.one_driver

VISIT = f"""{MODELS}

class Visit(PubSub, Base):
    __tablename__ = "visit"
    __table_args__ = {{"postgresql_partition_by": "LIST (country)"}}
    id: Mapped[int] = mapped_column(primary_key=True)
    country: Mapped[str] = mapped_column(primary_key=True)


@after_insert(Visit)
def count(new): ...


@after_truncate(Visit)
def forget(event): ...
"""
# As the documents say: Alembic would drop every table that no model declares.
NO_PARTITIONS = """
def keep(object, name, type_, reflected, compare_to):
    return type_ != "table" or not reflected or not name.startswith("visit_")
"""
GERMAN = "CREATE TABLE visit_de PARTITION OF visit FOR VALUES IN ('de')"
FRENCH = "CREATE TABLE visit_fr (id int NOT NULL, country varchar NOT NULL, PRIMARY KEY (id, country))"
ATTACH = "ALTER TABLE visit ATTACH PARTITION visit_fr FOR VALUES IN ('fr')"
TO_GERMAN = "INSERT INTO visit_de (id, country) VALUES ({}, 'de')"
TO_FRENCH = "INSERT INTO visit_fr (id, country) VALUES ({}, 'fr')"
ONE = [("count", "INSERT")]


@pytest.fixture
def project(project: Project) -> Project:
    """A project with a partitioned table and one partition."""
    project.configure("include_object=keep", NO_PARTITIONS)
    project.models(VISIT)
    project.migrate()
    project.execute(GERMAN)
    return project


@pytest.mark.every_server
def test_a_partition_publishes_from_its_attachment_to_its_detachment(project: Project) -> None:
    project.execute(TO_GERMAN.format(1), "INSERT INTO visit (id, country) VALUES (2, 'de')")
    assert project.entries() == ONE * 2
    project.execute(FRENCH, TO_FRENCH.format(1))
    assert project.entries() == []
    project.execute(ATTACH, TO_FRENCH.format(2), "INSERT INTO visit (id, country) VALUES (3, 'fr')")
    assert (project.differences(), project.entries()) == ([], ONE * 2)
    project.execute("ALTER TABLE visit DETACH PARTITION visit_fr", TO_FRENCH.format(4))
    assert (project.differences(), project.entries()) == ([], [])
    project.execute("DROP TABLE visit_de")
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])


def test_truncate_publishes_when_it_names_the_table_and_not_when_it_names_a_partition(
    project: Project,
) -> None:
    """PostgreSQL has no row triggers for TRUNCATE, and statement triggers are not passed on to partitions."""
    project.execute("TRUNCATE visit_de")
    assert project.entries() == []
    project.execute("TRUNCATE visit")
    assert project.entries() == [("forget", "TRUNCATE")]


def test_a_table_that_publishes_by_itself_is_attached_after_its_triggers_were_dropped(
    project: Project,
) -> None:
    own = 'Visitor(PubSub, Base):\n    __tablename__ = "visit_fr"\n    id = Column(Integer, primary_key=True)'
    country = "country = Column(String, primary_key=True)"
    listener = "@after_insert(Visitor)\ndef count_visitors(new): ..."
    project.env("not name.startswith", "name == 'visit_fr' or not name.startswith")
    project.models(f"{VISIT}\n\nclass {own}\n    {country}\n\n\n{listener}\n")
    project.migrate()
    with pytest.raises(
        ProgrammingError, match='trigger "pubsub_insert" for relation "visit_fr" already exists'
    ):
        project.execute(ATTACH)
    project.env("name == 'visit_fr' or not name.startswith", "not name.startswith")
    project.models(VISIT)
    project.revision()
    # The table is no model's any more: what autogenerate left alone is dropped by hand.
    drop = "op.drop_pubsub_trigger('visit_fr', operation='INSERT', listeners=['count_visitors'])"
    project.edit_last_revision(
        {r"(?<=def upgrade\(\) -> None:\n)": f"    {drop}\n    op.execute({ATTACH!r})\n"}
    )
    project.upgrade()
    assert project.differences() == []
    project.execute(TO_FRENCH.format(1))
    assert project.entries() == ONE


def test_without_a_filter_alembic_wants_to_drop_the_partitions(project: Project) -> None:
    project.env("include_object=keep", "")
    assert called(project.revision(), "upgrade") == ["drop_table visit_de"]
