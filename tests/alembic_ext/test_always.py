"""``Publish(always=True)`` in revisions: written, compared, taken back."""

import pytest

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project

pytestmark = pytest.mark.one_driver

MODELS = COMMENT + INSERT_LISTENER
ALWAYS = MODELS.replace("PubSub, Base):", "PubSub, Base):\n    __pubsub__ = Publish(always=True)")
STATE = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'pubsub_insert'"


def state(project: Project) -> str:
    with project.engine.connect() as connection:
        return str(connection.exec_driver_sql(STATE).scalar())


def test_a_revision_switches_always_on_and_its_downgrade_off(project: Project) -> None:
    project.models(MODELS)
    project.migrate()
    assert state(project) == "O"
    project.models(ALWAYS)
    assert "    always=True," in project.migrate()
    assert state(project) == "A"
    assert project.differences() == []
    project.downgrade()
    assert state(project) == "O"
    project.upgrade()
    assert state(project) == "A"
    project.models(MODELS)
    assert "create_pubsub_trigger" in project.migrate()
    assert state(project) == "O"
    project.downgrade()
    assert state(project) == "A"


def test_a_first_revision_installs_always_also_as_a_script(project: Project) -> None:
    project.models(ALWAYS)
    assert "always=True" in project.revision()
    assert 'ALTER TABLE "comment" ENABLE ALWAYS TRIGGER "pubsub_insert"' in project.script("upgrade", "head")
    project.upgrade()
    assert state(project) == "A"
    assert project.differences() == []
    project.downgrade("base")


def test_what_somebody_enabled_always_is_left_so_by_the_next_revisions(project: Project) -> None:
    project.models(MODELS)
    project.migrate()
    project.execute("ALTER TABLE comment ENABLE ALWAYS TRIGGER pubsub_insert")
    assert project.differences() == []
    project.models(MODELS + INSERT_LISTENER.replace("email_author", "second"))
    assert "replace_pubsub_function" in project.migrate()
    assert state(project) == "A"
    assert project.differences() == []
    project.downgrade()
    assert state(project) == "A"
