"""The life of a project's migrations: from the first revision to the removal of everything."""

import pytest
from sqlalchemy import text

from tests.alembic_ext.project import COMMENT, INSERT_LISTENER, MODELS, Project, called

UPDATE_LISTENER = """

@after_update(Comment, of=[Comment.content], when=lambda old, new: new.stars > {stars})
def reindex(old, new): ...
"""
PLAIN_COMMENT = COMMENT.replace("PubSub, Base", "Base")


@pytest.mark.every_server
def test_a_project_upgrades_checks_clean_downgrades_and_upgrades_again(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER + UPDATE_LISTENER.format(stars=3))
    project.migrate()
    assert project.differences() == []
    project.execute("INSERT INTO comment (stars) VALUES (5)", "UPDATE comment SET content = 'new'")
    assert project.entries() == [("email_author", "INSERT"), ("reindex", "UPDATE")]
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])
    project.upgrade()
    assert project.differences() == []
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]


@pytest.mark.one_driver
def test_the_first_revision_creates_triggers_after_all_tables_and_drops_them_before(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    source = project.migrate()
    upgrade, downgrade = called(source, "upgrade"), called(source, "downgrade")
    assert "create_table pubsub_outbox" in upgrade
    assert upgrade[-1] == "create_pubsub_trigger comment"
    assert downgrade[0] == "drop_pubsub_trigger comment"
    assert downgrade[-1].startswith("drop_table")


@pytest.mark.one_driver
def test_a_second_revision_of_the_same_models_is_empty(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    assert "op." not in project.migrate()


@pytest.mark.one_driver
def test_a_changed_condition_replaces_the_function_and_the_downgrade_has_the_old_one(
    project: Project,
) -> None:
    project.models(COMMENT + UPDATE_LISTENER.format(stars=3))
    project.migrate()
    project.models(COMMENT + UPDATE_LISTENER.format(stars=7))
    source = project.migrate()
    assert called(source, "upgrade") == called(source, "downgrade") == ["replace_pubsub_function comment"]
    upgrade, downgrade = source.split("def downgrade()")
    assert "'new.stars OPERATOR(pg_catalog.>) 7'" in upgrade
    assert "'new.stars OPERATOR(pg_catalog.>) 7'" not in downgrade
    assert "'new.stars OPERATOR(pg_catalog.>) 3'" in downgrade
    assert project.differences() == []
    project.execute("INSERT INTO comment (stars) VALUES (5)", "UPDATE comment SET content = 'a'")
    assert project.entries() == []
    project.downgrade()
    project.execute("UPDATE comment SET content = 'b'")
    assert project.entries() == [("reindex", "UPDATE")]


@pytest.mark.one_driver
def test_replacing_a_function_does_not_wait_for_a_locked_table(project: Project) -> None:
    project.models(COMMENT + UPDATE_LISTENER.format(stars=3))
    project.migrate()
    project.models(COMMENT + UPDATE_LISTENER.format(stars=7))
    project.revision()
    with project.engine.begin() as connection:
        connection.execute(text("LOCK TABLE comment IN ACCESS EXCLUSIVE MODE"))
        project.execute(f"ALTER DATABASE {project.engine.url.database} SET lock_timeout = '1s'")
        project.upgrade()
    assert project.differences() == []


@pytest.mark.one_driver
def test_a_listener_added_to_an_operation_joins_its_function(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.models(COMMENT + INSERT_LISTENER + "\n\n@after_insert(Comment)\ndef audit(event): ...\n")
    source = project.migrate()
    assert called(source, "upgrade") == ["replace_pubsub_function comment"]
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert sorted(project.entries()) == [("audit", "INSERT"), ("email_author", "INSERT")]
    project.downgrade()
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]


@pytest.mark.one_driver
@pytest.mark.parametrize("operation", ["update", "delete", "truncate"])
def test_a_listener_on_another_operation_gets_its_own_trigger(project: Project, operation: str) -> None:
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.models(COMMENT + INSERT_LISTENER + f"\n\n@after_{operation}(Comment)\ndef audit(event): ...\n")
    source = project.migrate()
    assert called(source, "upgrade") == ["create_pubsub_trigger comment"]
    assert called(source, "downgrade") == ["drop_pubsub_trigger comment"]
    assert project.differences() == []
    statement = {
        "update": "UPDATE comment SET stars = 1",
        "delete": "DELETE FROM comment",
        "truncate": "TRUNCATE comment",
    }[operation]
    project.execute("INSERT INTO comment DEFAULT VALUES", statement)
    assert project.entries() == [("email_author", "INSERT"), ("audit", operation.upper())]


@pytest.mark.one_driver
def test_the_last_listener_takes_the_trigger_with_it_and_the_downgrade_brings_both_back(
    project: Project,
) -> None:
    project.models(COMMENT + UPDATE_LISTENER.format(stars=3))
    project.migrate()
    before = (project.triggers(), project.functions())
    project.models(COMMENT)
    source = project.migrate()
    assert called(source, "upgrade") == ["drop_pubsub_trigger comment"]
    assert project.differences() == []
    assert (project.triggers(), project.functions()) == ([], [])
    project.downgrade()
    assert (project.triggers(), project.functions()) == before
    project.models(COMMENT + UPDATE_LISTENER.format(stars=3))
    project.upgrade()
    project.downgrade()
    project.execute("INSERT INTO comment (stars) VALUES (5)", "UPDATE comment SET content = 'new'")
    assert project.entries() == [("reindex", "UPDATE")]


@pytest.mark.every_server
@pytest.mark.one_driver
def test_the_outbox_of_a_migration_has_the_storage_that_a_queue_needs(project: Project) -> None:
    """SQLAlchemy 2.0 and 2.1 differ in how they write it."""
    project.models(COMMENT)
    project.migrate()
    with project.engine.connect() as connection:
        options = connection.execute(
            text("SELECT reloptions FROM pg_class WHERE relname = 'pubsub_outbox'")
        ).scalar_one()
        cache = connection.execute(
            text("SELECT cache_size FROM pg_sequences WHERE sequencename LIKE 'pubsub%'")
        ).scalar_one()
    assert "autovacuum_vacuum_scale_factor=0" in options
    assert cache == 1


@pytest.mark.one_driver
def test_a_model_without_listeners_has_an_outbox_and_no_trigger(project: Project) -> None:
    project.models(COMMENT)
    source = project.migrate()
    assert "create_table pubsub_outbox" in called(source, "upgrade")
    assert "pubsub_trigger" not in source
    assert project.differences() == []


@pytest.mark.one_driver
def test_models_without_the_mixin_get_nothing_of_ours(project: Project) -> None:
    project.models(PLAIN_COMMENT)
    assert "pubsub" not in project.migrate()


@pytest.mark.one_driver
def test_removing_the_mixin_drops_the_triggers_before_their_outbox(project: Project) -> None:
    """A trigger that outlived its outbox would fail every write of the application."""
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.models(PLAIN_COMMENT)
    source = project.migrate()
    assert called(source, "upgrade")[0] == "drop_pubsub_trigger comment"
    assert "drop_table pubsub_outbox" in called(source, "upgrade")
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.differences() == []
    project.downgrade()
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]
    project.upgrade()
    project.downgrade("base")
    assert (project.triggers(), project.functions()) == ([], [])


@pytest.mark.one_driver
def test_a_dropped_table_loses_its_trigger_and_function_first(project: Project) -> None:
    article = "\n\nclass Article(PubSub, Base):\n    __tablename__ = 'article'\n    id = Column(Integer, primary_key=True)\n"
    listener = "\n\n@after_insert(Article)\ndef announce(new): ...\n"
    project.models(COMMENT + INSERT_LISTENER + article + listener)
    project.migrate()
    project.models(COMMENT + INSERT_LISTENER)
    source = project.migrate()
    assert called(source, "upgrade") == ["drop_pubsub_trigger article", "drop_table article"]
    assert called(source, "downgrade") == ["create_table article", "create_pubsub_trigger article"]
    assert project.functions() == ["pubsub_comment_insert"]
    assert project.differences() == []
    project.downgrade()
    project.execute("INSERT INTO article DEFAULT VALUES")
    assert project.entries() == [("announce", "INSERT")]


@pytest.mark.one_driver
def test_a_database_made_by_create_all_needs_no_revision(project: Project) -> None:
    project.models(COMMENT + INSERT_LISTENER + UPDATE_LISTENER.format(stars=3))
    project.create_all()
    project.upgrade()
    assert project.differences() == []
    assert "op." not in project.revision()


@pytest.mark.one_driver
def test_a_partitioned_table_gets_row_triggers(project: Project) -> None:
    project.models(
        MODELS
        + """

class Visit(PubSub, Base):
    __tablename__ = "visit"
    __table_args__ = {"postgresql_partition_by": "LIST (country)"}
    id: Mapped[int] = mapped_column(primary_key=True)
    country: Mapped[str] = mapped_column(primary_key=True)


@after_insert(Visit)
def count(new): ...
"""
    )
    source = project.migrate()
    assert "capture='row'" in source
    project.execute("CREATE TABLE visit_de PARTITION OF visit FOR VALUES IN ('de')")
    project.execute("INSERT INTO visit_de (id, country) VALUES (1, 'de')")
    assert project.entries() == [("count", "INSERT")]


@pytest.mark.one_driver
def test_the_level_of_capture_changes_by_a_drop_and_a_create(project: Project) -> None:
    narrowed = COMMENT.replace('"comment"', '"comment"\n    __pubsub__ = Publish(capture="row")')
    project.models(COMMENT + INSERT_LISTENER)
    project.migrate()
    project.models(narrowed + INSERT_LISTENER)
    source = project.migrate()
    assert called(source, "upgrade") == ["drop_pubsub_trigger comment", "create_pubsub_trigger comment"]
    assert called(source, "downgrade") == called(source, "upgrade")
    assert project.differences() == []
    project.downgrade()
    project.execute("INSERT INTO comment DEFAULT VALUES")
    assert project.entries() == [("email_author", "INSERT")]
