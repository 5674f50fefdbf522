"""The lines that a listener logs in a program of somebody's own."""

import logging.config
from collections.abc import Iterator
from typing import Any

import pytest

from sqla_pubsub import RetryPolicy, after_insert
from tests.deliver.notes import Notes

pytestmark = pytest.mark.one_driver

DICT_CONFIG = {
    "version": 1,
    "formatters": {"mine": {"format": "mine %(levelname)s %(message)s"}},
    "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"level": "INFO", "handlers": ["mine"]},
}


@pytest.fixture
def loggers() -> Iterator[None]:
    """Give the loggers of this process back as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    disabled = [
        each
        for each in root.manager.loggerDict.values()
        if isinstance(each, logging.Logger) and each.disabled
    ]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for each in root.manager.loggerDict.values():
        if isinstance(each, logging.Logger):
            each.disabled = each in disabled


@pytest.mark.usefixtures("loggers")
def test_a_configuration_between_import_and_listener_silences_no_program_of_your_own(
    notes: Notes, capfd: pytest.CaptureFixture[str]
) -> None:
    @after_insert(notes.Note, retry=RetryPolicy(max_attempts=1))
    def fail(new: Any) -> None:
        raise ValueError("no")

    notes.write("one")
    logging.config.dictConfig(DICT_CONFIG)
    assert notes.drain() == 1
    assert "mine ERROR event.dead: entry 1 for 'fail'" in capfd.readouterr().err
