"""`assert_migrated`, and the migrations of a project as what makes the databases of its tests."""

import logging
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from alembic_ext.testing import upgrade
from examples.easy.demo import platform
from sqla_pubsub import ConfigurationError
from sqla_pubsub.testing import assert_migrated

pytestmark = pytest.mark.one_driver


def test_migrations_are_complete_or_the_test_says_what_is_missing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace = platform(tmp_path, url, smtp="localhost:1025")
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("tests.testing.of_the_test")
    with pytest.raises(AssertionError, match=r"create_pubsub_trigger|add_table.*Run: alembic revision"):
        assert_migrated(url)
    workplace.run("alembic", "revision", "--autogenerate", "-m", "publish comments")
    assert_migrated(url, tmp_path / "alembic.ini")
    # The env.py of Alembic's template sets up logging, which would silence what the test looks at.
    assert not logger.disabled
    engine = create_engine(url)
    assert "pubsub_outbox" in inspect(engine).get_table_names()
    engine.dispose()


def test_a_project_without_a_migration_is_told_so(url: str, tmp_path: Path) -> None:
    platform(tmp_path, url, smtp="localhost:1025")
    with pytest.raises(ConfigurationError, match=r"has no migration yet.*Run: alembic revision"):
        upgrade(url, tmp_path / "alembic.ini")


def test_the_driver_is_that_of_the_project(url: str, tmp_path: Path) -> None:
    platform(tmp_path, url.replace("psycopg2", "psycopg"), smtp="localhost:1025").run(
        "alembic", "revision", "--autogenerate"
    )
    with (tmp_path / "migrations" / "env.py").open("a") as env:
        env.write(
            "\nassert context.config.get_main_option('sqlalchemy.url').startswith('postgresql+psycopg:')\n"
        )
    upgrade(url, tmp_path / "alembic.ini")
