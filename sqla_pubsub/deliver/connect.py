"""Connections that notice a server which went away without a word, and what to say when they do not work."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from tenacity import RetryCallState

from sqla_pubsub.deliver.outcome import DENIED, describe
from sqla_pubsub.errors import ConfigurationError, sqlstate
from sqla_pubsub.privileges import Duty, refuse_without_rights

logger = logging.getLogger(__name__)

_HIDDEN = (DENIED, "42P01", "3F000")
"""Permission denied; and a table or schema that is not there for a role without the right on its schema."""

KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8_000,
    "connect_timeout": 10,
}
"""Within 15 s: the time without an answer begins with the next poll, which may be 5 s away.

Source: https://www.postgresql.org/docs/current/libpq-connect.html
"""


def make_engine(url: str) -> Engine:
    """Return an engine for *url* whose connections notice a server that went away."""
    return create_engine(url, poolclass=NullPool, connect_args=dict(KEEPALIVE))


def denial(engine: Engine, metadata: MetaData, duty: Duty, error: BaseException) -> ConfigurationError | None:
    """Return the refusal where *error* came from a right that the role lacks, None where it did not."""
    if sqlstate(error) in _HIDDEN:
        try:
            with engine.connect() as connection:
                refuse_without_rights(connection, metadata, duty)
        except ConfigurationError as refusal:
            return refusal
        except SQLAlchemyError:
            logger.debug("right.unknown: the rights of the role cannot be read", exc_info=True)
    return None


def said(refusal: ConfigurationError | None) -> bool:
    """Log the right that is missing; return False where none is."""
    if refusal is not None:
        logger.error("right.missing: %s", refusal)
    return refusal is not None


def say_waiting(
    state: RetryCallState, denial: Callable[[BaseException], ConfigurationError | None] | None = None
) -> None:
    """Log one line for an attempt to connect that failed."""
    error = None if state.outcome is None else state.outcome.exception()
    if error is not None and denial is not None and said(denial(error)):
        return
    logger.warning(
        "connection.waiting: attempt %s failed: %s", state.attempt_number, describe(error) if error else "",
        extra={"attempt": state.attempt_number},
    )  # fmt: skip
