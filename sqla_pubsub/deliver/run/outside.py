"""What all runners of ``transactional=False`` listeners do around a handler: claim and decode, settle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.claim.hold import Holds
from sqla_pubsub.deliver.claim.payloads import SMALL
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.handle.unknown import Unknown
from sqla_pubsub.deliver.run.event import UNREADABLE, EventRunner
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import (
    Acknowledge,
    DeadLetter,
    Outcome,
    Retry,
    is_denied,
    is_of_outbox,
    is_unreadable,
)
from sqla_pubsub.deliver.settle.writer import refuse_unwritten
from sqla_pubsub.errors import NotSettled
from sqla_pubsub.registry import ListenerSpec


def take_outside(
    store: Store, holds: Holds, spec: ListenerSpec, unknown: Unknown, entry_id: int
) -> Entry | None:
    """Claim one entry, or return None where it is not free or not this worker's to handle.

    Raises:
        DBAPIError: The connection is lost, or a right is missing.
        NotSettled: The outbox does not take the claim.
    """

    def claimed(inline: int) -> Entry | None:
        with store.connection.begin() as transaction:
            for row in holds.take(spec.name, [entry_id], inline):
                if unknown.is_mine(store.connection, entry := Entry(*row)):
                    return entry
            transaction.rollback()
        holds.leave(entry_id)
        return None

    try:
        return claimed(SMALL)
    except UNREADABLE as error:
        if store.lost or is_of_outbox(error):
            raise
    # The payload may be at fault: it is read later, when the entry is in hand.
    holds.leave(entry_id)
    try:
        return claimed(-1)
    except DBAPIError as error:
        if store.lost:
            raise
        holds.leave(entry_id)
        refuse_unwritten([entry_id], "claimed", error)


def decode_outside(store: Store, events: EventRunner, entry: Entry) -> tuple[Entry, Decoded] | Outcome:
    """Read and decode one entry in a transaction of its own; what cannot be read is an outcome.

    Raises:
        DBAPIError: The connection is lost, or a right is missing.
    """
    try:
        return _decode(store, events, entry)
    except UNREADABLE as error:
        if store.lost or is_denied(error):
            raise
        return events.policy.unreadable(entry, error)


def settle_outside(store: Store, events: EventRunner, entry: Entry, outcome: Outcome) -> Outcome:
    """Write down the outcome, or why that cannot be done, and return what was written.

    Raises:
        DBAPIError: The connection is lost, or a right is missing.
        NotSettled: The outbox takes neither.
    """
    try:
        with store.begin():
            store.settle([outcome], held=False)
        return outcome
    except DBAPIError as error:
        if store.lost or is_denied(error):
            raise
        store.abandon()
        match outcome:
            case Acknowledge():
                failure: Outcome = events.policy.failed(entry, error)
            case DeadLetter():
                failure = events.policy.unwritten(outcome, error)
            case Retry():
                refuse_unwritten([outcome.id], "updated", error)
    return settle_outside(store, events, entry, failure)


def take_all_outside(
    store: Store, holds: Holds, spec: ListenerSpec, unknown: Unknown, ids: list[int]
) -> list[Entry]:
    """Claim those of *ids* that are free and this worker's to handle, in one transaction where that works.

    Raises:
        DBAPIError: The connection is lost, or a right is missing.
        NotSettled: The outbox takes no claim of them.
    """
    try:
        with store.connection.begin():
            found = [Entry(*row) for row in holds.take(spec.name, ids)]
            mine = [entry for entry in found if unknown.is_mine(store.connection, entry)]
            if len(mine) < len(found):
                holds.release([entry.id for entry in found if entry not in mine])
    except UNREADABLE as error:
        if store.lost or is_of_outbox(error):
            raise
        holds.leave(*ids)
        return _take_each_outside(store, holds, spec, unknown, ids)
    taken = {entry.id for entry in mine}
    holds.leave(*(entry_id for entry_id in ids if entry_id not in taken))
    return mine


def _take_each_outside(
    store: Store, holds: Holds, spec: ListenerSpec, unknown: Unknown, ids: list[int]
) -> list[Entry]:
    taken, refused = list[Entry](), None
    for entry_id in ids:
        try:
            entry = take_outside(store, holds, spec, unknown, entry_id)
        except NotSettled as error:
            # Those that are claimed go first: it is met again.
            refused = refused or error
        else:
            taken += [] if entry is None else [entry]
    if refused is not None and not taken:
        raise refused
    return taken


def give_back_outside(store: Store, holds: Holds, ids: list[int]) -> None:
    """Give back entries of which nothing is settled.

    Raises:
        DBAPIError: The connection is lost, or a right is missing.
        NotSettled: The outbox does not take it.
    """
    try:
        with store.begin():
            holds.release(ids)
    except DBAPIError as error:
        if store.lost:
            raise
        refuse_unwritten(ids, "given back", error)


def leave_outside(holds: Holds, outcomes: Sequence[Outcome], entries: Sequence[Entry]) -> None:
    """Give up the locks of entries that were in hand, after their outcomes are committed."""
    handled = {outcome.id for outcome in outcomes if isinstance(outcome, Acknowledge)}
    ids = [entry.id for entry in entries]
    if all(entry_id in handled and not holds.has_rivals(entry_id) for entry_id in ids):
        holds.gone(*ids)
    else:
        holds.leave(*ids)


def decode_all_outside(
    store: Store, events: EventRunner, entries: list[Entry]
) -> Iterator[tuple[Entry, Decoded | Outcome]]:
    """Decode entries in one transaction where that works, and yield each with what it gave.

    Raises:
        DBAPIError: The connection is lost, or a right is missing.
    """
    if len(entries) > 1 and all(entry.large is None for entry in entries):
        try:
            with store.begin():
                decoded = events.dispatcher.entries.decode(store.claims.payloads, entries)
        except UNREADABLE as error:
            if store.lost or is_denied(error):
                raise
        else:
            yield from ((entry, decoded) for entry in entries)
            return
    for entry in entries:
        read = decode_outside(store, events, entry)
        yield read if isinstance(read, tuple) else (entry, read)


def settle_all_outside(
    store: Store, events: EventRunner, ended: list[tuple[Entry, Outcome]], settled: list[Outcome]
) -> None:
    """Write down outcomes, in one transaction where that works, and add what was written to *settled*.

    Raises:
        DBAPIError: As for `settle_outside`.
        NotSettled: The outbox takes nothing of one of them; the others are written.
    """
    if len(ended) > 1:
        try:
            with store.begin():
                store.settle([outcome for _, outcome in ended], held=False)
        except (DBAPIError, NotSettled) as error:
            if store.lost or is_denied(error):
                raise
            store.abandon()
        else:
            settled += [outcome for _, outcome in ended]
            return
    refused = None
    for entry, outcome in ended:
        try:
            settled.append(settle_outside(store, events, entry, outcome))
        except NotSettled as error:
            store.abandon()
            refused = refused or error
    if refused is not None:
        raise refused


def _decode(store: Store, events: EventRunner, entry: Entry) -> tuple[Entry, Decoded]:
    decoder, payloads = events.dispatcher.entries, store.claims.payloads
    try:
        with store.begin():
            for read in payloads.read([entry]):
                return read, decoder.decode(payloads, [read])
    except UNREADABLE as error:
        if store.lost or not is_unreadable(error):
            raise
    with store.begin():
        return decoder.decode_alone(payloads, entry)
