"""Names of events outside the database, for engines that tell by a name whether they have had one before."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from sqla_pubsub.outlet import Outgoing


def stable_id(listener: str, message: Outgoing) -> str:
    """Return the name of *message*: the same in every try, and of no other event.

    It ends with the id of the event, which is unique in one outbox. Two listeners, or two databases, may have events
    with the same id, and send to the same place: so a hash of their names stands in front. It tells the other side
    neither of them, and has no full stop, which separates what a webhook signs.
    """
    return f"{_origin(message.database, listener)}_{message.id}"


@lru_cache(maxsize=256)
def _origin(database: str, listener: str) -> str:
    # No name has a zero byte, so no two pairs are written alike.
    return hashlib.sha256(f"{database}\0{listener}".encode()).hexdigest()[:16]
