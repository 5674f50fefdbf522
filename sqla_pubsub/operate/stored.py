"""What an entry and a dead letter have in common, as an operator looks at them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqla_pubsub.operate.plain import Plain

PAYLOAD = ("old", "new", "context")
"""The columns that hold what an entry or a dead letter carries: who may only watch need not be able to read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredView(Plain):
    """One event for one listener, as it is stored.

    Attributes:
        id: The id of the event.
        listener: Who is, or was, to handle it.
        operation: INSERT, UPDATE, DELETE, TRUNCATE or MESSAGE.
        source: The table, or the name of the message.
        key: The primary key of its row.
        old_key: The one before, where it changed.
        occurred_at: When it was written.
        format: The layout of what it carries.
        attempt: Tries that failed.
        crashes: Processes that died with it in hand.
        with_payload: Whether what it carries was asked for; without it the rest is None.
        old: The row before.
        new: The row after, or the message.
        context: What its writer said of the transaction.
    """

    id: int
    listener: str
    operation: str
    source: str
    key: list[Any] | None
    old_key: list[Any] | None
    occurred_at: datetime
    format: int
    attempt: int
    crashes: int
    with_payload: bool
    old: dict[str, Any] | None = None
    new: dict[str, Any] | None = None
    context: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values; what was not asked for is left out."""
        # By name: a dataclass with slots is a new class, and super() knows the one before.
        values = Plain.as_json(self)
        hidden = ("with_payload",) if self.with_payload else ("with_payload", *PAYLOAD)
        return {name: value for name, value in values.items() if name not in hidden}
