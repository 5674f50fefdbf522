"""Fixtures of the behaviour tests."""

import pytest
from sqlalchemy import Engine

from tests.deliver.notes import Notes


@pytest.fixture
def notes(engine: Engine) -> Notes:
    """A published table and a table of effects, made when the first note is written."""
    return Notes(engine)
