"""Migrations while a backfill is open: nothing of it shows in a comparison, and none of it stops a writer."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, make_url

from tests.alembic_ext.project import MODELS, Project
from tests.alembic_ext.test_offline import apply
from tests.cli.backfill import (
    DEADLINE,
    PASSED,
    begin_and_kill,
    blocked,
    entries,
    execute,
    items,
    nothing_left,
    said,
)
from tests.cli.project import Running, Shop
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

ORDER = f"""{MODELS}

class Order(PubSub, Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
"""
MIGRATOR = "pubsub_migrator"
LISTENER = """

@after_insert(Order)
def index(new): ...
"""


@pytest.fixture
def shop(project: Project, url: str) -> Iterator[Shop]:
    """The command line in the project, whose listener came after 300 rows and one more is locked."""
    shop = Shop(project.folder, project.engine, url)
    shop.write("pyproject.toml", '[tool.sqla-pubsub]\nlisteners = ["shop.models"]\n')
    project.models(ORDER)
    project.migrate()
    execute(shop, items(300))
    project.models(ORDER + LISTENER)
    project.migrate()
    yield shop
    shop.close()


def test_nothing_of_a_backfill_is_a_difference_before_during_and_after_it(
    project: Project, shop: Shop
) -> None:
    assert shop.scalar("SELECT count(obj_description('pubsub_order_insert()'::regprocedure, 'pg_proc'))") == 1
    assert project.differences() == []
    begin_and_kill(shop, "index", at=100)
    assert not nothing_left(shop)
    assert project.differences() == []
    assert "op." not in project.migrate()
    assert "300 events" in said(shop.run("backfill", "index"))
    assert project.differences() == []


def test_a_migration_that_replaces_the_function_leaves_an_open_one_alone(
    project: Project, shop: Shop
) -> None:
    begin_and_kill(shop, "index", at=100)
    project.models(ORDER + LISTENER + LISTENER.replace("index", "other"))
    assert "replace_pubsub_function" in project.migrate()
    execute(shop, "INSERT INTO \"order\" (item) VALUES ('new')")
    assert "300 events" in said(shop.run("backfill", "index"))
    assert Counter(entries(shop)) == Counter(str(n) for n in range(1, 302))
    assert entries(shop, listener="other") == ["301"]


@pytest.mark.parametrize("again", [False, True], ids=["gone", "again"])
def test_a_downgrade_below_one_that_was_killed_stops_no_writer(
    project: Project, shop: Shop, again: bool
) -> None:
    begin_and_kill(shop, "index", at=100)
    project.downgrade()
    execute(shop, "INSERT INTO \"order\" (item) VALUES ('new')")
    assert "Run: alembic upgrade head" in said(shop.run("backfill", "index"), 2)
    if again:
        # Rows that came between have no entry, and are older than the listener that is there now.
        project.upgrade()
        assert project.differences() == []
        said(shop.run("backfill", "index", "--abandon"))
        assert len(entries(shop)) == 100
        done = said(shop.run("backfill", "index", "--yes"))
        assert Counter(entries(shop)) == Counter(str(n) for n in range(1, 302))
        assert "201 events" in done
    else:
        assert "abandoned" in said(shop.run("backfill", "index", "--abandon"))
    assert nothing_left(shop)
    project.downgrade("base")
    assert project.functions() == []


@pytest.mark.parametrize(
    "migrate",
    [
        lambda project, shop: project.downgrade(),
        lambda project, shop: project.downgrade("base"),
        lambda project, shop: execute(
            shop,
            'DROP TRIGGER pubsub_insert ON "order"',
            "DROP FUNCTION pubsub_order_insert()",
            "DROP TABLE pubsub_outbox, pubsub_dead_letter",
        ),
    ],
    ids=["listener", "table", "outbox"],
)
def test_what_a_running_one_needs_is_taken_away_and_it_says_so(
    project: Project, shop: Shop, migrate: Callable[[Project, Shop], None]
) -> None:
    process = overtaken(shop, lambda: migrate(project, shop))
    assert process.wait(DEADLINE) == 2, shop.log
    assert "was abandoned. Run: alembic upgrade head" in shop.log
    assert "Traceback" not in shop.log
    assert project.functions() == []
    if shop.scalar("SELECT count(*) FROM pg_class WHERE relname = 'order'"):
        execute(shop, "INSERT INTO \"order\" (item) VALUES ('new')")


def test_no_role_may_attach_what_marks_new_rows_to_a_table_of_its_own(project: Project, shop: Shop) -> None:
    execute(shop, "CREATE ROLE stranger", "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO stranger")
    try:
        begin_and_kill(shop, "index", at=100)
        marking = "FROM pg_proc WHERE proname LIKE 'pubsub_backfill%'"
        assert shop.scalar(f"SELECT count(*) {marking}") == 1
        allowed = "has_function_privilege('stranger', oid, 'EXECUTE')"
        assert shop.scalar(f"SELECT count(*) {marking} AND {allowed}") == 0
        said(shop.run("backfill", "index", "--abandon"))
    finally:
        execute(
            shop,
            "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM stranger",
            "DROP OWNED BY stranger",
            "DROP ROLE stranger",
        )


def test_a_new_name_counts_from_where_the_previous_one_did(project: Project, shop: Shop) -> None:
    execute(shop, "INSERT INTO \"order\" (item) VALUES ('live')")
    project.models(
        ORDER
        + LISTENER.replace("(Order)", "(Order, previous_names=['index'])").replace("def index", "def find")
    )
    project.migrate()
    execute(shop, "INSERT INTO \"order\" (item) VALUES ('later')")
    assert "300 events" in said(shop.run("backfill", "find", "--yes"))
    reported = [*entries(shop), *entries(shop, listener="find")]
    assert Counter(reported) == Counter(str(n) for n in range(1, 303))
    assert nothing_left(shop)


def test_rows_that_the_migration_itself_updated_have_changed(project: Project, shop: Shop) -> None:
    project.downgrade()
    update = 'op.execute("UPDATE \\"order\\" SET item = \'better\' WHERE id <= 250")'
    project.edit_last_revision({'    """Upgrade schema."""\n': f"    {update}\n"})
    project.upgrade()
    assert "250 rows came or changed" in said(shop.run("backfill", "index", "--yes"), 2)
    summary = said(shop.run("backfill", "index", "--yes", "--skip-changed"))
    assert "50 events" in summary
    assert "250 rows that came or changed" in summary
    assert said(shop.run("backfill", "index", "--yes", "--include-changed")).startswith("250 events")


@pytest.mark.parametrize("offline", [False, True], ids=["online", "script"])
def test_a_role_that_may_not_identify_the_server_installs_without_the_comment(
    project: Project, server: Server, url: str, offline: bool
) -> None:
    """Then nobody knows since when, and the backfill asks."""
    project.execute(
        f"DO $$ BEGIN CREATE ROLE {MIGRATOR} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        f"GRANT ALL ON SCHEMA public TO {MIGRATOR}",
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
    )
    engine = create_engine(make_url(url).set(username=MIGRATOR))
    project.move(engine)
    shop = Shop(project.folder, engine, engine.url.render_as_string(hide_password=False))
    shop.write("pyproject.toml", '[tool.sqla-pubsub]\nlisteners = ["shop.models"]\n')
    project.models(ORDER + LISTENER)
    project.revision()
    if offline:
        apply(f"SET ROLE {MIGRATOR};\n{project.script('upgrade', 'head')}", server, project)
    else:
        project.upgrade()
    assert project.differences() == []
    assert shop.scalar("SELECT count(obj_description('pubsub_order_insert()'::regprocedure, 'pg_proc'))") == 0
    execute(shop, items(2))
    assert entries(shop) == ["1", "2"]
    execute(shop, "DELETE FROM pubsub_outbox")
    assert "not known since when" in said(shop.run("backfill", "index", "--yes"), 2)
    assert "2 events" in said(shop.run("backfill", "index", "--yes", "--include-changed"))
    assert nothing_left(shop)
    engine.dispose()


def overtaken(shop: Shop, migrate: Callable[[], None]) -> Running:
    """Return a backfill that waited for a row in the middle, and behind which a migration got its turn first."""
    with ThreadPoolExecutor(1) as pool:
        with blocked(shop, 101):
            process = shop.start("backfill", "index", "--yes", "--batch-size", "10")
            wait_until(
                lambda: shop.scalar(PASSED) >= 100 or process.poll() is not None,
                DEADLINE,
                "it to come to the row",
            )
            migration = pool.submit(migrate)
            wait_until(
                lambda: shop.scalar(WAITING) > 0 or migration.done(),
                DEADLINE,
                "the migration to wait for the table",
            )
        migration.result(DEADLINE)
    return process


WAITING = """
    SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
    AND relation = (SELECT oid FROM pg_class WHERE relname = 'order')
"""
