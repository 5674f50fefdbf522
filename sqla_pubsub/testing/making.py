"""Events for calling a handler as the function that it is."""

from __future__ import annotations

import random
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import Connection, Text, func, literal, select
from sqlalchemy import cast as as_type

from sqla_pubsub.contract.attributes import columns_by_attribute, local_table
from sqla_pubsub.contract.names import MESSAGE
from sqla_pubsub.deliver.handle.decoding import RowDecoder
from sqla_pubsub.deliver.handle.mapped import top_of
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.event import EVENT_TYPES, Event
from sqla_pubsub.message import Message, decoder, encoded
from sqla_pubsub.testing.events import Topic, topic_of, values_of
from sqla_pubsub.testing.transaction import Caller, in_transaction

if TYPE_CHECKING:
    from sqla_pubsub.testing.transaction import AwaitedCaller

M = TypeVar("M")


@overload
def make_event(
    new: M | None = ...,
    /,
    *,
    old: M | None = ...,
    session: None = ...,
    context: Mapping[str, Any] | None = ...,
    attempt: int = ...,
    listener: str = ...,
    id: int | None = ...,
) -> Any: ...


@overload
def make_event(
    new: M | None = ...,
    /,
    *,
    old: M | None = ...,
    session: Caller,
    context: Mapping[str, Any] | None = ...,
    attempt: int = ...,
    listener: str = ...,
    id: int | None = ...,
) -> Any: ...


@overload
def make_event(
    new: M | None = ...,
    /,
    *,
    old: M | None = ...,
    session: AwaitedCaller,
    context: Mapping[str, Any] | None = ...,
    attempt: int = ...,
    listener: str = ...,
    id: int | None = ...,
) -> Coroutine[Any, Any, Any]: ...


def make_event(
    new: M | None = None,
    /,
    *,
    old: M | None = None,
    session: Caller | AwaitedCaller | None = None,
    context: Mapping[str, Any] | None = None,
    attempt: int = 1,
    listener: str = "handler",
    id: int | None = None,  # noqa: A002
) -> Any:
    """Return an event, as a handler gets it: an Insert of *new*, a Delete of *old*, an Update of both, or of a message.

    Args:
        new: A row, or a message. It needs no session, and gets none.
        old: The row before.
        session: Where the rows make the way of every event: to PostgreSQL's JSON and back, so that their types are
            exactly those that a handler gets. Of asyncio, the call is awaited. Without one the event has the objects
            as they are.
        context: That of the event.
        attempt: The try.
        listener: The name that the event has for it.
        id: Its identity; by default one of its own.

    Raises:
        ConfigurationError: Neither is given, the class does not publish, or both are of different classes.
    """
    given = new if new is not None else old
    if given is None:
        raise ConfigurationError(
            "make_event() got neither new nor old. Give the row: make_event(Comment(...))."
        )
    if new is not None and old is not None and type(new) is not type(old):
        raise ConfigurationError(
            f"make_event() got a {type(new).__name__} and, as old, a {type(old).__name__}. Give two of one class."
        )
    topic = topic_of(type(given), "make_event")

    def made(before: Any, after: Any) -> Event[Any]:
        return EVENT_TYPES[_operation(topic, new, old)](
            id=random.randrange(1, 2**31) if id is None else id, listener=listener, occurred_at=datetime.now(UTC),
            old=before, new=after, changed=_changed(topic, before, after), context=context, attempt=attempt,
        )  # fmt: skip

    if session is None:
        return made(old, new)

    def work(connection: Connection) -> Event[Any]:
        return made(*(None if row is None else _returned(connection, topic, row) for row in (old, new)))

    return in_transaction(session, "make_event", work, writes=False)


def _operation(topic: Topic, new: object, old: object) -> str:
    if topic.mapper is None:
        return MESSAGE
    if old is None:
        return "INSERT"
    return "DELETE" if new is None else "UPDATE"


def _changed(topic: Topic, before: Any, after: Any) -> tuple[str, ...]:
    if topic.mapper is None or before is None or after is None:
        return ()
    old, new = values_of(before), values_of(after)
    missing = object()
    return tuple(
        name
        for name in columns_by_attribute(topic.mapper)
        if (old.get(name, missing) is not new.get(name, missing)) and old.get(name) != new.get(name)
    )


def _returned(connection: Connection, topic: Topic, row: Any) -> Any:
    """Return what a handler gets of a row."""
    if isinstance(row, Message):
        return decoder(type(row)).decode(encoded(row))
    assert topic.mapper is not None
    values = values_of(row)
    columns = columns_by_attribute(topic.mapper)
    cells = (
        as_type(literal(values[name], column.type), column.type).label(column.name)
        for name, column in columns.items()
        if name in values
    )
    one = select(*cells).subquery("one")
    payload = connection.scalar(select(as_type(func.to_json(one.table_valued()), Text)))
    top = top_of(topic.mapper)
    rows = RowDecoder(top, topic.registry.published[local_table(top)])
    [decoded] = rows.decode(connection, [str(payload)])
    return rows.hydrate(decoded, str(payload))
