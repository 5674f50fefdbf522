"""Fixtures: a published table, and what looks after its outbox."""

import pytest

from sqla_pubsub import Admin
from tests.deliver.conftest import furnish, notes
from tests.deliver.notes import Notes

__all__ = ["admin", "furnish", "notes"]


@pytest.fixture
def admin(notes: Notes) -> Admin:
    """What looks after the outbox of `notes`."""
    return Admin(notes.engine, notes.metadata)
