"""The log of ``listen`` and its workers: who configures it, and what a line looks like.

What the application configures when its modules are imported holds. Only where it configures nothing, lines go to
stderr; the root logger keeps its level in any case, which is not ours to choose. Supervisor and workers are
configured by the same value, which travels with the plan.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

from sqla_pubsub.current import facts
from sqla_pubsub.deliver.log import LOGGER, audible
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.values import harmless, one_line

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

Format = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")
FORMATS: tuple[Format, ...] = ("text", "json")

_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[31m"}
_PLAIN = "\x1b[0m"
_OF_LOGGING = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class OneLine(logging.Formatter):
    """Shows control characters instead of sending them; a traceback still has lines.

    Args:
        fmt: As for `logging.Formatter`.
        coloured: Whether the levels of trouble are coloured.
    """

    def __init__(self, fmt: str | None = None, *, coloured: bool = False) -> None:
        super().__init__(fmt)
        self._coloured = coloured

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time with its zone."""
        return _when(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a record."""
        record.message = one_line(record.message)
        line = super().formatMessage(record)
        if not record.name.startswith(LOGGER):
            # Our own lines say it in their words.
            line += "".join(f" {name}={value}" for name, value in facts().items())
        colour = _COLOURS.get(record.levelno) if self._coloured else None
        return (
            line
            if colour is None
            else line.replace(record.levelname, f"{colour}{record.levelname}{_PLAIN}", 1)
        )

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802
        """Return the lines of a traceback."""
        return harmless(super().formatException(ei))


class JsonLine(logging.Formatter):
    """One JSON object in one line for each record, with the facts that the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object, in ASCII: nothing in it is obeyed by a terminal."""
        message = record.getMessage()
        name, colon, _ = message.partition(":")
        line: dict[str, Any] = {
            "time": _when(record), "level": record.levelname, "logger": record.name, "process": record.process,
            "message": message,
        }  # fmt: skip
        if colon and record.name.startswith(LOGGER) and " " not in name:
            line["event"] = name
        # A line that a handler logs is formatted while it runs.
        line |= facts() | {k: v for k, v in vars(record).items() if k not in _OF_LOGGING}
        trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else None)
        if trace:
            line["traceback"] = trace
        return json.dumps(line, default=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How ``listen`` logs; supervisor and workers do alike.

    Args:
        default: Level of our loggers where nobody says otherwise.
        level: The one that was asked for.
        format: The one that was asked for: then our lines go to stderr in it, whoever configured logging.
        config: File that configures logging: ``.json`` or ``.toml`` for `logging.config.dictConfig`, any other for
            `logging.config.fileConfig`.
    """

    default: int = logging.INFO
    level: int | None = None
    format: Format | None = None
    config: str | None = None

    def __post_init__(self) -> None:
        if self.config is not None and self.format is not None:
            raise ConfigurationError("--log-config says how lines look. Leave out --log-format.")

    def apply(self) -> None:
        """Configure logging, after the modules of the application are imported.

        Raises:
            ConfigurationError: The file cannot be read, or configures nothing.
        """
        ours, root = logging.getLogger(LOGGER), logging.getLogger()
        if self.config is not None:
            _load(Path(self.config))
        configured = bool(ours.handlers or root.handlers)
        if self.format is not None and configured:
            ours.handlers, ours.propagate = [_to_stderr(self.format)], False
        elif not configured:
            # Where the application gave handlers to loggers of its own only, their lines would come twice by the root.
            (ours if _anybody() else root).addHandler(_to_stderr(self.format or "text"))
        if self.level is not None or (not configured and ours.level == logging.NOTSET):
            ours.setLevel(self.default if self.level is None else self.level)
        audible()


def _to_stderr(how: Format) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    text = OneLine("%(asctime)s %(levelname)s %(process)d %(message)s", coloured=coloured(sys.stderr))
    handler.setFormatter(JsonLine() if how == "json" else text)
    return handler


def _anybody() -> bool:
    known = logging.getLogger().manager.loggerDict.values()
    return any(isinstance(each, logging.Logger) and each.handlers for each in known)


def coloured(stream: TextIO) -> bool:
    """Whether *stream* is a terminal that shows colours, and nobody has asked for none.

    Source: https://no-color.org
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _load(path: Path) -> None:
    try:
        match path.suffix:
            case ".json":
                logging.config.dictConfig(json.loads(path.read_text(encoding="utf-8")))
            case ".toml":
                logging.config.dictConfig(tomllib.loads(path.read_text(encoding="utf-8")))
            case _:
                # It says only that a section is missing where the file is.
                path.read_text(encoding="utf-8")
                logging.config.fileConfig(path)
    except Exception as error:
        cause = error.__cause__ or error
        raise ConfigurationError(
            f"--log-config {path} cannot be used: {error}{'' if cause is error else f': {cause}'}. Give a .json or .toml "
            "file for logging.config.dictConfig, or another one for logging.config.fileConfig."
        ) from error


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
