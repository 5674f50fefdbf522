"""One event, one call of the handler, one outcome.

Parameters are filled by name. The session is made when the handler asks for it, and opens its
savepoint when it is first used, so that a handler which never touches the database pays for neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.current import NO_CONTEXT, CurrentEvent, current_event
from sqla_pubsub.deliver.handle.chain import Chain, context_of, contexts_of, deepest, extended
from sqla_pubsub.deliver.handle.colour import Colour
from sqla_pubsub.deliver.handle.entry_decoding import Decoded, EntryDecoder
from sqla_pubsub.deliver.handle.related import Related
from sqla_pubsub.deliver.handle.routes import Routes
from sqla_pubsub.deliver.handle.rows import RowSession
from sqla_pubsub.deliver.handle.session import HandlerSession
from sqla_pubsub.deliver.handle.transaction import EventTransaction
from sqla_pubsub.deliver.happenings import Chained
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.errors import Reject, UnreadableEntry
from sqla_pubsub.event import EVENT_TYPES, Event
from sqla_pubsub.message import decoder
from sqla_pubsub.registry import ListenerSpec, Registry, Subscription

WARN_AT = 10
"""Handlers in a chain from which on the log says so, and again at ten times as many."""


class Dispatcher:
    """Calls the handler of one listener.

    Args:
        spec: The listener.
        registry: Where it is declared.
        instrument: Is told of long chains.
        max_depth: Handlers in a chain at most; None for any number.
        colour: How its handler is called.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        registry: Registry,
        instrument: Instrument,
        max_depth: int | None,
        colour: Colour,
    ) -> None:
        self._instrument = instrument
        self.colour = colour
        self._spec = spec
        self._max_depth = max_depth
        self._warned_at = 0
        self._first = Chain().then(spec.name).setting
        """The context after an event that no handler has caused, as most are."""
        self.routes = Routes(spec, registry)
        """What each entry is, for this listener."""
        self.entries = EntryDecoder(spec, self.routes)
        """Turns payloads into values."""

    def handle(self, entries: Sequence[Entry], decoded: Decoded, store: EventTransaction) -> Any:
        """Call the handler for one event, or for a whole batch, and return what it returned.

        What it raises comes out, its work undone.
        """
        context, guard = self._context_after(entries), store.guard
        known: HandlerSession | None = None

        def session() -> HandlerSession:
            nonlocal known
            if known is None:
                known = store.session()
                known.chain, known.passed_on = context, shown.passed_on
            return known

        call = _Call(self, entries, decoded, session)
        related, shown = decoded.related, self._shown(entries)
        token = current_event.set(shown)
        try:
            if related is not None:
                _watch(related, entries[0], store)
            guard.watching = True
            arguments = call.arguments(self._spec.parameters)
            guard.on = True
            try:
                returned = self.colour.call(self._spec, arguments)
            finally:
                guard.on = False
            if related is not None:
                related.left(store.session())
            store.finish_event(entries[0].id)
            return returned
        except BaseException as error:
            if not self.colour.is_stuck(error):
                store.undo_event()
            raise
        finally:
            guard.watching = False
            current_event.reset(token)

    def handle_outside(
        self,
        entry: Entry,
        decoded: Decoded,
        connect: Callable[[str], Connection],
        *,
        lent: bool = False,
    ) -> None:
        """Call the handler with a session that commits by itself.

        Args:
            entry: The event.
            decoded: Its rows.
            connect: Returns the connection of the session, in a context.
            lent: Whether that is a borrowed one.
        """
        surroundings = self.colour.surroundings
        context, shown = self._context_after([entry]), self._shown([entry])

        def connected() -> Connection:
            return connect(extended(context, shown.passed_on))

        session = surroundings.outside(connected, lent=lent, **surroundings.options)
        token = current_event.set(shown)
        try:
            arguments = _Call(self, [entry], decoded, lambda: session).arguments(self._spec.parameters)
            self.colour.call(self._spec, arguments)
            session.finish()
        except BaseException as error:
            if not self.colour.is_stuck(error):
                session.undo()
            raise
        finally:
            current_event.reset(token)

    def _shown(self, entries: Sequence[Entry]) -> CurrentEvent:
        """Return what is to be known of these events while they are handled."""
        first = entries[0]
        ids = (first.id,) if len(entries) == 1 else tuple(entry.id for entry in entries)
        context = NO_CONTEXT if first.context is None else context_of(first) or NO_CONTEXT
        contexts = contexts_of(entries) if len(entries) > 1 else (context,) if context else ()
        return CurrentEvent(
            self._spec.name, first.id, first.attempt + 1, first.operation, first.source, ids, context,
            contexts, first.occurred_at, {},
        )  # fmt: skip

    def _context_after(self, entries: Sequence[Entry]) -> str:
        """Return the context of what the handler will write: the chain of handlers with this one.

        Raises:
            Reject: That of an event is longer than allowed.
        """
        if len(entries) == 1 and entries[0].context is None:
            return self._first
        chain = deepest(entries)
        name = self._spec.name
        if self._max_depth is not None and chain.depth > self._max_depth:
            raise Reject(
                f"the event came about by a chain of {chain.depth} handlers, and max_depth is {self._max_depth}: "
                f"{', '.join(map(repr, chain.names))}, and now {name!r}. "
                "A listener that changes what it listens to calls itself: "
                "let it change only what is not right yet, or narrow it with of= or when=."
            )
        if chain.depth >= max(WARN_AT, 10 * self._warned_at):
            self._warned_at = chain.depth
            self._instrument(
                Chained(listener=name, entry=entries[0].id, depth=chain.depth, names=chain.names)
            )
        return chain.then(name).setting

    def event(self, entry: Entry, load: Callable[[str], Any]) -> Event[Any]:
        """Build the event of *entry*; *load* hydrates its rows when they are looked at."""
        return EVENT_TYPES[entry.operation](
            id=entry.id,
            listener=self._spec.name,
            occurred_at=entry.occurred_at,
            context=context_of(entry),
            attempt=entry.attempt + 1,
            load=load,
        )

    def message(self, entry: Entry) -> Any:
        """Return the message of an entry.

        Raises:
            UnreadableEntry: The stored payload does not have the fields of the class.
        """
        return read_message(entry, self.routes.of(entry)[0])


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
        if "event" in parameters or "context" in parameters:
            event = self._event(entry)
            load: Callable[[str], Any] = event.__getattribute__
        else:
            load = partial(self._load, entry)
        for name in parameters:
            match name:
                case "event":
                    filled[name] = event
                case "events":
                    filled[name] = list(map(self._event, self._entries))
                case "session":
                    filled[name] = self._session()
                case _:
                    filled[name] = load(name)
        return filled

    def _event(self, entry: Entry) -> Event[Any]:
        return self._dispatcher.event(entry, partial(self._load, entry))

    def _load(self, entry: Entry, name: str) -> Any:
        if name == "changed":
            return self._changed(entry)
        payload: str | None = getattr(entry, name)
        if payload is None:
            return None
        if (entry.id, name) not in self._decoded:
            return self._dispatcher.message(entry)
        rows, values = self._decoded[entry.id, name]
        if isinstance(values, UnreadableEntry):
            raise values
        try:
            instance = rows.hydrate(values, payload)
        except UnreadableEntry as error:
            raise self._dispatcher.entries.unreadable(entry, error) from error
        if name == "new" or entry.operation == "DELETE":
            instance = self._session().show(instance)
        if self._decoded.related is not None:
            self._decoded.related.attach(instance, (entry.id, name), self._session())
        return instance

    def _changed(self, entry: Entry) -> tuple[str, ...]:
        if entry.old is None or entry.new is None or (entry.id, "new") not in self._decoded:
            return ()
        rows, values = self._decoded[entry.id, "new"]
        try:
            return rows.changed(entry.old, entry.new, None if isinstance(values, UnreadableEntry) else values)
        except UnreadableEntry as error:
            raise self._dispatcher.entries.unreadable(entry, error) from error


def _watch(related: Related, entry: Entry, store: EventTransaction) -> None:
    """See that what the event refers to is as the handlers before it have left it."""
    if related.stale:
        store.session().settle_down()
        related.renew(store.connection, entry.id)
    store.watch(related.sent)


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
