"""Events as the delivery gives them to a sender, each of a row of its own and known by its id."""

from __future__ import annotations

import json
from typing import Any

from sqla_pubsub.outlet import Outgoing
from tests.outlets.numbered import event


def outgoing(identifier: int, **changes: Any) -> Outgoing:
    """An inserted comment with that id; its number in lane 0 is the same."""
    data = json.dumps({"id": identifier, "content": "Grüße"}, ensure_ascii=False).encode()
    return event(identifier, **{"id": identifier, "key": f"[{identifier}]", "data": data, **changes})
