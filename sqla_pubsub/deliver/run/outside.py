"""What all runners of ``transactional=False`` listeners do around a handler: decode before it, settle after it."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.deliver.handle.invocation import Decoded
from sqla_pubsub.deliver.run.event import EventRunner
from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.outcome import (
    Acknowledge,
    DeadLetter,
    Outcome,
    Retry,
    is_denied,
    is_unreadable,
)
from sqla_pubsub.errors import UnreadableEntry


def decode_outside(store: Store, events: EventRunner, entry: Entry) -> Decoded | Outcome:
    """Decode one entry in a transaction of its own; what cannot be read is an outcome.

    Raises:
        DBAPIError: The connection is lost, or a right is missing.
    """
    try:
        return _decode(store, events, entry)
    except (UnreadableEntry, DBAPIError) as error:
        if store.lost or is_denied(error):
            raise
        return events.policy.unreadable(entry, error)


def settle_outside(store: Store, events: EventRunner, entry: Entry, outcome: Outcome) -> Outcome:
    """Write down the outcome, or why that cannot be done, and return what was written.

    Raises:
        DBAPIError: The connection is lost, a right is missing, or nothing can be written.
    """
    try:
        with store.begin():
            store.settle([outcome], held=False)
    except DBAPIError as error:
        if store.lost or is_denied(error):
            raise
        store.abandon()
        match outcome:
            case Acknowledge():
                outcome = events.policy.failed(entry, error)
            case DeadLetter():
                outcome = events.policy.unwritten(outcome, error)
            case Retry():
                raise
        with store.begin():
            store.settle([outcome], held=False)
    return outcome


def _decode(store: Store, events: EventRunner, entry: Entry) -> Decoded:
    dispatcher = events.dispatcher
    try:
        with store.begin():
            return dispatcher.decode(store.connection, [entry])
    except (UnreadableEntry, DBAPIError) as error:
        if store.lost or not is_unreadable(error):
            raise
    with store.begin():
        return dispatcher.decode_alone(store.connection, entry)
