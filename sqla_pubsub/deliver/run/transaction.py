"""One transaction of several entries: claimed, worked, settled and committed, or undone as a whole.

Whatever undoes it sends its entries into isolation, so that only the guilty one is counted. In order, all of
them: an event is not free before those that came before it in its row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.entry_decoding import Decoded
from sqla_pubsub.deliver.run.claiming import Claimed, Claimer
from sqla_pubsub.deliver.run.event import UNREADABLE, EventRunner
from sqla_pubsub.deliver.run.result import Result, Timing, Unrecorded
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import Outcome, is_of_outbox
from sqla_pubsub.errors import TransactionEnded, is_stale


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """Entries whose transaction can be committed.

    Attributes:
        outcomes: What became of those that were reached.
        again: Ids of those that the database's momentary state undid.
        timing: What the handlers needed, None where that tells nothing.
    """

    outcomes: tuple[Outcome, ...]
    again: tuple[int, ...] = ()
    timing: Timing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """Entries whose transaction cannot be committed.

    Attributes:
        cause: Why.
        isolate: Ids of those that are to be handled in isolation; of the others nothing is known.
        unrecorded: The failures of those that broke the connection, or ended the transaction.
    """

    cause: BaseException
    isolate: tuple[int, ...]
    unrecorded: tuple[Unrecorded, ...] = ()


Work = Callable[[Store, Sequence[Entry], Decoded], Worked | Undone]


def one_transaction(
    store: Store,
    claimer: Claimer,
    events: EventRunner,
    size: int,
    *,
    taken: Callable[[], None],
    deferred: bool,
    work: Work,
) -> Result:
    """Claim up to *size* entries, *work* them, settle them and commit.

    Args:
        store: The work connection.
        claimer: Claims the entries.
        events: Decodes them.
        size: How many.
        taken: Called when there is something to do.
        deferred: Whether what handlers only add may be written together.
        work: What is done with the entries.

    Raises:
        SQLAlchemyError: Nothing could be claimed.
    """
    transaction = store.begin(savepoints=events.savepoints, together=deferred)
    bare, fit = claimer.bare, None
    try:
        claimed = claimer.claim(store, size)
    except UNREADABLE as error:
        _give_up_if_stale(store, error)
        if bare or store.lost or is_of_outbox(error):
            raise
        # A payload may be at fault, and the next claim reads none.
        store.abandon()
        return Result(left=True)
    if not claimed.entries:
        store.abandon()
        return Result(isolate=claimed.isolate, exhausted=True)
    taken()
    try:
        done, fit = _read_and_worked(store, claimer, events, claimed, work)
        if isinstance(done, Worked):
            store.settle(done.outcomes)
            transaction.commit()
            return _committed(claimed, done, fit)
    except TransactionEnded as error:
        # One of them did it, and each by itself will show which.
        store.close()
        done = Undone(cause=error, isolate=claimed.ids)
    except SQLAlchemyError as error:
        _give_up_if_stale(store, error)
        # A lost connection says nothing about these entries: they are free, and may go together again.
        done = Undone(cause=error, isolate=() if store.lost else claimed.ids)
    return _undo(store, claimed, done, ordered=events.spec.ordered)


def _give_up_if_stale(store: Store, error: Exception) -> None:
    """On the same connection the next try may meet it again."""
    if is_stale(error):
        store.close()


def _committed(claimed: Claimed, done: Worked, fit: int | None) -> Result:
    return Result(
        outcomes=done.outcomes,
        claimed=max(claimed.ids),
        isolate=(*claimed.isolate, *done.again),
        conflict=bool(done.again),
        exhausted=not claimed.full,
        left=len(done.outcomes) < len(claimed.entries),
        fit=fit,
        timing=done.timing,
    )


def _read_and_worked(
    store: Store, claimer: Claimer, events: EventRunner, claimed: Claimed, work: Work
) -> tuple[Worked | Undone, int | None]:
    """Return also how many entries had room, None for all."""
    # What a process or a connection dies of may be a payload.
    events.take(claimed.ids)
    try:
        entries = store.claims.payloads.read(claimed.entries, claimer.most_bytes)
        decoded = events.dispatcher.entries.decode(store.claims.payloads, entries)
    except BaseException as error:
        events.put_down()
        if not isinstance(error, UNREADABLE):
            raise
        if isinstance(error, MemoryError):
            # It came in the midst of what the driver had to say.
            store.close()
        if is_stale(error):
            store.close()
            return Undone(cause=error, isolate=()), None
        return Undone(cause=error, isolate=claimed.ids), None
    fit = len(entries) if len(entries) < len(claimed.entries) else None
    return work(store, entries, decoded), fit


def _undo(store: Store, claimed: Claimed, undone: Undone, *, ordered: bool) -> Result:
    lost = store.lost
    if not lost:
        store.abandon()
    isolate = claimed.ids if ordered and undone.isolate else undone.isolate
    return Result(
        isolate=(*claimed.isolate, *isolate),
        unrecorded=undone.unrecorded,
        replayed=undone.cause if isolate else None,
        error=undone.cause if lost else None,
        rewind=bool(isolate),
    )
