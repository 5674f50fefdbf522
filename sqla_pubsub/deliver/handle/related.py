"""``load=``: relationships that come loaded with the rows of events, read once for all events of a group.

What is read are *templates*, which no handler sees: each event gets objects of its own, so that nothing that one
handler does to them is there for the next one unless it is written. They are read anew for the rest of a group after
a handler has written to one of their tables. Which row a relationship refers to, the row of the event says and not
the one in the table, which may be another one by now, or gone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import Session, make_transient_to_detached
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from sqla_pubsub.deliver.handle.eager import EagerLoad, Templates, related, table_names
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import LoadFailed, UnreadableEntry

Key = tuple[int, str]
"""Entry id and side."""
Row = tuple[EagerLoad, Callable[[], Any]]
"""How the relationships of a row are loaded, and what makes an instance of it."""

_CHANGEABLE = (dict, list, set, bytearray, MutableBase)
_READS = re.compile(r"\s*SELECT\b", re.IGNORECASE)


class Related:
    """What the events of one group refer to.

    Args:
        name: The listener's.
        rows: By event and side, in the order of events.
    """

    def __init__(self, name: str, rows: Mapping[Key, Row]) -> None:
        self._name = name
        self._rows = dict(rows)
        self._found: dict[Key, Templates | Exception] = {}
        self._tables = {table for load, _ in rows.values() for table in load.tables}
        self._written: re.Pattern[str] | None = None
        self.stale = False
        """Whether a handler has written to what was loaded."""

    def load(self, connection: Connection) -> None:
        """Read what all events refer to.

        Raises:
            LoadFailed: Some of it cannot be read; the transaction may be aborted then.
            DBAPIError: The connection is lost.
        """
        self._found = {}
        self._read(connection, list(self._rows))
        self.stale = False

    def load_alone(self, connection: Connection, entry_id: int) -> None:
        """Read what one event refers to; what cannot be read is an error when its handler looks.

        Raises:
            DBAPIError: The connection is lost.
        """
        keys = [key for key in self._rows if key[0] == entry_id]
        try:
            with connection.begin_nested():
                self._read(connection, keys)
        except LoadFailed as error:
            # What a failure means depends on what is behind it.
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            self._found |= dict.fromkeys(keys, cause)

    def renew(self, connection: Connection, entry_id: int) -> None:
        """Read again what the events from this one on refer to.

        Raises:
            DBAPIError: The connection is lost.
        """
        while self._rows and (first := next(iter(self._rows)))[0] != entry_id:
            del self._rows[first]
        try:
            with connection.begin_nested():
                self.load(connection)
        except LoadFailed:
            self.load_alone(connection, entry_id)

    def sent(self, statement: str) -> None:
        """Take note of a statement of a handler."""
        if not self.stale and not _READS.match(statement):
            if self._written is None:
                names = "|".join(map(_in_a_statement, sorted(filter(None, self._tables))))
                self._written = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)
            self.stale = self._written.search(statement) is not None

    def left(self, session: Session) -> None:
        """Take note of what a handler has left in its session, and what is written after it."""
        for instance in (*session.new, *session.dirty, *session.deleted):
            self.stale = self.stale or not self._tables.isdisjoint(
                table_names(instance_state(instance).mapper)
            )

    def attach(self, instance: Any, key: Key, session: Session) -> None:
        """Give the row of an event, or what stands for it in *session*, what it refers to.

        Raises:
            Exception: What was raised when that was read.
        """
        found = self._found.get(key, {})
        if isinstance(found, Exception):
            raise found
        _refer(instance, found, _placed(session, found))

    def _read(self, connection: Connection, keys: Sequence[Key]) -> None:
        rows: dict[EagerLoad, dict[Key, Any]] = {}
        for key in keys:
            load, make = self._rows[key]
            try:
                rows.setdefault(load, {})[key] = make()
            except UnreadableEntry:
                # The handler is told, if it looks.
                continue
        try:
            for load, instances in rows.items():
                self._found |= load.load(connection, instances)
        except Exception as error:
            if connection.closed or connection.invalidated:
                raise
            raise LoadFailed(f"load= of listener {self._name!r}: {describe(error)}") from error
        found = [templates for templates in self._found.values() if not isinstance(templates, Exception)]
        mappers = {instance_state(each).mapper for each in _reached(found)}
        self._tables |= {table for mapper in mappers for table in table_names(mapper)}
        self._written = None


def _in_a_statement(name: str) -> str:
    """Return a pattern for the name of a table: a quote in it stands there twice, and a percent sign with some drivers."""
    return re.sub('["%]', r"\g<0>{1,2}", re.escape(name))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _reached(found: Iterable[Templates]) -> list[Any]:
    """Return all templates that are referred to, directly or by another one."""
    reached: dict[int, Any] = {}
    waiting = [each for templates in found for value in templates.values() for each in _items(value)]
    while waiting:
        each = waiting.pop()
        if id(each) not in reached:
            reached[id(each)] = each
            waiting += [other for value in related(each).values() for other in _items(value)]
    return list(reached.values())


def _placed(session: Session, found: Templates) -> dict[int, Any]:
    """Return, by the identity of a template, the object of *session* that stands for it."""
    reached = _reached([found])
    placed = {id(each): _object(session, each) for each in reached}
    for each in reached:
        _refer(placed[id(each)], related(each), placed)
    return placed


def _refer(instance: Any, templates: Templates, placed: Mapping[int, Any]) -> None:
    """Let *instance* refer to what its templates do, where it does not refer to anything yet."""
    loaded = instance_state(instance).dict
    for name, value in templates.items():
        if name not in loaded:
            objects = [placed[id(each)] for each in _items(value)]
            set_committed_value(
                instance, name, objects if isinstance(value, list) else next(iter(objects), None)
            )


def _object(session: Session, template: Any) -> Any:
    """Return the object that *session* has of a row, or add a copy of the template."""
    state = instance_state(template)
    known = None if state.key is None else session.identity_map.get(state.key)
    if known is not None:
        return known
    mapper = state.mapper
    made = mapper.class_manager.new_instance()
    own = instance_state(made)
    for attribute in mapper.column_attrs:
        if attribute.key in state.dict:
            value = state.dict[attribute.key]
            own.dict[attribute.key] = deepcopy(value) if isinstance(value, _CHANGEABLE) else value
    make_transient_to_detached(made)
    # What the options say of relationships further on, raiseload() say, they say of this object.
    own.load_options, own.load_path = state.load_options, state.load_path
    if state.callables:
        own.callables = dict(state.callables)
    session.add(made)
    mapper.class_manager.dispatch.load(own, None)
    return made
