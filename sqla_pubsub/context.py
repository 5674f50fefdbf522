"""The context of a transaction: who and why, delivered with every event it causes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session, scoped_session

from sqla_pubsub.caller import transaction_of
from sqla_pubsub.contract.names import CONTEXT_SETTING
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.fidelity import difference, unwritable

# Merged by the server, so that a rolled-back savepoint takes its values with it. Bound as text: of a
# parameter of type jsonb, the driver may make what a codec of the application says.
_MERGE = text(
    "SELECT set_config(:setting, (coalesce(nullif(current_setting(:setting, true), ''), '{}')::jsonb"
    " || CAST(CAST(:values AS text) AS jsonb))::text, true)"
)


def set_context(session: Session | scoped_session[Any] | Connection, **values: Any) -> None:
    """Give the events of this transaction a context, such as tenant, trace id or user.

    It applies to statements executed after it, merges with what was set before in the same
    transaction, and is gone at the transaction's end. It arrives as ``event.context``.

    It is information and no proof: whoever may write to the database can give any context to the events
    of its own transactions, so no handler should decide by it what somebody is allowed to do.

    Args:
        session: A Session, scoped_session or Connection; a transaction begins if none is open. With an
            AsyncSession: `sqla_pubsub.asyncio.set_context`.
        values: JSON values by name.

    Raises:
        ConfigurationError: A value is no JSON value that PostgreSQL can hold, or *session* is something else.
    """
    shown = ", ".join(f"{name}=..." for name in values) or "tenant=..."
    own = transaction_of(session, "set_context", shown)
    encoded = encoded_context(values)
    if isinstance(own, Session):
        # Pending changes were made before this call: they go out under the context of that time.
        own.flush()
    # Where one transaction serves several events, the listener ends the context with the event.
    own.info[CONTEXT_SETTING] = True
    own.execute(_MERGE, {"setting": CONTEXT_SETTING, "values": encoded})


def encoded_context(values: Mapping[str, Any], given: str = "set_context() got a value") -> str:
    """Write *values* as the server will read them; *given* says where they come from.

    Raises:
        ConfigurationError: One is no JSON value that PostgreSQL can hold.
    """
    try:
        found = unwritable(values, "context", nul=False)
        if found is None:
            encoded = json.dumps(values)
            found = difference(values, json.loads(encoded), "context")
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(given, str(error)) from error
    if found is not None:
        raise _refused(given, found)
    return encoded


def _refused(given: str, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{given} that is no JSON: {found}. "
        "Give strings, numbers, booleans, None, lists or dicts whose keys are strings."
    )
