"""What is sent of entries: the rows as they were stored, or what the handler makes of them.

A handler works in a transaction that may only read, and that is undone: it may be called again for the same event, and what
it wrote would be written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import msgspec
from msgspec.structs import replace

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.relay.messages import Body, encoded, row_of
from sqla_pubsub.deliver.relay.statements import RelayStatements
from sqla_pubsub.deliver.run.event import UNREADABLE, EventRunner, acknowledged, interrupted
from sqla_pubsub.deliver.run.result import Again, Broken, Unrecorded
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Outcome, is_denied
from sqla_pubsub.errors import TransactionEnded, UnreadableEntry


class Row(msgspec.Struct, frozen=True):
    """A claimed entry, the key of its row as JSON text, and its lane. A struct, as all of which there is one an event."""

    entry: Entry
    key: str | None
    lane: int


@dataclass(slots=True)
class Made:
    """What became of entries.

    Attributes:
        bodies: By id: what is sent; the outcome of what is not; None for what is to be tried again at once.
        unrecorded: The failure of the one that broke the connection.
        error: What broke it.
    """

    bodies: dict[int, Body | Outcome | None] = field(default_factory=dict)
    unrecorded: tuple[Unrecorded, ...] = ()
    error: BaseException | None = None


class Bodies:
    """Makes what is sent.

    Args:
        events: Calls the handler, and judges failures.
        unknown: Tells what this worker does not know.
    """

    def __init__(self, events: EventRunner, unknown: Unknown) -> None:
        self._events = events
        self._unknown = unknown
        self._forward = events.spec.forward

    def read(self, store: Store, rows: Sequence[Row], statements: RelayStatements, most: int) -> list[Row]:
        """Return the first of *rows* that have room, with the payloads that did not travel with the claim."""
        kept, room = list[Row](), most
        for row in rows:
            room -= row.entry.large or 0
            if room < 0 and kept:
                break
            kept.append(row)
        large = [row.entry for row in kept if row.entry.large is not None]
        if not large:
            return kept
        if not self._forward:
            read = {entry.id: entry for entry in store.claims.payloads.read(large, most)}
        else:
            texts = store.connection.execute(statements.whole, {"ids": [entry.id for entry in large]})
            whole = {row[0]: row[1:] for row in texts}
            read = {
                entry.id: replace(entry, old=old, new=new, context=context, large=None)
                for entry in large
                if entry.id in whole
                for old, new, context in [whole[entry.id]]
            }
        return [
            row if row.entry.large is None else replace(row, entry=read[row.entry.id])
            for row in kept
            if row.entry.large is None or row.entry.id in read
        ]

    def of(self, store: Store, rows: Sequence[Row]) -> Made:
        """Return what is sent of each."""
        if self._forward:
            return Made({row.entry.id: row_of(row.entry) for row in rows})
        made = Made()
        entries = self._known(store, [row.entry for row in rows], made)
        for entry, decoded in self._decoded(store, entries, made):
            self._make(store, entry, decoded, made)
            if made.error is not None:
                break
        return made

    def _known(self, store: Store, entries: list[Entry], made: Made) -> list[Entry]:
        """Put off what this worker does not know, for a newer one; what nobody has known for long fails later."""
        known, expired = self._unknown.sift(store.connection, entries)
        kept = {entry.id for entry in (*known, *expired)}
        for entry in entries:
            if entry.id not in kept:
                what = UnreadableEntry(
                    f"outbox entry {entry.id} for {self._events.spec.name!r} is {entry.operation} of {entry.source!r}, "
                    "which this worker does not know"
                )
                made.bodies[entry.id] = self._events.policy.put_off(entry, what)
        return [entry for entry in entries if entry.id in kept]

    def _decoded(self, store: Store, entries: list[Entry], made: Made) -> list[tuple[Entry, Decoded]]:
        try:
            with store.connection.begin_nested():
                decoded = self._events.dispatcher.entries.decode(store.claims.payloads, entries)
            return [(entry, decoded) for entry in entries]
        except UNREADABLE as error:
            if store.lost or is_denied(error):
                raise
        found = list[tuple[Entry, Decoded]]()
        for entry in entries:
            read = self._events.decode_one(store, entry)
            if isinstance(read, tuple):
                found.append(read)
            elif isinstance(read, Broken):
                made.unrecorded, made.error = (read.failure,), read.cause
                return []
            else:
                made.bodies[entry.id] = read
        return found

    def _make(self, store: Store, entry: Entry, decoded: Decoded, made: Made) -> None:
        began = perf_counter()
        try:
            value = self._events.hand_over(store, [entry], decoded)
            made.bodies[entry.id] = (
                acknowledged(entry, began) if value is None else encoded(value, self._events.spec.name)
            )
        except Exception as error:
            if store.spoilt or store.lost or isinstance(error, TransactionEnded) or not store.intact:
                broken = interrupted(store, entry, error)
                store.close()
                made.unrecorded, made.error = (broken.failure,), error
                return
            outcome = self._events.failed(entry, error, perf_counter() - began)
            made.bodies[entry.id] = None if isinstance(outcome, Again) else outcome
