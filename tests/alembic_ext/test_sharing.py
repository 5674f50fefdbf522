"""Schemas, filters, several metadata and several programs: everybody touches only what is theirs."""

import pytest

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, MODELS, Project, called

pytestmark = pytest.mark.one_driver

SCHEMAS = f"""{MODELS.replace("class Base(DeclarativeBase): ...", "")}

class Base(DeclarativeBase):
    metadata = MetaData()


configure(Base.metadata, schema={{outbox!r}}, prefix={{prefix!r}})


class Comment(PubSub, Base):
    __tablename__ = "comment"
    __table_args__ = {{{{"schema": {{table!r}}}}}}
    id: Mapped[int] = mapped_column(primary_key=True)
"""


def placed(outbox: str | None = None, prefix: str = "pubsub_", table: str | None = None) -> str:
    return SCHEMAS.format(outbox=outbox, prefix=prefix, table=table)


def test_table_and_outbox_may_live_in_schemas_of_their_own(project: Project) -> None:
    project.execute('CREATE SCHEMA "Shop"', "CREATE SCHEMA events")
    project.configure("include_schemas=True")
    project.models(placed(outbox="events", table="Shop") + INSERT_LISTENER)
    source = project.migrate()
    assert "schema='Shop'" in source
    assert "outbox_schema='events'" in source
    assert project.differences() == []
    project.execute('INSERT INTO "Shop".comment DEFAULT VALUES')
    assert project.entries("events.pubsub_outbox") == [("email_author", "INSERT")]
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])


@pytest.mark.parametrize("include_schemas", [False, True])
def test_the_default_schema_may_be_named(project: Project, include_schemas: bool) -> None:
    project.configure(f"include_schemas={include_schemas}")
    project.models(placed(table="public") + INSERT_LISTENER)
    project.migrate()
    assert project.differences() == []
    project.models(placed(table="public"))
    assert called(project.migrate(), "upgrade") == ["drop_pubsub_trigger comment"]


def test_a_moved_outbox_takes_its_triggers_along(project: Project) -> None:
    project.execute("CREATE SCHEMA events")
    project.configure("include_schemas=True")
    project.models(placed() + INSERT_LISTENER)
    project.migrate()
    project.models(placed(outbox="events") + INSERT_LISTENER)
    source = project.migrate()
    assert called(source, "upgrade")[0] == "drop_pubsub_trigger comment"
    assert called(source, "upgrade")[-1] == "create_pubsub_trigger comment"
    assert project.differences() == []
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries("events.pubsub_outbox") == [("email_author", "INSERT")]
    project.downgrade()
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]


def test_a_new_prefix_drops_the_triggers_of_the_old_one_with_their_outbox(project: Project) -> None:
    project.models(placed() + INSERT_LISTENER)
    project.migrate()
    project.models(placed(prefix="shop_") + INSERT_LISTENER)
    source = project.migrate()
    assert called(source, "upgrade")[0] == "drop_pubsub_trigger comment"
    assert project.triggers() == [("comment", "shop_insert", "shop_comment_insert")]
    assert project.functions() == ["shop_comment_insert"]
    assert project.differences() == []
    project.downgrade()
    assert project.triggers() == [("comment", "pubsub_insert", "pubsub_comment_insert")]


TWO_BASES = f"""{COMMENT}

class Other(DeclarativeBase):
    metadata = MetaData()


configure(Other.metadata, prefix="other_")


class Article(PubSub, Other):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)


@after_insert(Article)
def announce(new): ...


ALL_METADATA = [Base.metadata, Other.metadata]
"""


def test_several_metadata_each_have_their_outbox(project: Project) -> None:
    project.env("from shop.models import Base", "from shop.models import ALL_METADATA")
    project.env("target_metadata = Base.metadata", "target_metadata = ALL_METADATA")
    project.models(TWO_BASES + INSERT_LISTENER)
    source = project.migrate()
    assert "prefix='other_'" in source
    assert project.differences() == []
    project.execute("INSERT INTO comment DEFAULT VALUES", "INSERT INTO article DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]
    assert project.entries("other_outbox") == [("announce", "INSERT")]
    project.models(TWO_BASES.replace("@after_insert(Article)\n", ""))
    source = project.migrate()
    assert sorted(called(source, "upgrade")) == ["drop_pubsub_trigger article", "drop_pubsub_trigger comment"]


def only_its_own_tables(name: str) -> str:
    """Keep the tables of the other program from being dropped, as two programs in a database must."""
    return f"""
def mine(name, type_, parent_names):
    return type_ != "table" or name == "comment" or name.startswith({name!r})
"""


@pytest.mark.parametrize("neighbour", [placed(), COMMENT.replace("PubSub, Base", "Base")])
def test_the_triggers_of_another_program_on_a_shared_table_stay(project: Project, neighbour: str) -> None:
    project.models(placed(prefix="shop_") + INSERT_LISTENER)
    project.create_all()
    before = project.triggers()
    project.configure("include_name=mine", only_its_own_tables("pubsub_"))
    project.models(neighbour)
    source = project.revision()
    assert "pubsub_trigger" not in source
    assert project.triggers() == before


def test_a_trigger_that_writes_to_another_outbox_of_our_name_stays(project: Project) -> None:
    project.execute("CREATE SCHEMA events")
    project.models(placed(outbox="events") + INSERT_LISTENER)
    project.create_all()
    project.models(placed())
    assert "pubsub_trigger" not in project.revision()


FILTERS = {
    "include_object of the table": (
        "include_object",
        "def keep(object, name, type_, reflected, compare_to):\n    return type_ != 'table' or name != 'comment'",
    ),
    "include_object of the trigger": (
        "include_object",
        "def keep(object, name, type_, reflected, compare_to):\n    return type_ != 'trigger' or name != 'pubsub_insert'",
    ),
    "include_name of the table": (
        "include_name",
        "def keep(name, type_, parent_names):\n    return type_ != 'table' or name != 'comment'",
    ),
    "include_name of the trigger": (
        "include_name",
        "def keep(name, type_, parent_names):\n    return type_ != 'trigger' or parent_names['table_name'] != 'comment'",
    ),
}


@pytest.mark.parametrize("case", FILTERS)
def test_what_a_filter_leaves_out_is_neither_created_nor_dropped(project: Project, case: str) -> None:
    keyword, code = FILTERS[case]
    project.models(COMMENT + INSERT_LISTENER)
    project.create_all()
    project.models(COMMENT)
    assert "drop_pubsub_trigger" in project.pending()
    project.configure(f"{keyword}=keep", code)
    assert "pubsub_trigger" not in project.pending()
    project.execute("DROP TRIGGER pubsub_insert ON comment")
    project.models(COMMENT + INSERT_LISTENER)
    assert "pubsub_trigger" not in project.pending()


def test_the_usual_filter_against_drops_keeps_orphans(project: Project) -> None:
    project.configure(
        "include_object=keep",
        "def keep(object, name, type_, reflected, compare_to):\n    return not (reflected and compare_to is None)",
    )
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.models(COMMENT)
    assert "op." not in project.revision()


def test_a_rewriter_may_remove_our_operations(project: Project) -> None:
    project.configure(
        "process_revision_directives=writer",
        """
        from alembic.autogenerate.rewriter import Rewriter
        from alembic_ext.operations import TriggerOperation

        writer = Rewriter()


        @writer.rewrites(TriggerOperation)
        def none_of_them(context, revision, operation):
            return []
        """,
    )
    project.models(COMMENT + INSERT_LISTENER)
    source = project.revision()
    assert "pubsub_outbox" in source
    assert "pubsub_trigger" not in source
