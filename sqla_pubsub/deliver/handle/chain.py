"""How an event came about: which handlers wrote what caused it, one after the other.

A listener that writes what it listens to calls itself without end, and nothing would show it. So what a handler
writes carries the chain of its event, one longer, in the context of the transaction, under a name that no keyword of
`set_context` can be. Captures of every format store the context, and handlers never see this part of it::

    {"sqla_pubsub.chain": [3, "reindex", "touch"], "tenant": "a"}

The number is how many handlers there were; the names, which, the first ones of them and each once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, text

from sqla_pubsub.context import encoded_context
from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.contract.names import CONTEXT_SETTING

KEY = "sqla_pubsub.chain"
MOST_NAMES = 5

_SET = text("SELECT set_config(:setting, :value, :local)").bindparams(setting=CONTEXT_SETTING)


@dataclass(frozen=True, slots=True)
class Chain:
    """The handlers before an event: how many, and the names of the first ones, each once."""

    depth: int = 0
    names: tuple[str, ...] = ()

    def then(self, name: str) -> Chain:
        """Return the chain of what the handler of listener *name* writes."""
        names = self.names if name in self.names or len(self.names) >= MOST_NAMES else (*self.names, name)
        return Chain(self.depth + 1, names)

    @property
    def setting(self) -> str:
        """The context of a transaction in which that is written."""
        return _setting(self.depth, self.names)


@lru_cache(maxsize=1_000)
def _setting(depth: int, names: tuple[str, ...]) -> str:
    # Most events of a listener have the same chain, and there are many.
    return json.dumps({KEY: [depth, *names]})


def extended(setting: str, passed_on: Mapping[str, Any]) -> str:
    """Return the context of a chain with what a function around the handler passes on.

    Raises:
        ConfigurationError: That is no JSON.
    """
    if not passed_on:
        return setting
    added = {name: value for name, value in passed_on.items() if name != KEY}
    if not added:
        return setting
    return f"{setting[:-1]}, {encoded_context(added, 'passed_on of the current event has a value')[1:]}"


def chain_of(entry: Entry) -> Chain:
    """Return the chain of an entry; any writer may have put anything there."""
    if entry.context is None or KEY not in entry.context:
        return Chain()
    found = _loaded(entry.context).get(KEY)
    match found:
        case [int(depth), *names] if depth >= 0:
            return Chain(depth, tuple(map(str, names[:MOST_NAMES])))
    return Chain()


def deepest(entries: Sequence[Entry]) -> Chain:
    """Return the longest chain of events that are handled together."""
    if len(entries) == 1:
        return chain_of(entries[0])
    return max(map(chain_of, entries), key=lambda chain: chain.depth)


def context_of(entry: Entry) -> dict[str, Any] | None:
    """Return what `set_context` left in the transaction, None where nothing was."""
    return None if entry.context is None else _without_chain(entry.context)


def contexts_of(entries: Sequence[Entry]) -> tuple[dict[str, Any], ...]:
    """Return the different contexts of events that are handled together, without empty ones."""
    written = dict.fromkeys(entry.context for entry in entries if entry.context is not None)
    return tuple(context for context in map(_without_chain, written) if context)


def _without_chain(context: str) -> dict[str, Any]:
    return {name: value for name, value in _loaded(context).items() if name != KEY}


def _loaded(context: str) -> dict[str, Any]:
    found = json.loads(context)
    return found if isinstance(found, dict) else {}


class ContextSetting:
    """The context of the open transaction, set when it is to be another one.

    Args:
        connection: Whose transaction.
        local: Whether it ends with the transaction; else it stays until it is set again.
    """

    def __init__(self, connection: Connection, *, local: bool = True) -> None:
        self._connection = connection
        self._local = local
        self._value: str | None = ""
        """None where it is not known, after an error."""

    def be(self, value: str) -> None:
        """Set it, unless that is what it is."""
        if value != self._value:
            self._set(value)

    def forget(self) -> None:
        """Set it to nothing, whatever a handler made of it."""
        self._set("")

    def _set(self, value: str) -> None:
        self._value = None
        self._connection.execute(_SET, {"value": value, "local": self._local})
        self._value = value
