"""Deployments in which migrations, writers and workers of two releases run side by side lose nothing."""

import pytest
from sqlalchemy import text

from sqla_pubsub.contract.tables import FORMAT
from tests.alembic_ext.project import MODELS, Project

pytestmark = pytest.mark.one_driver

COMMENT = f"""{MODELS}

HANDLED = []


class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(server_default="")
"""
STARS = '    stars: Mapped[int] = mapped_column(server_default="0", default=3)\n'
MOOD = '    mood: Mapped[str] = mapped_column(server_default="calm", default="not known")\n'
NOTE_STARS = "\n\n@after_insert(Comment)\ndef note(new): HANDLED.append((new.id, new.stars))\n"
NOTE_MOOD = "\n\n@after_insert(Comment)\ndef note(new): HANDLED.append((new.id, new.mood))\n"
AUDIT = "\n\n@after_insert(Comment{options})\ndef {name}(new): HANDLED.append(('{name}', new.id))\n"

OLD = COMMENT + STARS + NOTE_STARS
NEW = COMMENT + MOOD + NOTE_MOOD
INSERT = "INSERT INTO comment DEFAULT VALUES"


def audited(name: str = "audit", options: str = "") -> str:
    return COMMENT + AUDIT.format(name=name, options=options)


def waiting(project: Project) -> list[str]:
    with project.engine.connect() as connection:
        return list(connection.scalars(text("SELECT listener FROM pubsub_outbox ORDER BY id")))


@pytest.fixture
def project(project: Project) -> Project:
    """A project in its old release, with an entry that waits."""
    project.models(OLD)
    project.migrate()
    project.execute(INSERT)
    return project


def test_an_entry_written_before_a_migration_is_handled_after_it(project: Project) -> None:
    """It has a column that the model lost, and lacks one that the model got."""
    with project.engine.connect() as connection:
        assert connection.scalars(text("SELECT format FROM pubsub_outbox")).all() == [FORMAT]
    project.models(NEW)
    project.migrate()
    project.execute(INSERT)
    assert project.drain() == [(1, "not known"), (2, "calm")]
    assert waiting(project) == []


def test_a_new_worker_handles_what_the_old_trigger_writes(project: Project) -> None:
    project.models(NEW)
    assert project.drain() == [(1, "not known")]
    project.execute(INSERT)
    assert project.drain() == [(2, "not known")]


def test_an_old_worker_handles_what_the_new_trigger_writes(project: Project) -> None:
    project.models(NEW)
    project.migrate()
    project.execute(INSERT)
    project.models(OLD)
    assert project.drain() == [(1, 0), (2, 3)]


def test_an_old_worker_leaves_the_entries_of_a_listener_that_it_does_not_know(project: Project) -> None:
    project.models(OLD + AUDIT.format(name="audit", options=""))
    project.migrate()
    project.execute(INSERT)
    project.models(OLD)
    assert project.drain() == [(1, 0), (2, 0)]
    assert waiting(project) == ["audit"]
    project.models(audited())
    assert project.drain() == [("audit", 2)]


def test_the_entries_of_a_removed_listener_wait_for_a_worker_that_still_has_it(project: Project) -> None:
    project.models(COMMENT + STARS + "\n\n@after_delete(Comment)\ndef other(old): ...\n")
    project.migrate()
    assert project.differences() == []
    assert (project.drain(), waiting(project)) == ([], ["note"])
    project.models(OLD)
    assert project.drain() == [(1, 0)]


def test_the_downgrade_that_removes_a_listener_keeps_its_entries(project: Project) -> None:
    project.models(OLD + AUDIT.format(name="audit", options=""))
    project.migrate()
    project.execute(INSERT)
    project.downgrade()
    assert waiting(project) == ["note", "audit", "note"]
    project.execute(INSERT)
    project.upgrade()
    project.execute(INSERT)
    assert sorted(map(str, project.drain())) == [
        "('audit', 2)", "('audit', 4)", "(1, 0)", "(2, 0)", "(3, 0)", "(4, 0)",
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["migration first", "worker first"])
def test_a_renamed_listener_takes_over_in_either_order(project: Project, order: str) -> None:
    before = audited()
    project.models(before)
    project.migrate()
    project.execute(INSERT)
    after = audited("note_it", ", previous_names=['audit', 'note']")
    project.models(after)
    if order == "migration first":
        project.migrate()
        project.execute(INSERT)
        # An old worker still has what it can read; what carries the new name waits for the new one.
        project.models(before)
        assert project.drain() == [("audit", 2)]
        project.models(after)
        assert project.drain() == [("note_it", 1), ("note_it", 3)]
    else:
        assert project.drain() == [("note_it", 1), ("note_it", 2)]
        project.migrate()
        project.execute(INSERT)
        assert project.drain() == [("note_it", 3)]
    assert waiting(project) == []
    assert project.differences() == []


def test_entries_written_under_the_new_name_survive_a_downgrade(project: Project) -> None:
    project.models(audited("audit", ", previous_names=['note']"))
    project.migrate()
    project.execute(INSERT)
    project.downgrade()
    project.execute(INSERT)
    assert waiting(project) == ["note", "audit", "note"]
    assert sorted(map(str, project.drain())) == ["('audit', 1)", "('audit', 2)", "('audit', 3)"]


def test_only_dropping_the_outbox_drops_what_waits_in_it(project: Project) -> None:
    """As with any table that a downgrade drops; the documents say how to wait for an empty one."""
    project.downgrade("base")
    project.upgrade()
    assert waiting(project) == []
    project.execute(INSERT)
    assert project.drain() == [(1, 0)]
