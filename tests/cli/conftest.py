"""Fixtures of the command-line tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.cli.project import Shop


@pytest.fixture
def bare_shop(tmp_path: Path, engine: Engine, url: str) -> Iterator[Shop]:
    """A project whose database is empty."""
    shop = Shop(tmp_path, engine, url)
    yield shop
    shop.close()


@pytest.fixture
def shop(bare_shop: Shop) -> Shop:
    """A project with tables and triggers installed."""
    bare_shop.install()
    return bare_shop
