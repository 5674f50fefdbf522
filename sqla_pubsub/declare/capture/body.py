"""What every format of the capture SQL shares: literals, the mark, the wake-up, and what a migration fills in.

A body is text with marks in it. The migration puts in their place what only the database knows: where the
outbox is, and what the types of the table's columns ask for (`sqla_pubsub.declare.capture.columns`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import String

from sqla_pubsub.contract.names import NOTIFY_SETTING
from sqla_pubsub.contract.wakeup import channel, lock_key
from sqla_pubsub.declare.conditions.compiling import body_dialect
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.errors import ConfigurationError

T = TypeVar("T")
MARK = "-- sqla-pubsub "
OUTBOX = "\0outbox\0"
OUTBOX_LITERAL = "\0literal\0"
"""Stand for the qualified outbox in a body; PostgreSQL allows no NUL, so no name can contain them."""

VALUES: Mapping[str, str] = {
    "relation": "\0relation\0",
    "cleared": "\0cleared\0",
    "uncleared": "\0uncleared\0",
    "texts": "\0texts\0",
    "missing": "\0missing\0",
}
"""Stand for what `sqla_pubsub.declare.capture.columns` finds out, as SQL."""
OPEN, CLOSE = "\0if {}\0", "\0end\0"

_dialect = body_dialect()
_literal_processor = String().literal_processor(_dialect)  # type: ignore[no-untyped-call]


def literal(value: str) -> str:
    """Return *value* as a SQL string literal."""
    assert _literal_processor is not None
    return str(_literal_processor(value))


def mark_line(spec: TriggerSpec | FanOut) -> str:
    """Return the first line of a body: the specification itself, which is how a later comparison reads it back."""
    return MARK + json.dumps(spec.as_dict(), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def where(name: str, text: str) -> str:
    """Return *text* for a body whose table has a value *name* of `VALUES`, and nothing for others."""
    return OPEN.format(name) + text + CLOSE


def resolve(text: str, outbox: str, values: Mapping[str, str | None] | None = None) -> str:
    """Return *text* with what a migration fills in.

    Args:
        text: A body, or a part of one.
        outbox: The qualified, quoted name of the outbox.
        values: Those of `VALUES` that the table has.
    """
    quoted = literal(outbox)
    if "\\" in outbox:
        # As quote_literal() writes it.
        quoted = "E" + quoted.replace("\\", "\\\\")
    known = values or {}
    pattern = re.escape(OPEN).replace(r"\{\}", r"(\w+)") + "(.*?)" + re.escape(CLOSE)
    text = re.sub(pattern, lambda m: m[2] if known.get(m[1]) is not None else "", text, flags=re.DOTALL)
    for name, mark in VALUES.items():
        text = text.replace(mark, known.get(name) or "")
    return text.replace(OUTBOX_LITERAL, quoted).replace(OUTBOX, outbox)


def read_mark(source: str) -> TriggerSpec | None:
    """Return the specification in the first line of an installed function, None if there is none."""
    return _read_mark(source, TriggerSpec.from_dict)


def read_publish_mark(source: str) -> FanOut | None:
    """Return the fan-out in the first line of an installed publish function, None if there is none."""
    return _read_mark(source, FanOut.from_dict)


def _read_mark(source: str, read: Callable[[Mapping[str, Any]], T]) -> T | None:
    first = source.partition("\n")[0]
    if not first.startswith(MARK):
        return None
    try:
        return read(json.loads(first[len(MARK) :]))
    except (ValueError, ConfigurationError):
        return None


_KEY, _CHANNEL = lock_key(OUTBOX_LITERAL), channel(OUTBOX_LITERAL)

# The lock probe comes first: a NOTIFY takes one cluster-wide lock, and with nobody asleep it is waste.
WAKE_UP = f"""\
  IF FOUND THEN
    IF coalesce(pg_catalog.current_setting({literal(NOTIFY_SETTING)}, true), '') <> 'off' THEN
      IF NOT pg_catalog.pg_try_advisory_xact_lock_shared({_KEY}) THEN
        PERFORM pg_catalog.pg_notify({_CHANNEL}, '');
      END IF;
    END IF;
  END IF;"""

WAKE = f"""\
SELECT pg_catalog.pg_notify({_CHANNEL}, '')
WHERE NOT pg_catalog.pg_try_advisory_xact_lock_shared({_KEY})"""
"""The same for an INSERT that no function makes."""
