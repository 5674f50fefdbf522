"""The rows of events in the sessions of handlers.

A session knows one object of a row, and the state at the event wins over what the session has of it. Yet
nothing that a handler did may be lost by that. What the handler loaded by itself stays in the session and
takes over the values of the event, except those that the handler has changed. The row of an earlier event of
a batch makes room for the next one, and is back in its turn if the handler changes it or names it later.

Most handlers ask the session for nothing. So a row only knows its session at first, and becomes one of its objects
when somebody looks for those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import MANYTOONE, InstanceState, Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value
from sqlalchemy.orm.identity import IdentityMap

from sqla_pubsub.deliver.handle.hydrating import is_heard

_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Displaced:
    """The row of an event that made room for a later one.

    Attributes:
        row: The object.
        deleted: Whether it was about to be deleted.
        new: Objects that were about to be written together with it.
    """

    row: object
    deleted: bool
    new: tuple[object, ...]


class _WithWaiting:
    """The objects of a session while rows wait, when it has none of its own: who looks for them finds the rows too."""

    def __get__(self, session: Any, _: object) -> Any:
        return self if session is None else session._attach_waiting()


class RowSession(Session):
    """A session to which the rows of events belong."""

    identity_map: Any = _WithWaiting()
    _adds_as_sqlalchemy = True
    """Whether the application's class has no say in what is added and taken out."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        behind: Any = super()
        cls._adds_as_sqlalchemy = behind.add is Session.add and behind.expunge_all is Session.expunge_all

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._waiting: dict[_Key, InstanceState[Any]] = {}
        """Rows that know the session, and are not among its objects yet."""
        self._objects: IdentityMap
        """These, while rows wait."""
        self._rows: list[object] = []
        """Objects given to the handler as the row of an event."""
        self._displaced: list[_Displaced] = []

    @property
    def bind(self) -> Engine | Connection:
        """The connection, for who does not ask `get_bind`."""
        return self.get_bind()

    @bind.setter
    def bind(self, _: object) -> None: ...

    def show(self, instance: Any) -> Any:
        """Take over the row of an event; return the object that stands for it, which may be another one."""
        state = instance_state(instance)
        key = state.key
        known = None
        if key is not None and (self._present or key in self._waiting):
            known = self.identity_map.get(key)
        if known is None:
            if self._displaced:
                self._take_back([instance])
            if key is not None and self._is_unheard(state):
                self._let_wait(key, state)
            else:
                super().add(instance)
        elif type(known) is type(instance) and not _is_among(known, self._rows):
            self._overlay(known, instance)
            instance = known
        else:
            if self.autoflush:
                self.flush()
            self._displace(instance)
            super().add(instance)
        self._rows.append(instance)
        return instance

    def add(self, instance: object, *arguments: Any, **options: Any) -> None:
        """Add an object, and take back what it refers to."""
        self._take_back([instance])
        super().add(instance, *arguments, **options)

    def add_all(self, instances: Iterable[object]) -> None:
        """Add objects, and take back what they refer to."""
        instances = list(instances)
        self._take_back(instances)
        super().add_all(instances)

    def delete(self, instance: object) -> None:
        """Mark an object as deleted, also one that made room for a later event."""
        self._take_back([instance])
        super().delete(instance)

    def refresh(self, instance: object, *arguments: Any, **options: Any) -> None:
        """Read the current row, also for what made room for a later event."""
        self._take_back([instance])
        super().refresh(instance, *arguments, **options)

    def _write_displaced(self) -> None:
        """Write what a handler did to rows that had made room, in the order of their events."""
        displaced, self._displaced = self._displaced, []
        for each in displaced:
            if each.deleted or each.new or self._is_changed(each.row):
                present = self._displace(each.row)
                self._put_back(each)
                self.flush()
                if present is not None and not each.deleted:
                    self._displace(present.row)
                    self._put_back(present)
        self._displaced.clear()

    def _is_unheard(self, state: InstanceState[Any]) -> bool:
        """Whether nobody hears of a row that comes into the session and leaves it, or has a say in it."""
        heard = self.dispatch
        return (
            self._adds_as_sqlalchemy
            and not (heard.before_attach or heard.after_attach)
            and not (heard.detached_to_persistent or heard.persistent_to_detached)
            and not is_heard(state.mapper)
        )

    @property
    def _present(self) -> IdentityMap:
        """The objects of the session, without the rows that wait."""
        return self._objects if self._waiting else self.identity_map

    def _let_wait(self, key: _Key, state: InstanceState[Any]) -> None:
        if not self._waiting:
            self._objects = self.__dict__.pop("identity_map")
        self._waiting[key] = state
        state.session_id = self.hash_key

    def _attach_waiting(self) -> IdentityMap:
        """Make objects of the session of rows that nobody hears of: this is all that there is to it."""
        waiting, self._waiting = self._waiting, {}
        self.identity_map = self._objects
        if not self.in_transaction():
            self._autobegin_t()
        for state in waiting.values():
            self.identity_map.add(state)
        return self._present

    def _added(self) -> Collection[object] | None:
        """Return the new objects, None where the session has more to write than these."""
        for state in self._waiting.values():
            if state.modified:
                return None
        if self._present.check_modified() or self._deleted:
            return None
        return self._new.values()

    def _empty(self) -> None:
        """Take everything out of the session."""
        self._forget_rows()
        if self.identity_map or self._new:
            self.expunge_all()

    def _forget_rows(self) -> None:
        if self._waiting:
            for state in self._waiting.values():
                state.session_id = None
            self._waiting.clear()
            self.identity_map = self._objects
        self._rows.clear()
        self._displaced.clear()

    def _take_back(self, instances: Iterable[object]) -> None:
        """Put displaced rows that are reachable from *instances* back into the session."""
        if not self._displaced:
            return
        wanted = [each for instance in instances for each in _reachable(instance)]
        for each in [each for each in self._displaced if _is_among(each.row, wanted)]:
            if self.autoflush:
                self.flush()
            self._displace(each.row)
            self._displaced.remove(each)
            self._put_back(each)

    def _displace(self, instance: object) -> _Displaced | None:
        """Take what stands for the row of *instance* out of the session, and with it what depends on it."""
        key = instance_state(instance).key
        known: object | None = None if key is None else self.identity_map.get(key)
        if known is None or known is instance:
            return None
        dependent = list(_reachable(known))
        new = tuple(
            each for each in self.new if _is_among(each, dependent) or _is_among(known, _reachable(each))
        )
        displaced = _Displaced(row=known, deleted=known in self.deleted, new=new)
        self._displaced.append(displaced)
        self.expunge(known)
        for each in new:
            if each in self:
                self.expunge(each)
        return displaced

    def _put_back(self, displaced: _Displaced) -> None:
        super().add(displaced.row)
        super().add_all(displaced.new)
        if displaced.deleted:
            super().delete(displaced.row)

    def _is_changed(self, row: object) -> bool:
        outside = (instance_state(each) for each in _reachable(row) if each not in self)
        return any(state.key is None or state.modified for state in outside)

    def _overlay(self, known: Any, instance: Any) -> None:
        """Give an object of the handler's own the values of the event, where it has not changed them."""
        state, values = instance_state(known), instance_state(instance).dict
        columns = set(state.mapper.column_attrs.keys())
        taken = [key for key in values if key in columns and key not in state.committed_state]
        differ = {key for key in taken if key not in state.dict or state.dict[key] is not values[key]}
        for key in taken:
            set_committed_value(known, key, values[key])
        stale = [
            relation.key
            for relation in state.mapper.relationships
            if relation.direction is MANYTOONE
            and relation.key in state.dict
            and relation.key not in state.committed_state
            and differ & {state.mapper.get_property_by_column(c).key for c in relation.local_columns}
        ]
        if stale:
            self.expire(known, stale)
        # The event that MutableDict and composites rely on.
        state.mapper.class_manager.dispatch.refresh(state, None, taken)


def _is_among(instance: object, others: Iterable[object]) -> bool:
    """Whether it is one of them, whatever equality a model defines."""
    return any(instance is other for other in others)


def _reachable(instance: object) -> Iterator[object]:
    """Yield an object and those that go into a session with it."""
    yield instance
    state = instance_state(instance)
    for each, *_ in state.mapper.cascade_iterator("save-update", state):
        yield each
