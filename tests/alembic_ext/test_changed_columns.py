"""A condition on a column that changes: the application's writes succeed before, after and in between.

The tests write between any two operations of a revision, as an application does while a migration
commits step by step.
"""

import pytest

from tests.alembic_ext.project import COMMENT, MODELS, Project, called

pytestmark = pytest.mark.one_driver

WRITES = ("INSERT INTO comment DEFAULT VALUES", "UPDATE comment SET content = content || 'x'")

PROBE = f"""
from alembic.operations import ops


def with_writes(operations):
    for operation in operations:
        yield operation
        if hasattr(operation, "ops"):
            operation.ops[:] = with_writes(operation.ops)
        else:
            yield from map(ops.ExecuteSQLOp, {WRITES})


def write_after_each_operation(context, revision, directives):
    for container in (directives[0].upgrade_ops, directives[0].downgrade_ops):
        container.ops[:] = with_writes(container.ops)
"""

RETYPED = f"""{MODELS}

class Comment(PubSub, Base):
    __tablename__ = "comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[str] = mapped_column(server_default="")
    day = Column({{type}}, server_default=text("'2020-01-01'"), nullable=False)
"""


def watching(when: str, name: str = "watch") -> str:
    return f"\n\n@after_update(Comment, when={when!r})\ndef {name}(old, new): ...\n"


def change(project: Project, before: str, after: str) -> str:
    """Take a database from one state of the models to another, and there and back again."""
    project.models(before)
    project.migrate()
    project.configure("process_revision_directives=write_after_each_operation", PROBE)
    project.models(after)
    source = project.revision()
    for _ in range(2):
        project.execute(*WRITES)
        project.upgrade()
        assert project.differences() == []
        project.execute(*WRITES)
        project.downgrade()
    project.execute(*WRITES)
    project.entries()
    return source


def test_a_dropped_column_leaves_the_condition_first(project: Project) -> None:
    after = COMMENT.replace("    stars: Mapped[int]", "    # stars: Mapped[int]")
    source = change(project, COMMENT + watching("new.stars > 3"), after + watching("new.id > 3"))
    upgrade = [call for call in called(source, "upgrade") if "execute" not in call]
    assert upgrade[0] == upgrade[-1] == "replace_pubsub_function comment"
    assert "drop_column comment" in upgrade
    downgrade = [call for call in called(source, "downgrade") if "execute" not in call]
    assert downgrade == [upgrade[-1], "add_column comment", upgrade[0]]


def test_a_retyped_column_is_not_compared_while_its_type_changes(project: Project) -> None:
    before = RETYPED.format(type="Date") + watching("new.day - DATE '2020-01-01' > 3")
    after = RETYPED.format(type="DateTime") + watching("new.day > TIMESTAMP '2020-01-04'")
    source = change(project, before, after)
    upgrade, downgrade = source.split("def downgrade()")
    assert upgrade.index("listeners=['watch']") < upgrade.index("alter_column") < upgrade.index("TIMESTAMP '")
    assert (
        downgrade.index("listeners=['watch']") < downgrade.index("alter_column") < downgrade.index("DATE '")
    )


def test_a_retyped_column_in_an_unchanged_condition_is_left_out_in_between_too(project: Project) -> None:
    when = watching("new.day >= '2020-01-04'")
    source = change(project, RETYPED.format(type="Date") + when, RETYPED.format(type="DateTime") + when)
    assert source.count("op.replace_pubsub_function(") == 4


def test_a_condition_that_goes_away_with_its_column_is_written_once(project: Project) -> None:
    after = COMMENT.replace("    stars: Mapped[int]", "    # stars: Mapped[int]")
    plain = "\n\n@after_update(Comment)\ndef watch(old, new): ...\n"
    source = change(project, COMMENT + watching("new.stars > 3"), after + plain)
    assert source.split("def downgrade()")[0].count("op.replace_pubsub_function(") == 1


def test_other_listeners_keep_their_conditions_meanwhile(project: Project) -> None:
    both = watching("new.stars > 3") + watching("new.id > 3", name="other")
    after = COMMENT.replace("    stars: Mapped[int]", "    # stars: Mapped[int]")
    source = change(project, COMMENT + both, after + watching("new.id > 3", name="other"))
    first = source[source.index("op.replace_pubsub_function(") :].partition("    )\n")[0]
    assert "{'name': 'other', 'when': 'new.id > 3'}" in first
    assert "'watch'," in first


def test_a_renamed_column_needs_only_the_rename_put_in_by_hand(project: Project) -> None:
    """Autogenerate cannot tell a rename from a drop and an add; the operations around it serve both."""
    project.models(COMMENT + watching("new.stars > 3"))
    project.migrate()
    project.models(COMMENT.replace("stars:", "points:") + watching("new.points > 3"))
    project.revision()
    project.edit_last_revision(
        {
            rf"op\.{act}_column\('comment', .*{name}.*": call
            for act, name, call in (
                ("add", "points", "op.alter_column('comment', 'stars', new_column_name='points')"),
                ("drop", "stars", f"[op.execute(sql) for sql in {WRITES}]"),
                ("add", "stars", "op.alter_column('comment', 'points', new_column_name='stars')"),
                ("drop", "points", f"[op.execute(sql) for sql in {WRITES}]"),
            )
        }
    )
    for _ in range(2):
        project.upgrade()
        assert project.differences() == []
        project.execute(*WRITES)
        project.downgrade()
        project.execute(*WRITES)


def test_a_column_only_compared_or_sent_needs_no_operation_of_ours(project: Project) -> None:
    plain = "\n\n@after_update(Comment, of=['{0}'])\ndef watch(old, new): ...\n"
    source = change(
        project,
        RETYPED.format(type="Date") + plain.format("day"),
        RETYPED.format(type="DateTime") + plain.format("day"),
    )
    assert "pubsub" not in source


def test_a_change_of_nullability_needs_no_operation_of_ours(project: Project) -> None:
    when = watching("new.stars > 3")
    after = COMMENT.replace("stars: Mapped[int]", "stars: Mapped[int | None]")
    source = change(project, COMMENT + when, after + when)
    assert "alter_column" in source
    assert "pubsub" not in source


def test_a_damaged_trigger_is_mended_around_a_changed_column(project: Project) -> None:
    project.models(RETYPED.format(type="Date") + watching("new.day - DATE '2020-01-01' > 3"))
    project.migrate()
    project.execute("ALTER TABLE comment DISABLE TRIGGER pubsub_update")
    project.models(RETYPED.format(type="DateTime") + watching("new.day > TIMESTAMP '2020-01-04'"))
    project.migrate()
    assert project.differences() == []
    project.downgrade()
    project.execute(*WRITES)
    project.upgrade()
    assert project.differences() == []
