"""Events as the delivery gives them to a sender."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqla_pubsub.outlet import Outgoing

DAY = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


def event(number: int, **changes: Any) -> Outgoing:
    """Return the event with that number of lane 0; its id is a hundred higher, and ten rows take turns."""
    values: dict[str, Any] = {
        "id": 100 + number,
        "lane": 0,
        "number": number,
        "key": f"[{number % 10}]",
        "operation": "INSERT",
        "source": "public.comment",
        "occurred_at": DAY + timedelta(seconds=number),
        "data": b'{"id": %d}' % number,
        "database": "shop",
    }
    return Outgoing(**{**values, **changes})


def events(numbers: Iterable[int], **changes: Any) -> list[Outgoing]:
    """Return one for each number."""
    return [event(number, **changes) for number in numbers]
