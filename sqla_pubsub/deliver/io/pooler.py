"""Connection poolers: what cannot work through one."""

from __future__ import annotations

from sqlalchemy import Connection

from sqla_pubsub.deliver.io.own_settings import is_pooled
from sqla_pubsub.errors import ConfigurationError


def refuse_pooler(connection: Connection, name: str) -> None:
    """Refuse a connection through a pooler: a session lock on it would belong to somebody else next.

    Raises:
        ConfigurationError: The server process behind the connection is not the one it named.
    """
    with connection.begin():
        pooled = is_pooled(connection)
    if pooled:
        raise ConfigurationError(
            f"listener {name!r} needs its own server connection (it has an outlet, or is transactional=False), but a "
            "connection pooler stands before the server. Give ListenerConfig(direct_url=...) a URL past the pooler."
        )
