"""The log of ``listen``: one line for one happening, whatever a row or an error holds."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from sqla_pubsub.values import harmless, one_line

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class OneLine(logging.Formatter):
    """Shows control characters instead of sending them; a traceback still has lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802
        """Return the lines of a traceback."""
        return harmless(super().formatException(ei))


def log_to_stderr(level: int) -> None:
    """Send what is logged to stderr, unless the program has said otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(process)d %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
