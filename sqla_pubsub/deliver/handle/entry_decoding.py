"""Payloads of entries become values: a group with one statement per class, or one entry by itself.

A group is decoded with few statements, of which one bad payload undoes all. By itself, an entry whose payload cannot
be read is an error only for a handler that looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.claim.payloads import Payloads
from sqla_pubsub.deliver.handle.decoding import RowDecoder, Values
from sqla_pubsub.deliver.handle.related import Key, Related, Row
from sqla_pubsub.deliver.handle.routes import Routes
from sqla_pubsub.deliver.settle.outcome import describe, is_unreadable
from sqla_pubsub.errors import UnreadableEntry, UnreadablePayload
from sqla_pubsub.registry import ListenerSpec


class Decoded(dict[tuple[int, str], tuple[RowDecoder, Values | UnreadableEntry]]):
    """(entry id, side) -> what makes an instance of the row, and its values or why it has none."""

    related: Related | None = None
    """What the rows refer to, where the listener has asked for it."""


class EntryDecoder:
    """Decodes the entries of one listener.

    Args:
        spec: The listener.
        routes: What each entry is, for it.
    """

    def __init__(self, spec: ListenerSpec, routes: Routes) -> None:
        self._name = spec.name
        self._routes = routes
        asked = spec.parameters
        both = "event" in asked or "events" in asked
        self._sides = tuple(side for side in ("old", "new") if both or side in asked)

    def rows(self, entry: Entry) -> RowDecoder | None:
        """Return the decoder of an entry's rows, None for a message."""
        route = self._routes.declared.get((entry.operation, entry.source, entry.format))
        return (self._routes.of(entry) if route is None else route)[1]

    def decode(self, payloads: Payloads, entries: Sequence[Entry]) -> Decoded:
        """Turn the payloads of a group into values, with one statement per class.

        Those that are large are decoded where they stand, by one statement per side.

        Raises:
            UnreadableEntry: An entry of an operation or a table that this listener does not know.
            DBAPIError: A payload cannot be read; the transaction is aborted then.
            LoadFailed: What the listener wants loaded with the rows cannot be read; the same is true.
        """
        decoded = Decoded()
        wanted: dict[tuple[RowDecoder, str | None], list[tuple[tuple[int, str], str]]] = {}
        for entry in entries:
            rows = self.rows(entry)
            if rows is None:
                # A message is read when the handler looks.
                continue
            for side in self._sides:
                payload: str | None = getattr(entry, side)
                if payload is not None:
                    stored = None if entry.large is None else side
                    wanted.setdefault((rows, stored), []).append(((entry.id, side), payload))
        for (row_decoder, stored), items in wanted.items():
            values = (
                row_decoder.decode(payloads.connection, [payload for _, payload in items])
                if stored is None
                else row_decoder.decode_stored(payloads, stored, [entry_id for (entry_id, _), _ in items])
            )
            if len(values) != len(items):
                raise UnreadablePayload(
                    f"{len(items)} payloads gave {len(values)} rows: one of them is no JSON object."
                )
            decoded.update((key, (row_decoder, each)) for (key, _), each in zip(items, values, strict=True))
        if self._routes.eager:
            decoded.related = self._related(entries, decoded)
            decoded.related.load(payloads.connection)
        return decoded

    def decode_alone(self, payloads: Payloads, entry: Entry) -> tuple[Entry, Decoded]:
        """Turn the payloads of one entry into values; what cannot be read is an error when the handler looks.

        Returned is also the entry, with what was to be read of it.

        Raises:
            UnreadableEntry: The entry is of an operation or a table that this listener does not know.
            DBAPIError: The failure is not the payload's.
        """
        rows, decoded = self.rows(entry), Decoded()
        entry = self._read_alone(payloads, entry)
        for side in self._sides if rows is not None else ():
            payload: str | None = getattr(entry, side)
            if payload is not None:
                assert rows is not None
                decoded[entry.id, side] = rows, self._read(payloads, entry, rows, side)
        if self._routes.eager:
            decoded.related = self._related([entry], decoded)
            decoded.related.load_alone(payloads.connection, entry.id)
        return entry, decoded

    def _related(self, entries: Sequence[Entry], decoded: Decoded) -> Related:
        return Related(self._name, dict(self._rows_with_relations(entries, decoded)))

    def _rows_with_relations(self, entries: Sequence[Entry], decoded: Decoded) -> Iterator[tuple[Key, Row]]:
        for entry in entries:
            for side in self._sides:
                if (entry.id, side) not in decoded:
                    continue
                rows, values = decoded[entry.id, side]
                load = self._routes.eager.get(rows)
                if load is not None and not isinstance(values, UnreadableEntry):
                    yield (entry.id, side), (load, partial(rows.hydrate, values, getattr(entry, side)))

    def _read_alone(self, payloads: Payloads, entry: Entry) -> Entry:
        if entry.large is None:
            return entry
        try:
            with payloads.connection.begin_nested():
                read = payloads.read([entry])
        except (UnicodeError, DBAPIError) as error:
            if _is_lost(payloads.connection) or not is_unreadable(error):
                raise
            # A handler that looks at no row does not mind.
            read = payloads.read([entry], digests=False)
        if not read:
            raise UnreadableEntry(f"outbox entry {entry.id} for {self._name!r} was deleted meanwhile.")
        return read[0]

    def _read(
        self, payloads: Payloads, entry: Entry, rows: RowDecoder, side: str
    ) -> Values | UnreadableEntry:
        connection = payloads.connection
        for plain in (False, True):
            try:
                with connection.begin_nested():
                    values = (
                        rows.decode(connection, [getattr(entry, side)], plain=plain)
                        if entry.large is None
                        else rows.decode_stored(payloads, side, [entry.id], plain=plain)
                    )
                if len(values) == 1:
                    return values[0]
                error: Exception = UnreadablePayload(
                    f"a payload gave {len(values)} rows: it is no JSON object."
                )
            except (UnreadableEntry, DBAPIError) as raised:
                if _is_lost(connection) or not is_unreadable(raised):
                    raise
                error = raised
        return self.unreadable(entry, error)

    def unreadable(self, entry: Entry, error: Exception) -> UnreadableEntry:
        """Return what a handler gets that looks at what cannot be read."""
        reason = describe(error).removeprefix(f"{UnreadablePayload.__name__}: ")
        return UnreadableEntry(f"outbox entry {entry.id} for {self._name!r} cannot be read: {reason}")


def _is_lost(connection: Connection) -> bool:
    """Whether nothing more can be asked on *connection*."""
    return connection.closed or connection.invalidated
