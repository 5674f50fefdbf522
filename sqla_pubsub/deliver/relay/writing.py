"""How outcomes are written together with intents, in one small transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.deliver.run.store import Store
from sqla_pubsub.deliver.settle.failure_policy import FailurePolicy
from sqla_pubsub.deliver.settle.outcome import DeadLetter, Outcome, is_denied


def write(
    store: Store, policy: FailurePolicy, outcomes: Sequence[Outcome], beside: Callable[[], None]
) -> list[Outcome]:
    """Write *outcomes* and what *beside* writes; return what was written.

    Dead letters that the database does not take are put off: the others are not sent again and again because of them.

    Raises:
        DBAPIError: The connection is lost, a right is missing, or something else cannot be written.
    """
    try:
        _write(store, outcomes, beside)
    except DBAPIError as error:
        if store.lost or is_denied(error) or not any(isinstance(each, DeadLetter) for each in outcomes):
            raise
        store.abandon()
        outcomes = [
            policy.unwritten(each, error) if isinstance(each, DeadLetter) else each for each in outcomes
        ]
        _write(store, outcomes, beside)
    return list(outcomes)


def _write(store: Store, outcomes: Sequence[Outcome], beside: Callable[[], None]) -> None:
    with store.begin():
        if outcomes:
            store.settle(outcomes, held=False)
        beside()
