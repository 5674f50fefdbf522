"""What the marker ``pubsub_settled`` looks at: every session, connection and database that a test has asked for."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session, scoped_session

from sqla_pubsub.testing import assert_settled

DATABASES = ("pubsub_database", "pubsub_session_database")


def assert_all_settled(arguments: Mapping[str, object]) -> None:
    """Look into the fixtures of a test.

    Raises:
        AssertionError: Something is left.
    """
    for value in arguments.values():
        if isinstance(value, Session | scoped_session | Connection):
            assert_settled(value)
    for name in DATABASES:
        url = arguments.get(name)
        if isinstance(url, str):
            engine = create_engine(url)
            try:
                with engine.connect() as connection:
                    assert_settled(connection)
            finally:
                engine.dispose()
