"""Fixtures of the behaviour tests: those of delivery."""

from tests.deliver.conftest import drain, notes

__all__ = ["drain", "notes"]
