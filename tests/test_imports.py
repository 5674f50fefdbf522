"""What an application pays for ``import sqla_pubsub``: only what declaring and publishing need."""

import subprocess
import sys

import pytest

LOADED = "import sys, sqla_pubsub; print(*sys.modules)"
NEVER = ("alembic", "alembic_ext", "click", "psycopg", "psycopg2", "rich", "sqla_pubsub.deliver", "tenacity")


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", NEVER)
def test_importing_the_package_does_not_load_what_only_the_daemon_or_migrations_need(
    loaded: set[str], name: str
) -> None:
    assert "sqla_pubsub.declare" in loaded
    assert not {module for module in loaded if f"{module}.".startswith(f"{name}.")}
