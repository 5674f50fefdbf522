"""Beside other extensions that compare functions and triggers, neither drops what is the other's."""

import re
import sys
from collections.abc import Iterator

import pytest
from alembic.autogenerate import comparators
from alembic.runtime.plugins import _all_plugins

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, Project, called

pytestmark = pytest.mark.one_driver

UTILS = """
from alembic_utils.pg_function import PGFunction
from alembic_utils.pg_trigger import PGTrigger
from alembic_utils.replaceable_entity import register_entities
from alembic_utils.replaceable_entity import registry
from shop import models

registry._entities.clear()
register_entities([
    PGFunction("public", name + "()", "RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$")
    for name in models.OWN
] + [
    PGTrigger("public", "stamp", f"BEFORE INSERT ON public.comment FOR EACH ROW EXECUTE FUNCTION {name}()",
              on_entity="public.comment")
    for name in models.STAMPING
])
"""

DECLARATIVE = """
from sqlalchemy_declarative_extensions import declare_database, register_alembic_events
from sqlalchemy_declarative_extensions.dialects.postgresql import Function, Trigger
from shop import models

register_alembic_events()
declare_database(
    Base.metadata,
    functions=[
        Function(name, "BEGIN RETURN NEW; END", returns="trigger", language="plpgsql")
        for name in models.OWN
    ],
    triggers=[
        Trigger.before("insert", on="comment", execute=name, name="stamp").for_each_row()
        for name in models.STAMPING
    ],
)
"""

NOT_OURS = {
    "alembic_utils": ["public_other_pubsub_insert", "public_pubsub_helper", "public_pubsub_publish"],
    "declarative": ['"pubsub_insert" ON "other"', "pubsub_helper()", "pubsub_publish(int4, int4)"],
}
LIBRARIES = {"alembic_utils": UTILS, "declarative": DECLARATIVE}
MARK = "target_metadata = Base.metadata"
OWN = "\n\nOWN = {}\nSTAMPING = {}\n"
MORE = """

@after_update(Comment, of=["content"])
def reindex(old, new): ...


class Viewed(Message, metadata=Base.metadata, name="viewed"):
    article: int


@on_message(Viewed)
def count(new): ...
"""
# The first function comes with the tables, its trigger later: alembic_utils tries both out while it compares.
STEPS = [
    COMMENT + INSERT_LISTENER + OWN.format(["stamped"], []),
    COMMENT + INSERT_LISTENER + MORE + OWN.format(["stamped", "helper"], ["stamped"]),
    COMMENT + MORE + OWN.format(["helper", "stamped"], ["helper"]),
    COMMENT + INSERT_LISTENER + OWN.format(["helper"], []),
]


def state(project: Project) -> tuple[list[tuple[str, ...]], list[str]]:
    return project.triggers(), project.functions()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Leave nothing in the registries of this process: other tests have Alembic compare too."""
    yield
    packages = ("alembic_utils", "sqlalchemy_declarative_extensions")
    for pairs in comparators._registry.values():
        pairs[:] = [pair for pair in pairs if not pair[0].__module__.startswith(packages)]
    for name in [name for name in sys.modules if name.startswith(packages)]:
        del sys.modules[name]
    _all_plugins.pop("home.made", None)


@pytest.mark.parametrize("library", LIBRARIES)
def test_four_revisions_up_and_down_beside_the_library_are_clean(project: Project, library: str) -> None:
    project.env(MARK, MARK + "\n" + LIBRARIES[library])
    states = []
    for source in STEPS:
        project.models(source)
        project.migrate()
        assert project.differences() == []
        states.append(state(project))
    assert ("comment", "pubsub_insert", "pubsub_comment_insert") in states[0][0]
    assert states[1][1] == ["pubsub_comment_insert", "pubsub_comment_update", "pubsub_publish"]
    assert states[2][1] == ["pubsub_comment_update", "pubsub_publish"]
    assert states[3] == ([("comment", "pubsub_insert", "pubsub_comment_insert")], ["pubsub_comment_insert"])
    for before in [*reversed(states[:-1]), ([], [])]:
        project.downgrade()
        assert state(project) == before
    project.upgrade()
    assert state(project) == states[-1]
    assert project.differences() == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_not_ours_is_dropped_as_the_library_wants_whatever_its_name(
    project: Project, library: str
) -> None:
    project.models(COMMENT + INSERT_LISTENER + OWN.format(["helper"], []))
    project.env(MARK, MARK + "\n" + LIBRARIES[library])
    project.migrate()
    body = "RETURNS int LANGUAGE sql AS 'SELECT 1'"
    trigger = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    project.execute(
        f"CREATE FUNCTION pubsub_comment_insert(a int) {body}",
        f"CREATE FUNCTION pubsub_helper() {trigger}",
        f"CREATE FUNCTION pubsub_publish(a int, b int) {body}",
        "CREATE TABLE other (id int)",
        "CREATE TRIGGER pubsub_insert AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION pubsub_helper()",
    )
    project.env(
        MARK, f"{MARK}\ndef keep(object, name, type_, reflected, compare_to):\n    return name != 'other'\n"
    )
    online = "connection=connection, target_metadata=target_metadata"
    project.env(online, f"{online}, include_object=keep")
    source = project.revision()
    upgrade, _ = source.split("def downgrade()")
    dropped = re.findall(r"drop_entity\((\w+)\)|DROP \w+ ([^;]+);", upgrade)
    # Of two functions with one name sqlalchemy-declarative-extensions sees one only.
    assert [a or b for a, b in sorted(dropped) if "comment_insert" not in a + b] == NOT_OURS[library]
    assert not re.search(r"comment_insert\(\)|on_entity=.public.comment|ON \"comment", upgrade)


@pytest.mark.parametrize("library", LIBRARIES)
def test_captures_in_schemas_with_quoted_names_on_partitions_and_damaged_ones_stay(
    project: Project, library: str
) -> None:
    visit = """

class Visit(PubSub, Base):
    __tablename__ = "Visit"
    __table_args__ = {"postgresql_partition_by": "LIST (id)", "schema": "Shop"}
    id: Mapped[int] = mapped_column(primary_key=True)


@after_insert(Visit)
def visited(new): ...
"""
    project.execute('CREATE SCHEMA "Shop"')
    project.env(
        MARK,
        MARK
        + "\n"
        + LIBRARIES[library]
        + """

def keep(object, name, type_, reflected, compare_to):
    return type_ != "table" or name != "part"
""",
    )
    online = "connection=connection, target_metadata=target_metadata"
    project.env(online, f"{online}, include_object=keep, include_schemas=True")
    project.models(COMMENT + INSERT_LISTENER + visit + OWN.format(["helper"], []))
    project.migrate()
    project.execute("""CREATE TABLE "Shop".part PARTITION OF "Shop"."Visit" FOR VALUES IN (1)""")
    assert project.differences() == []
    project.execute(
        "CREATE OR REPLACE FUNCTION pubsub_comment_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    source = project.migrate()
    assert called(source, "upgrade") == ["create_pubsub_trigger comment"]
    assert "drop" not in source.lower().split("def upgrade")[1]
    assert project.differences() == []
    project.downgrade()
    project.upgrade()


HOME_MADE = """
from alembic.operations import ops
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult

STATEMENTS = [
    "DROP TRIGGER pubsub_insert ON comment",
    'DROP TRIGGER IF EXISTS "pubsub_insert" ON public."comment" CASCADE;',
    "drop function pubsub_comment_insert",
    "DROP FUNCTION IF EXISTS public.pubsub_comment_insert() CASCADE",
    "DROP FUNCTION pubsub_comment_insert(int)",
    "DROP TRIGGER pubsub_insert ON other",
    "DROP FUNCTION somebodys()",
    "SELECT 'DROP TRIGGER pubsub_insert ON comment'",
]


class Statement(ops.ExecuteSQLOp):
    def reverse(self):
        return self


def drop_all(context, upgrade_ops, schemas):
    upgrade_ops.ops.extend(Statement(statement) for statement in STATEMENTS)
    return PriorityDispatchResult.CONTINUE


Plugin("home.made").add_autogenerate_comparator(
    drop_all, "schema", "home", qualifier=%r, priority=DispatchPriority.%s
)
"""


@pytest.mark.parametrize("qualifier", ["default", "postgresql"])
@pytest.mark.parametrize("priority", ["FIRST", "MEDIUM", "LAST"])
def test_the_order_of_comparators_does_not_matter(project: Project, qualifier: str, priority: str) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.env(MARK, MARK + "\n" + HOME_MADE % (qualifier, priority))
    online = "connection=connection, target_metadata=target_metadata"
    project.env(online, online + ', autogenerate_plugins=["alembic.autogenerate.*", "home.*"]')
    source = project.revision()
    assert re.findall(r"op\.execute\((.*)\)", source.split("def downgrade")[0]) == [
        "'DROP FUNCTION pubsub_comment_insert(int)'",
        "'DROP TRIGGER pubsub_insert ON other'",
        "'DROP FUNCTION somebodys()'",
        "\"SELECT 'DROP TRIGGER pubsub_insert ON comment'\"",
    ]
