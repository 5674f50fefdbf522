"""A project with migrations and an empty database."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.alembic_ext.project import Project, restored_logging


@pytest.fixture
def project(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project whose modules can be rewritten between two commands."""
    # A module rewritten within the same second would be read from its old bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with restored_logging():
        yield Project(tmp_path, engine)
