"""The publish function of messages goes through migrations like a trigger's function."""

import pytest

from tests.alembic_ext.project import COMMENT, MODELS, Project

pytestmark = pytest.mark.one_driver

VIEWED = f"""{MODELS}

class Viewed(Message, metadata=Base.metadata, name="viewed"):
    article_id: int
"""
LISTENER = "\n\n@on_message(Viewed)\ndef {name}(event): ...\n"
SEND = """SELECT pubsub_publish('viewed', '{"article_id": 1}')"""


def first_word(source: str) -> list[str]:
    return [line.split("(")[0].strip() for line in source.splitlines() if "publish_function(" in line]


def test_the_publish_function_comes_and_goes_with_the_migrations(project: Project) -> None:
    project.models(VIEWED + LISTENER.format(name="count"))
    source = project.migrate()
    assert first_word(source) == ["op.create_pubsub_publish_function", "op.drop_pubsub_publish_function"]
    assert project.differences() == []
    project.execute(SEND)
    assert project.entries() == [("count", "MESSAGE")]
    project.downgrade("base")
    assert project.functions() == []
    project.upgrade()
    assert project.differences() == []


def test_another_listener_changes_it_and_the_downgrade_changes_it_back(project: Project) -> None:
    project.models(VIEWED + LISTENER.format(name="count"))
    project.migrate()
    project.models(VIEWED + LISTENER.format(name="count") + LISTENER.format(name="audit"))
    source = project.migrate()
    upgrade, downgrade = source.split("def downgrade()")
    assert "'viewed': ['audit', 'count']" in upgrade
    assert "'viewed': ['count']" in downgrade
    assert project.differences() == []
    project.downgrade()
    project.execute(SEND)
    assert project.entries() == [("count", "MESSAGE")]


def test_it_is_dropped_with_the_last_message(project: Project) -> None:
    project.models(COMMENT + VIEWED.removeprefix(MODELS) + LISTENER.format(name="count"))
    project.migrate()
    project.models(COMMENT)
    assert first_word(project.migrate()) == [
        "op.drop_pubsub_publish_function",
        "op.create_pubsub_publish_function",
    ]
    assert project.differences() == []


def test_it_is_dropped_with_its_outbox(project: Project) -> None:
    project.models(VIEWED + LISTENER.format(name="count"))
    project.migrate()
    project.models(MODELS)
    source = project.migrate()
    assert first_word(source) == ["op.drop_pubsub_publish_function", "op.create_pubsub_publish_function"]
    assert project.functions() == []
    project.downgrade()
    project.execute(SEND)
    assert project.entries() == [("count", "MESSAGE")]


@pytest.mark.parametrize(
    "damage",
    [
        "DROP FUNCTION pubsub_publish",
        "GRANT EXECUTE ON FUNCTION pubsub_publish TO PUBLIC",
        "ALTER FUNCTION pubsub_publish SECURITY INVOKER",
        "CREATE OR REPLACE FUNCTION pubsub_publish(name text, payload json) RETURNS void LANGUAGE sql AS 'SELECT'",
    ],
)
def test_a_damaged_publish_function_is_mended(project: Project, damage: str) -> None:
    project.models(VIEWED + LISTENER.format(name="count"))
    project.migrate()
    project.execute(damage)
    assert len(project.differences()) == 2
    project.migrate()
    assert project.differences() == []


def test_include_object_may_leave_it_out(project: Project) -> None:
    project.configure(
        "include_object=keep",
        "def keep(object, name, type_, reflected, compare_to):\n    return type_ != 'function'",
    )
    project.models(VIEWED + LISTENER.format(name="count"))
    assert "publish_function" not in project.revision()
