"""Fixtures of the behaviour tests: those of delivery."""

from tests.deliver.conftest import drain, furnish, notes

__all__ = ["drain", "furnish", "notes"]
