"""What a transaction has published, as events: decoded as handlers get them, each once whoever wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from sqlalchemy import Connection, Select, Text, inspect, select
from sqlalchemy import cast as as_type
from sqlalchemy.exc import ArgumentError, InvalidRequestError
from sqlalchemy.orm import Mapper, class_mapper

from sqla_pubsub.contract.attributes import local_table
from sqla_pubsub.contract.envelope import CLAIMED_COLUMNS, Entry
from sqla_pubsub.contract.names import MESSAGE
from sqla_pubsub.contract.quoting import qualified
from sqla_pubsub.deliver.handle.chain import context_of
from sqla_pubsub.deliver.handle.decoding import RowDecoder
from sqla_pubsub.deliver.handle.invocation import read_message
from sqla_pubsub.deliver.handle.mapped import top_of
from sqla_pubsub.deliver.io.place import find_place
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.event import EVENT_TYPES, Event
from sqla_pubsub.message import Message
from sqla_pubsub.registry import Registry, Subscription, registry_of
from sqla_pubsub.testing.history import is_kept, kept
from sqla_pubsub.testing.transaction import Declared

SPY = "pubsub_spy"
"""The listener of `sqla_pubsub.testing.spy`."""
OPERATIONS = ("insert", "update", "delete", "truncate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What is asked for: the model or message, and where it is published.

    Attributes:
        model: The class.
        mapper: Its mapper, None for a message.
        source: What entries call it.
        registry: Where it is declared.
    """

    model: type[Any]
    mapper: Mapper[Any] | None
    source: str
    registry: Registry

    @property
    def name(self) -> str:
        """As its author calls it."""
        return self.model.__qualname__.rpartition(".")[2]

    @property
    def attributes(self) -> list[str]:
        """Of the class, those that may travel."""
        if self.mapper is None:
            return [field.name for field in fields(self.model)]
        return [attribute.key for attribute in self.mapper.column_attrs]

    def declared(self, connection: Connection) -> Declared:
        """Return where its outbox is."""
        return Declared(registry=self.registry, place=find_place(connection, self.registry.outbox))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One event.

    Attributes:
        event: As a handler gets it.
        listeners: Who gets it.
    """

    event: Event[Any]
    listeners: tuple[str, ...]


def topic_of(model: Any, function: str) -> Topic:
    """Return what a test asks for.

    Raises:
        ConfigurationError: It is neither a model that publishes nor a message.
    """
    if isinstance(model, type) and issubclass(model, Message):
        metadata = model.__message_metadata__
        return Topic(model=model, mapper=None, source=model.__message_name__, registry=registry_of(metadata))
    try:
        mapper: Mapper[Any] = class_mapper(model)
    except (ArgumentError, InvalidRequestError, TypeError) as error:
        raise ConfigurationError(f"{function}() got {model!r}. Give a model or a Message class.") from error
    table = local_table(mapper)
    registry = registry_of(table.metadata)
    if table not in registry.published:
        raise ConfigurationError(
            f"model {model.__qualname__} does not publish its changes. "
            f"Add the mixin: class {model.__name__}(PubSub, ...)."
        )
    return Topic(model=model, mapper=mapper, source=table.fullname, registry=registry)


def events_of(connection: Connection, topic: Topic, listener: str | None = None) -> list[Seen]:
    """Return all that was published of a topic, in order; only to one *listener* where that is given."""
    stored = _each_once(_rows(connection, topic, listener))
    events = _decoded(connection, topic, [entry for _, entry in stored])
    found = [
        Seen(event=_event(entry, names[0], *rows), listeners=names)
        for (names, entry), rows in zip(stored, events, strict=True)
    ]
    return [each for each in found if topic.mapper is None or _is_of_class(each.event, topic.model)]


def values_of(instance: object) -> dict[str, Any]:
    """Return what a row or a message has, by attribute."""
    if isinstance(instance, Message):
        return {field.name: getattr(instance, field.name) for field in fields(cast("Any", instance))}
    state: Any = inspect(instance)
    return {key: state.dict[key] for key in state.mapper.column_attrs.keys() if key in state.dict}  # noqa: SIM118


def _rows(connection: Connection, topic: Topic, listener: str | None) -> list[tuple[str, Entry]]:
    """Return entries, with their listeners: those that wait, and those that were handled in this transaction."""
    place = topic.declared(connection).place
    copies = kept()
    asked = [_selected(place.entry, topic, listener)]
    if is_kept(connection):
        outbox = qualified(place.entry.schema, place.entry.name)
        asked.append(_selected(copies, topic, listener).where(copies.c.outbox == outbox))
    found = {row.id: row for each in asked for row in connection.execute(each)}
    return [(row.listener, Entry(*row[1:])) for _, row in sorted(found.items())]


def _selected(table: Any, topic: Topic, listener: str | None) -> Select[Any]:
    c = table.c
    text = {"old": Text, "new": Text, "context": Text}
    columns = (
        as_type(c[name], text[name]).label(name) if name in text else c[name] for name in CLAIMED_COLUMNS
    )
    message = c.operation == MESSAGE
    found = select(c.listener, *columns).where(
        c.source == topic.source, message if topic.mapper is None else ~message
    )
    return found if listener is None else found.where(c.listener == listener)


def _each_once(rows: Sequence[tuple[str, Entry]]) -> list[tuple[tuple[str, ...], Entry]]:
    """Return each event once, with who gets it: every listener has an entry of its own, of equal content."""
    contents: dict[tuple[Any, ...], dict[str, list[Entry]]] = {}
    for listener, entry in rows:
        content = entry.operation, entry.old, entry.new, entry.context
        contents.setdefault(content, {}).setdefault(listener, []).append(entry)
    events = []
    for of_listener in contents.values():
        for number in range(max(map(len, of_listener.values()))):
            names = sorted(
                (name for name, each in of_listener.items() if len(each) > number), key=_last_spies
            )
            events.append((tuple(names), of_listener[names[0]][number]))
    return sorted(events, key=lambda event: event[1].id)


def _last_spies(listener: str) -> tuple[bool, str]:
    return listener == SPY, listener


def _decoded(connection: Connection, topic: Topic, entries: Sequence[Entry]) -> list[tuple[Any, Any, Any]]:
    """Return old, new and changed of each entry."""
    if topic.mapper is None:
        [subscription] = [Subscription(operation=MESSAGE, source=topic.source, message=topic.model)]
        return [(None, read_message(entry, subscription), ()) for entry in entries]
    top = top_of(topic.mapper)
    decoder = RowDecoder(top, topic.registry.published[local_table(top)])
    sides = [(number, side) for number, entry in enumerate(entries) for side in ("old", "new")]
    there = {place: payload for place in sides if (payload := getattr(entries[place[0]], place[1]))}
    with connection.begin_nested():
        values = dict(
            zip(there, decoder.decode(connection, list(there.values())) if there else (), strict=True)
        )
    found = []
    for number, entry in enumerate(entries):
        old, new = (
            decoder.hydrate(values[place], there[place]) if place in there else None
            for place in ((number, "old"), (number, "new"))
        )
        changed: tuple[str, ...] = ()
        if entry.old is not None and entry.new is not None:
            changed = decoder.changed(entry.old, entry.new, values[number, "new"])
        found.append((old, new, changed))
    return found


def _event(entry: Entry, listener: str, old: Any, new: Any, changed: tuple[str, ...]) -> Event[Any]:
    return EVENT_TYPES[entry.operation](
        id=entry.id, listener=listener, occurred_at=entry.occurred_at, old=old, new=new, changed=changed,
        context=context_of(entry), attempt=entry.attempt + 1,
    )  # fmt: skip


def _is_of_class(event: Event[Any], model: type[Any]) -> bool:
    rows = [row for row in (event.old, event.new) if row is not None]
    return not rows or any(isinstance(row, model) for row in rows)
