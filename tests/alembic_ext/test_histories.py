"""Histories and settings that a project of several people, or several projects, have: each converges."""

import shutil
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import __version__, create_engine, inspect

from sqla_pubsub import ConfigurationError
from sqla_pubsub.deliver.io.engines import numbers
from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project, called
from tests.alembic_ext.test_sharing import placed

pytestmark = pytest.mark.one_driver

FIRST = COMMENT + INSERT_LISTENER
ON_INSERT = "\n\n@after_insert(Comment)\ndef {}(event): ...\n"
ON_DELETE = "\n\n@after_delete(Comment)\ndef {}(event): ...\n"
WRITES = ("INSERT INTO comment DEFAULT VALUES", "DELETE FROM comment")


def branched(project: Project, ours: str, theirs: str) -> None:
    """Two developers add a revision each to the same one, and a third one merges them."""
    versions = project.folder / "migrations" / "versions"
    project.models(FIRST)
    project.migrate()
    before = set(versions.iterdir())
    project.models(FIRST + ours)
    project.revision()
    (added,) = set(versions.iterdir()) - before
    aside = Path(shutil.move(added, project.folder / "aside.py"))
    project.models(FIRST + theirs)
    project.revision()
    shutil.move(aside, added)
    project.alembic(lambda config: command.merge(config, "heads", message="merge"))
    project.models(FIRST + ours + theirs)
    project.upgrade()


def test_branches_that_touch_different_operations_merge_by_themselves(project: Project) -> None:
    branched(project, ON_INSERT.format("audit"), ON_DELETE.format("forget"))
    assert project.differences() == []
    project.execute(*WRITES)
    assert sorted(project.entries()) == [
        ("audit", "INSERT"),
        ("email_author", "INSERT"),
        ("forget", "DELETE"),
    ]
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])


def test_branches_that_touch_the_same_operation_are_found_by_check_and_mended_by_one_more_revision(
    project: Project,
) -> None:
    """Each revision installs the whole function, so one of the two listeners is lost until then."""
    branched(project, ON_INSERT.format("audit"), ON_INSERT.format("zero"))
    assert "has no capture" in str(project.differences()[-1])
    assert called(project.migrate(), "upgrade") == ["replace_pubsub_function comment"]
    assert project.differences() == []
    project.execute(WRITES[0])
    assert sorted(project.entries()) == [(name, "INSERT") for name in ("audit", "email_author", "zero")]
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])


def test_a_second_base_may_depend_on_the_first(project: Project) -> None:
    project.models(FIRST)
    project.migrate()
    (first,) = project.revisions()
    project.models(FIRST + ON_DELETE.format("forget"))
    project.alembic(
        lambda config: command.revision(
            config, "other", autogenerate=True, head="base", branch_label="other", depends_on=first
        )
    )
    project.upgrade("heads")
    assert project.differences() == []
    project.execute(*WRITES)
    assert project.entries() == [("email_author", "INSERT"), ("forget", "DELETE")]
    project.downgrade("other@base")
    assert project.functions() == ["pubsub_comment_insert"]


def test_the_version_table_may_live_in_another_schema(project: Project) -> None:
    project.execute("CREATE SCHEMA versions")
    project.configure("version_table_schema='versions', include_schemas=True")
    project.models(FIRST)
    project.migrate()
    assert project.differences() == []
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])


def test_batch_mode_has_our_operations_beside_its_blocks(project: Project) -> None:
    project.configure("render_as_batch=True")
    watching = "\n\n@after_update(Comment, when='new.stars > 3')\ndef watch(old, new): ...\n"
    project.models(COMMENT + watching)
    project.migrate()
    project.models(COMMENT.replace("    stars:", "    # stars:") + watching.replace("stars", "id"))
    source = project.revision()
    assert "with op.batch_alter_table('comment'" in source
    assert called(source, "upgrade") == ["replace_pubsub_function comment"] * 2
    project.upgrade()
    assert project.differences() == []
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])


# Alembic 1.18 calls it, SQLAlchemy 2.1 warns of it.
@pytest.mark.filterwarnings("ignore:The ``isolate_from_table``")
def test_a_batch_that_copies_the_table_loses_its_triggers_and_check_finds_it(project: Project) -> None:
    """PostgreSQL needs no copies; Alembic makes one only where a migration asks for it."""
    project.models(FIRST)
    project.migrate()
    project.revision()
    batch = "with op.batch_alter_table('comment', recreate='always') as batch: batch.alter_column('stars', nullable=True)"
    project.edit_last_revision({r"(?<=def upgrade\(\) -> None:\n)(?=[\s\S]*def downgrade)": f"    {batch}\n"})
    project.models(FIRST.replace("stars: Mapped[int]", "stars: Mapped[int | None]"))
    project.upgrade()
    assert "is not installed" in str(project.differences()[-1])
    project.migrate()
    assert project.differences() == []


@pytest.mark.skipif(
    numbers(__version__) < (2, 1), reason="SQLAlchemy 2.0 writes defaults that SQLite does not take"
)
def test_a_migration_that_is_shared_with_sqlite_makes_the_tables_there_and_nothing_else(
    project: Project, tmp_path: Path
) -> None:
    project.models(
        FIRST + '\n\nclass Viewed(Message, metadata=Base.metadata, name="viewed"):\n    article: int\n'
    )
    project.revision()
    here = project.engine
    there = create_engine(f"sqlite:///{tmp_path / 'quick.db'}")
    try:
        project.move(there)
        project.upgrade()
        assert {"comment", "pubsub_outbox"} <= set(inspect(there).get_table_names())
        assert "pubsub" not in project.revision()
        project.remove_last_revision()
        project.downgrade("base")
        assert inspect(there).get_table_names() == ["alembic_version"]
    finally:
        there.dispose()
        project.move(here)


LOCK_TIMEOUT = """
from alembic.autogenerate.rewriter import Rewriter
from alembic.operations import ops
from alembic_ext.operations import TriggerOperation

writer = Rewriter()


@writer.rewrites(TriggerOperation)
def wait_two_seconds(context, revision, operation):
    return [ops.ExecuteSQLOp("SET LOCAL lock_timeout = '2s'"), operation]
"""


def test_a_rewriter_may_add_to_our_operations(project: Project) -> None:
    project.configure("process_revision_directives=writer", LOCK_TIMEOUT)
    project.models(FIRST)
    source = project.migrate()
    assert source.count("SET LOCAL lock_timeout") == 2
    assert project.differences() == []


def test_two_programs_with_one_prefix_on_one_table_take_each_other_s_listeners_and_check_says_so(
    project: Project,
) -> None:
    """A listener of another program looks like one that was removed: nothing in the database tells them apart."""
    project.models(FIRST)
    project.create_all()
    project.models(COMMENT + ON_INSERT.format("audit"))
    (difference,) = [found for found in project.differences() if isinstance(found, str)]
    assert "listener 'email_author' is captured but not declared" in difference
    with pytest.raises(ConfigurationError, match="create_all would remove the capture of 'email_author'"):
        project.create_all()


def test_two_programs_with_two_prefixes_on_one_table_both_publish(project: Project) -> None:
    project.models(placed(prefix="shop_") + INSERT_LISTENER)
    project.create_all()
    code = "def mine(name, type_, parents):\n    return type_ != 'table' or not name.startswith('shop_')\n"
    project.configure("include_name=mine", code)
    project.models(placed() + ON_INSERT.format("audit"))
    project.migrate()
    assert project.differences() == []
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert (project.entries(), project.entries("shop_outbox")) == (
        [("audit", "INSERT")],
        [("email_author", "INSERT")],
    )
