"""Every change of a published table: up, down and, at full length, both again, while the application writes.

After each direction nothing differs and every operation is published to whom it should; between any
two statements of the migration the application's writes succeed.
"""

from dataclasses import dataclass, field

import pytest

from tests.alembic_ext.project import MODELS, Project
from tests.alembic_ext.steps import stepwise
from tests.lengths import length

pytestmark = pytest.mark.one_driver

ALL = [("on_insert", "INSERT"), ("on_update", "UPDATE"), ("on_delete", "DELETE")]
STARS = "stars = Column(Integer, server_default='0', nullable=False)"
POINTS = STARS.replace("stars", "points")
WIDER = STARS.replace("Integer", "Numeric")


def doc(
    *columns: str,
    publish: str = "",
    update: str = "",
    rest: str = "",
    base: str = "PubSub, Base",
    **options: str,
) -> str:
    """Declare a model and its listeners; options: ``table``, ``schema``, ``key``, ``arguments``."""
    lines = [
        f"__tablename__ = {options.get('table', 'doc')!r}",
        *([f"__pubsub__ = Publish({publish})"] if publish else []),
        *([f"__table_args__ = {options['arguments']}"] if "arguments" in options else []),
        "id = Column(Integer, primary_key=True)",
        f"note = Column(Text, server_default='', nullable=False{options.get('key', '')})",
        *columns,
    ]
    listeners = f"""
@after_insert(Doc)
def on_insert(new): ...

@after_update(Doc{update})
def on_update(old, new): ...

@after_delete(Doc)
def on_delete(old): ...
"""
    body = "\n    ".join(lines)
    return f"{MODELS}\n\nclass Doc({base}):\n    {body}\n{rest}\n" + (listeners if "PubSub" in base else "")


@dataclass(frozen=True, kw_only=True)
class Change:
    """Two states of the models, and what is written into the revision by hand.

    Attributes:
        edits: Patterns in the revision with their replacements.
        published, published_after: What one write of every kind publishes before and after.
        operations: Whether the revision contains operations of ours, None for do not care.
    """

    before: str
    after: str
    edits: dict[str, str] = field(default_factory=dict)
    published: list[tuple[str, str]] = field(default_factory=lambda: ALL)
    published_after: list[tuple[str, str]] = field(default_factory=lambda: ALL)
    operations: bool | None = None


def renamed_column(table: str = "doc") -> dict[str, str]:
    """Edits that make a rename of what autogenerate took for a new column and a dropped one."""
    rename = f"op.alter_column('{table}', '{{}}', new_column_name='{{}}')"
    return {
        rf"op\.add_column\('{table}', .*points.*": rename.format("stars", "points"),
        rf"op\.drop_column\('{table}', 'stars'\)": "",
        rf"op\.add_column\('{table}', .*stars.*": rename.format("points", "stars"),
        rf"op\.drop_column\('{table}', 'points'\)": "",
    }


UPWARDS, DOWNWARDS = r"(?=[\s\S]*def downgrade)", r"(?![\s\S]*def downgrade)"


def recreated(old: str, new: str, up: str, down: str) -> dict[str, str]:
    """Edits that put *up* and *down* where autogenerate drops one table and creates another."""
    edits = {}
    for created, dropped, place, instead in ((new, old, UPWARDS, up), (old, new, DOWNWARDS, down)):
        edits[rf"op\.create_table\('{created}',[\s\S]*?\n    \){place}"] = instead
        edits[rf"op\.drop_table\('{dropped}'.*\){place}"] = ""
    return edits


def by_hand(up: str, down: str, before: str = "create_pubsub_trigger") -> dict[str, str]:
    """Edits that put a line before the first such operation of ours, in both directions."""
    first = rf"(?=op\.{before}\({{}})"
    return {first.format(UPWARDS): f"{up}\n    ", first.format(DOWNWARDS): f"{down}\n    "}


USES = {
    "unused": {},
    "of": {"update": ", of=['{}']"},
    "when": {"update": ", when='new.{} >= 0'"},
    "columns": {"publish": "columns=['note', '{}']"},
    "exclude": {"publish": "exclude=['{}']"},
    "ordered": {"update": ", ordered=True"},
}


def using(use: str, column: str, *columns: str) -> str:
    """Declare the model with *columns*, one of which is used in some way."""
    return doc(*columns, **{name: value.format(column) for name, value in USES[use].items()})


REMARK = doc(table="remark")
PARTITIONED = doc(arguments="{'postgresql_partition_by': 'RANGE (id)'}")
SHOP = doc(arguments="{'schema': 'shop'}")
STATE = "state = Column(Enum({}, name='state'), server_default='open', nullable=False)"
AT = (
    "id = Column(Integer, Identity(), primary_key=True)\n"
    "    at = Column({}, primary_key=True, server_default=text('now()'))"
)
OTHER = """
class Other(PubSub, Base):
    __tablename__ = "other"
    id = Column(Integer, primary_key=True)

@after_insert(Other)
def on_other(new): ...
"""
SINGLE = """
class Memo(Doc):
    __mapper_args__ = {"polymorphic_identity": "memo"}

@after_insert(Memo)
def on_memo(new): ...
"""
# Declared before the listener, whose condition names all classes that it is meant for.
SUBSUBCLASS = """
class Slip(Memo):
    __mapper_args__ = {"polymorphic_identity": "slip"}
"""
JOINED = """
class Memo(Doc):
    __tablename__ = "memo"
    __mapper_args__ = {"polymorphic_identity": "memo"}
    id = Column(Integer, ForeignKey("doc.id"), primary_key=True)
    line = Column(Text)

@after_insert(Memo)
def on_memo(new): ...
"""
KIND = (
    "kind = Column(Text, server_default='doc', nullable=False)",
    "__mapper_args__ = {'polymorphic_on': kind, 'polymorphic_identity': 'doc'}",
)
# One statement, as it would be one transaction: between its parts there is no table to write to.
PARTITION_UP = (
    "op.execute('ALTER TABLE doc RENAME TO doc_old;"
    " CREATE TABLE doc (LIKE doc_old INCLUDING ALL) PARTITION BY RANGE (id);"
    " ALTER TABLE doc ATTACH PARTITION doc_old DEFAULT')"
)
PARTITION_DOWN = "op.execute('ALTER TABLE doc DETACH PARTITION doc_old; DROP TABLE doc; ALTER TABLE doc_old RENAME TO doc')"
KEY = "op.execute('ALTER TABLE doc DROP CONSTRAINT doc_pkey, ADD PRIMARY KEY ({})')"

CHANGES = {
    "the table is renamed, as autogenerate has it": Change(before=doc(), after=REMARK),
    "the table is renamed, by hand": Change(
        before=doc(), after=REMARK,
        edits=recreated("doc", "remark", "op.rename_table('doc', 'remark')", "op.rename_table('remark', 'doc')"),
    ),
    "the table moves to another schema, as autogenerate has it": Change(before=doc(), after=SHOP),
    "the table moves to another schema, by hand": Change(
        before=doc(), after=SHOP,
        edits=recreated(
            "doc", "doc", "op.execute('ALTER TABLE doc SET SCHEMA shop')",
            "op.execute('ALTER TABLE shop.doc SET SCHEMA public')",
        ),
    ),
    "another primary key": Change(
        before=doc(update=", ordered=True"), after=doc(update=", ordered=True", key=", primary_key=True"),
        edits=by_hand(KEY.format("id, note"), KEY.format("id"), before="replace_pubsub_function"),
    ),
    "a table is added, and dropped by the downgrade": Change(before=doc(), after=doc(rest=OTHER)),
    "a table is dropped": Change(before=doc(rest=OTHER), after=doc()),
    "the mixin is added": Change(before=doc(base="Base"), published=[], after=doc()),
    "the mixin is removed": Change(before=doc(), after=doc(base="Base"), published_after=[]),
    "a listener is added": Change(
        before=doc(), after=doc() + "\n@after_insert(Doc)\ndef z(new): ...\n",
        published_after=[ALL[0], ("z", "INSERT"), *ALL[1:]],
    ),
    "a listener is removed": Change(
        before=doc(), after=doc().replace("@after_delete(Doc)", ""), published_after=ALL[:2]
    ),
    "all listeners are removed": Change(
        before=doc(), after=doc().partition("@after_insert")[0], published_after=[]
    ),
    "a listener is renamed": Change(
        before=doc(),
        after=doc(update=", previous_names=['on_update']").replace("def on_update", "def updated"),
        published_after=[ALL[0], ("updated", "UPDATE"), ALL[2]],
    ),
    "a listener gets a condition": Change(before=doc(), after=doc(update=", when='new.id > 0'")),
    "a listener gets columns": Change(before=doc(), after=doc(update=", of=['note']")),
    "a listener becomes ordered": Change(before=doc(), after=doc(update=", ordered=True")),
    "another payload": Change(before=doc(), after=doc(publish="columns=['id']")),
    "captured per row": Change(before=doc(), after=doc(publish="capture='row'")),
    "a plain table becomes partitioned": Change(
        before=doc(), after=PARTITIONED, edits=by_hand(PARTITION_UP, PARTITION_DOWN)
    ),
    "a value is added to an enum": Change(
        before=doc(STATE.format("'open'"), update=", when=lambda new: new.state == 'open'"),
        after=doc(STATE.format("'open', 'done'"), update=", when=lambda new: new.state.in_(['open', 'done'])"),
        edits={
            rf"(?=op\.replace_pubsub_function\({UPWARDS})": (
                "op.execute(\"ALTER TYPE state ADD VALUE IF NOT EXISTS 'done'\")\n    "
            )
        },
    ),
    "a time in the key gets a time zone": Change(
        before=doc(AT.format("DateTime"), update=", ordered=True"),
        after=doc(AT.format("DateTime(timezone=True)"), update=", ordered=True"),
        operations=True,
    ),
    "a subclass of one table": Change(before=doc(*KIND), after=doc(*KIND, rest=SINGLE)),
    "a subclass of a subclass that is listened to": Change(
        before=doc(*KIND, rest=SINGLE), after=doc(*KIND, rest=SINGLE + SUBSUBCLASS), operations=True
    ),
    "a subclass with a table": Change(before=doc(*KIND), after=doc(*KIND, rest=JOINED)),
}  # fmt: skip


def of_a_column(kind: str, use: str) -> Change:
    """Return what becomes of a column that a listener uses in some way."""
    match kind:
        case "added":
            return Change(before=doc(), after=using(use, "stars", STARS))
        case "dropped":
            return Change(before=using(use, "stars", STARS), after=doc())
        case "renamed":
            return Change(
                before=using(use, "stars", STARS), after=using(use, "points", POINTS), edits=renamed_column()
            )
        case _:
            return Change(
                before=using(use, "stars", STARS),
                after=using(use, "stars", WIDER),
                operations=use in ("when", "exclude"),
            )


OTHERS_TABLES = "def mine(name, type_, parents):\n    return type_ != 'table' or name not in ('doc_old', 'doc_1', 'doc_2')\n"


@pytest.fixture
def project(project: Project) -> Project:
    """A project with two schemas, and tables that are partitions and thus no business of Alembic."""
    project.execute("CREATE SCHEMA shop")
    project.configure("include_schemas=True, include_name=mine", OTHERS_TABLES)
    return project


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_goes_up_down_and_up_while_the_application_writes(project: Project, case: str) -> None:
    go_up_down_and_up(project, CHANGES[case])


@pytest.mark.in_turn("kind")
@pytest.mark.parametrize("kind", ["added", "dropped", "renamed", "retyped"])
@pytest.mark.parametrize("use", USES)
def test_a_column_that_a_listener_uses_is_changed_while_the_application_writes(
    project: Project, use: str, kind: str
) -> None:
    go_up_down_and_up(project, of_a_column(kind, use))


def go_up_down_and_up(project: Project, change: Change) -> None:
    with stepwise(project, "doc", "remark", "shop.doc") as steps:
        project.models(change.before)
        project.migrate()
        if "partition_by" in change.before:
            project.execute("CREATE TABLE doc_1 PARTITION OF doc DEFAULT")
        assert (project.differences(), steps.published()) == ([], change.published)
        project.models(change.after)
        source = project.revision()
        project.edit_last_revision(change.edits)
        assert change.operations in (None, "pubsub" in source)
        for _ in range(length(short=1, full=2)):
            steps.up()
            assert project.differences() == []
            assert steps.published() == change.published_after
            steps.down()
            assert steps.published() == change.published
        project.models(change.before)
        project.remove_last_revision()
        assert project.differences() == []
