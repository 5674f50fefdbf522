"""Connections that notice a server which went away without a word."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

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
