"""pytest-alembic's own tests pass on the example, as they would in a user's project."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.easy.demo import platform
from examples.workplace import SOURCE_TREE

TESTS = """
import pytest
from pytest_alembic.tests import (
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from sqlalchemy import create_engine


@pytest.fixture
def alembic_config():
    return {{"file": "alembic.ini"}}


@pytest.fixture
def alembic_engine():
    return create_engine({url!r})
"""


@pytest.mark.one_driver
def test_the_default_tests_of_pytest_alembic_pass_on_the_example(url: str, tmp_path: Path) -> None:
    workplace = platform(tmp_path, url, smtp="localhost:1025")
    workplace.run("alembic", "revision", "--autogenerate", "-m", "publish comments")
    workplace.run("alembic", "upgrade", "head")
    workplace.run("alembic", "revision", "-m", "another one")
    workplace.run("alembic", "downgrade", "base")
    (tmp_path / "test_migrations.py").write_text(TESTS.format(url=url), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_migrations.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(SOURCE_TREE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr
