"""A session in a transaction that is rolled back, and a client of the application that uses it."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlmodel import Session, create_engine

from examples.sqlmodel_board import listeners  # noqa: F401 - What is not imported does not listen.
from examples.sqlmodel_board.app import app, session_of_request


@pytest.fixture
def session(pubsub_session_database: str) -> Iterator[Session]:
    engine = create_engine(pubsub_session_database)
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()
    engine.dispose()


@pytest.fixture
def client(session: Session) -> Iterator[TestClient]:
    app.dependency_overrides[session_of_request] = lambda: session
    with TestClient(app) as client:
        yield client
    app.dependency_overrides.clear()
