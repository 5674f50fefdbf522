"""Connecting: where that fails, what the driver raises comes as SQLAlchemy's error.

SQLAlchemy sees to it for what a driver calls its errors. asyncpg lets those of sockets and of its arguments out as they
are, and before SQLAlchemy 2.1 its own ones too.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

UNKNOWN_OPTION = "connect() got an unexpected keyword argument"
"""What asyncpg raises for an option of the URL that it has not."""


def connect(engine: Engine, isolation_level: str | None = None) -> Connection:
    """Return a connection.

    Args:
        engine: Where to connect.
        isolation_level: That of the connection, None for the engine's.

    Raises:
        DBAPIError: The server cannot be reached, or the URL cannot be used.
        TimeoutError: The pool (SQLAlchemy's) had none left.
    """
    try:
        connection = engine.connect()
        if isolation_level is not None:
            connection = connection.execution_options(isolation_level=isolation_level)
    except Exception as error:
        if not is_of_driver(error):
            raise
        raise as_dbapi_error(error) from error
    return connection


def as_dbapi_error(error: Exception, statement: str | None = None) -> DBAPIError:
    """Return what asyncpg raised, as SQLAlchemy would raise it."""
    kind = ProgrammingError if isinstance(error, TypeError | ValueError) else OperationalError
    return kind(statement, None, error)


def is_of_driver(error: BaseException) -> bool:
    """Whether *error* is one that asyncpg let out as it is."""
    unknown = isinstance(error, TypeError) and UNKNOWN_OPTION in str(error)
    return unknown or isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "asyncpg"
