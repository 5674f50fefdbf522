"""Says in the lines that a handler logs itself for which event they were written.

The fields are those of our own lines: ``listener``, ``entry`` and ``attempt``. Nothing is imported for structlog: its
processors are plain functions.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from sqla_pubsub.current import facts

FIELDS = ("listener", "entry", "attempt")


class EventFilter(logging.Filter):
    """Adds ``listener``, ``entry`` and ``attempt`` to each record; None where no handler runs.

    Add it to a logging *handler*: a filter of a logger does not see the records of the loggers below it. What a record
    has under these names already stays, such as in our own lines.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; no record is left out."""
        found = facts()
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, found.get(name))
        return True


def add_event(_logger: Any, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add ``listener``, ``entry`` and ``attempt`` while a handler runs: a processor of structlog."""
    for name, value in facts().items():
        event_dict.setdefault(name, value)
    return event_dict
