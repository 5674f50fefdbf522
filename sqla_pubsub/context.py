"""The context of a transaction: who and why, delivered with every event it causes."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.names import CONTEXT_SETTING

# Merged by the server, so that a rolled-back savepoint takes its values with it.
_MERGE = text(
    "SELECT set_config(:setting, (coalesce(nullif(current_setting(:setting, true), ''), '{}')::jsonb"
    " || CAST(:values AS jsonb))::text, true)"
)


def set_context(session: Session | Connection, **values: Any) -> None:
    """Give the events of this transaction a context, such as tenant, trace id or user.

    It applies to statements executed after it, merges with what was set before in the same
    transaction, and is gone at the transaction's end. It arrives as ``event.context``.

    Args:
        session: A Session or Connection; a transaction begins if none is open.
        values: JSON values by name.

    Raises:
        ConfigurationError: A value is no JSON value.
    """
    try:
        encoded = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"set_context() got a value that is no JSON: {error}. Give strings, numbers, booleans, None, lists or dicts."
        ) from error
    if not isinstance(session, Connection):
        # Pending changes were made before this call: they go out under the context of that time.
        session.flush()
    # Where one transaction serves several events, the listener ends the context with the event.
    session.info[CONTEXT_SETTING] = True
    session.execute(_MERGE, {"setting": CONTEXT_SETTING, "values": encoded})
