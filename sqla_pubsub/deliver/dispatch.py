"""One event, one call of the handler, one outcome.

Parameters are filled by name. The session is made when the handler asks for it, and opens its
savepoint when it is first used, so that a handler which never touches the database pays for neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from sqla_pubsub.deliver.entry import Entry
from sqla_pubsub.deliver.payload import RowDecoder
from sqla_pubsub.deliver.rows import RowSession
from sqla_pubsub.deliver.session import OutsideSession
from sqla_pubsub.deliver.store import Store
from sqla_pubsub.errors import UnreadableEntry
from sqla_pubsub.event import EVENT_TYPES, Event
from sqla_pubsub.message import decoder
from sqla_pubsub.outbox import FORMAT
from sqla_pubsub.subscription import ListenerSpec, Registry, Subscription

Decoded = dict[tuple[int, str], tuple[Any, ...]]
"""(entry id, side) -> values of the row."""


class Dispatcher:
    """Calls the handler of one listener."""

    def __init__(self, spec: ListenerSpec, registry: Registry) -> None:
        self._spec = spec
        self._routes: dict[tuple[str, str], tuple[Subscription, RowDecoder | None]] = {}
        for subscription in spec.subscriptions:
            if subscription.mapper is None:
                self._routes[subscription.operation, subscription.source] = (subscription, None)
            else:
                base = _base(subscription.mapper)
                decoder = RowDecoder(base, registry.published[base.local_table])
                self._routes[subscription.operation, subscription.source] = (subscription, decoder)
        asked = spec.parameters
        both = "event" in asked or "events" in asked
        self._sides = tuple(side for side in ("old", "new") if both or side in asked)

    def decode(self, connection: Connection, entries: Sequence[Entry]) -> Decoded:
        """Turn the payloads of a group into values, with one statement per class.

        Raises:
            UnreadableEntry: An entry of an operation or a table that this listener does not know.
            DBAPIError: A payload cannot be read; the transaction is aborted then.
        """
        decoded: Decoded = {}
        wanted: dict[RowDecoder, list[tuple[tuple[int, str], str]]] = {}
        for entry in entries:
            subscription, rows = self._route(entry)
            if rows is None:
                decoded[entry.id, "new"] = (read_message(entry, subscription),)
                continue
            for side in self._sides:
                payload: str | None = getattr(entry, side)
                if payload is not None:
                    wanted.setdefault(rows, []).append(((entry.id, side), payload))
        for row_decoder, items in wanted.items():
            values = row_decoder.decode(connection, [payload for _, payload in items])
            if len(values) != len(items):
                raise UnreadableEntry(
                    f"{len(items)} payloads gave {len(values)} rows: one of them is no JSON object."
                )
            decoded.update(zip((key for key, _ in items), values, strict=True))
        return decoded

    def handle(self, entries: Sequence[Entry], decoded: Decoded, store: Store) -> None:
        """Call the handler for one event, or for a whole batch; what it raises comes out, its work undone."""
        call = _Call(self, entries, decoded, store.session)
        try:
            arguments = call.arguments(self._spec.parameters)
            store.guarded = True
            try:
                self._spec.handler(**arguments)
            finally:
                store.guarded = False
            store.finish_event(entries[0].id)
        except BaseException:
            store.undo_event()
            raise

    def handle_outside(self, entry: Entry, decoded: Decoded, connection: Connection) -> None:
        """Call the handler with a session on *connection*, which commits by itself."""
        session = OutsideSession(bind=connection, expire_on_commit=False)
        try:
            self._spec.handler(
                **_Call(self, [entry], decoded, lambda: session).arguments(self._spec.parameters)
            )
            session.finish()
        except BaseException:
            session.undo()
            raise

    def event(self, entry: Entry, load: Callable[[str], Any]) -> Event[Any]:
        """Build the event of *entry*; *load* hydrates its rows when they are looked at."""
        return EVENT_TYPES[entry.operation](
            id=entry.id,
            listener=self._spec.name,
            occurred_at=entry.occurred_at,
            context=None if entry.context is None else json.loads(entry.context),
            attempt=entry.attempt + 1,
            load=load,
        )

    def decoder(self, entry: Entry) -> RowDecoder | None:
        """Return the decoder of an entry's rows, None for a message."""
        return self._route(entry)[1]

    def _route(self, entry: Entry) -> tuple[Subscription, RowDecoder | None]:
        if entry.format > FORMAT:
            raise UnreadableEntry(
                f"outbox entry {entry.id} for {self._spec.name!r} has format {entry.format}, and this release reads "
                f"up to {FORMAT}. Upgrade sqla-pubsub where listeners run, then retry the dead letter."
            )
        route = self._routes.get((entry.operation, entry.source))
        if route is None:
            # The table was renamed since: with one candidate there is no doubt.
            candidates = [r for (operation, _), r in self._routes.items() if operation == entry.operation]
            if len(candidates) != 1:
                raise UnreadableEntry(
                    f"outbox entry {entry.id} for {self._spec.name!r} is {entry.operation} of {entry.source!r}, "
                    "to which the listener does not subscribe. It was written for an earlier version of it."
                )
            route = candidates[0]
        return route


class _Call:
    """One call of a handler: what it may ask for, made when it asks."""

    __slots__ = ("_decoded", "_dispatcher", "_entries", "_session")

    def __init__(
        self,
        dispatcher: Dispatcher,
        entries: Sequence[Entry],
        decoded: Decoded,
        session: Callable[[], RowSession],
    ) -> None:
        self._dispatcher = dispatcher
        self._entries = entries
        self._decoded = decoded
        self._session = session

    def arguments(self, parameters: frozenset[str]) -> dict[str, Any]:
        """Fill the handler's parameters by name."""
        filled: dict[str, Any] = {}
        entry = self._entries[0]
        load = self._loader(entry)
        if "event" in parameters or "context" in parameters:
            event = self._dispatcher.event(entry, load)
            load = event.__getattribute__
        for name in parameters:
            match name:
                case "event":
                    filled[name] = event
                case "events":
                    filled[name] = [
                        self._dispatcher.event(each, self._loader(each)) for each in self._entries
                    ]
                case "session":
                    filled[name] = self._session()
                case _:
                    filled[name] = load(name)
        return filled

    def _loader(self, entry: Entry) -> Callable[[str], Any]:
        def load(name: str) -> Any:
            rows = self._dispatcher.decoder(entry)
            if name == "changed":
                if rows is None or entry.old is None or entry.new is None:
                    return ()
                return rows.changed(entry.old, entry.new)
            payload: str | None = getattr(entry, name)
            if payload is None:
                return None
            if rows is None:
                return self._decoded[entry.id, name][0]
            instance = rows.hydrate(self._decoded[entry.id, name], payload)
            if name == "new" or entry.operation == "DELETE":
                return self._session().show(instance)
            return instance

        return load


def read_message(entry: Entry, subscription: Subscription) -> Any:
    """Return the message of *entry*.

    Raises:
        UnreadableEntry: The stored payload does not have the fields of the class.
    """
    assert subscription.message is not None
    try:
        return decoder(subscription.message).decode(entry.new or "null")
    except Exception as error:
        raise UnreadableEntry(
            f"outbox entry {entry.id} is no readable message {subscription.source!r}: {type(error).__name__}: {error}."
        ) from error


def _base(mapper: Any) -> Any:
    """Return the class at the top of the mapper's own table: single-table subclasses share its rows."""
    while mapper.inherits is not None and mapper.inherits.local_table is mapper.local_table:
        mapper = mapper.inherits
    return mapper
