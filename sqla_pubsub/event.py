"""The events a handler receives.

An event of a listener is decoded when it is first looked at: `old` and `new` cost nothing to a
handler that never reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar, cast

from sqla_pubsub.contract.names import MESSAGE

M_co = TypeVar("M_co", covariant=True)
_Loader = Callable[[str], Any]


class Event(Generic[M_co]):
    """What happened, as one listener sees it.

    Attributes:
        id: Identity of this delivery; the same in every attempt and in the dead letters. Use it as
            the idempotency key of effects outside the database.
        listener: Durable name of the listener.
        old: The row before the change, or None.
        new: The row after the change, or None. A message event carries the message.
        changed: Names of the attributes whose values differ, in table order.
        context: What `set_context` left in the transaction.
        occurred_at: When the statement ran, on the database's clock.
        attempt: This try, counted from 1.
    """

    operation: ClassVar[str]
    __slots__ = ("_load", "_values", "attempt", "context", "id", "listener", "occurred_at")

    def __init__(
        self,
        *,
        id: int,  # noqa: A002
        listener: str,
        occurred_at: datetime,
        old: M_co | None = None,
        new: M_co | None = None,
        changed: tuple[str, ...] = (),
        context: Mapping[str, Any] | None = None,
        attempt: int = 1,
        load: _Loader | None = None,
    ) -> None:
        self.id = id
        self.listener = listener
        self.occurred_at = occurred_at
        self.context: Mapping[str, Any] = {} if context is None else context
        self.attempt = attempt
        self._values: dict[str, Any] = (
            {} if load is not None else {"old": old, "new": new, "changed": changed}
        )
        self._load = load

    @property
    def old(self) -> M_co:
        """The row before the change; None for inserts, truncates and messages."""
        return cast("M_co", self._value("old"))

    @property
    def new(self) -> M_co:
        """The row after the change, or the message; None for deletes and truncates."""
        return cast("M_co", self._value("new"))

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the attributes whose values differ; empty for anything but an update."""
        return cast("tuple[str, ...]", self._value("changed"))

    def _value(self, name: str) -> Any:
        if name not in self._values and self._load is not None:
            self._values[name] = self._load(name)
        return self._values[name]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} for {self.listener!r}, attempt {self.attempt}>"


class Insert(Event[M_co]):
    """A row was inserted."""

    operation = "INSERT"
    __slots__ = ()


class Update(Event[M_co]):
    """A row was changed."""

    operation = "UPDATE"
    __slots__ = ()


class Delete(Event[M_co]):
    """A row was deleted."""

    operation = "DELETE"
    __slots__ = ()


class Truncate(Event[M_co]):
    """The whole table was emptied; there are no rows to show."""

    operation = "TRUNCATE"
    __slots__ = ()


class MessageEvent(Event[M_co]):
    """A message was published."""

    operation = MESSAGE
    __slots__ = ()


EVENT_TYPES: dict[str, type[Event[Any]]] = {
    t.operation: t for t in (Insert, Update, Delete, Truncate, MessageEvent)
}
