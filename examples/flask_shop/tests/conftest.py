"""A migrated database for all tests, and the application on one connection, whose transaction is rolled back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_migrate import upgrade

from examples.flask_shop import listeners  # noqa: F401 - What is not imported does not listen.
from examples.flask_shop.app import create_app
from examples.flask_shop.models import Product, db

MIGRATIONS = Path(__file__).parents[1] / "migrations"


@pytest.fixture(scope="session")
def pubsub_migrate() -> Callable[[str], None]:
    def migrate(url: str) -> None:
        with create_app({"SQLALCHEMY_DATABASE_URI": url}).app_context():
            upgrade(str(MIGRATIONS))
            # The database is copied, and nobody may be connected to it then.
            db.engine.dispose()

    return migrate


@pytest.fixture
def app(pubsub_session_database: str) -> Iterator[Flask]:
    app = create_app({"SQLALCHEMY_DATABASE_URI": pubsub_session_database, "TESTING": True})
    with app.app_context():
        engine, engines = db.engine, _writable(db.engines)
        with engine.connect() as connection, connection.begin() as transaction:
            # Flask-SQLAlchemy looks at its engines, and not at the bind of a session.
            engines[None] = connection
            db.session.configure(join_transaction_mode="create_savepoint")
            db.session.add_all([Product(name="lamp", stock=2), Product(name="chair", stock=5)])
            db.session.commit()
            yield app
            db.session.remove()
            transaction.rollback()
        engine.dispose()


def _writable(engines: Any) -> dict[str | None, Any]:
    assert isinstance(engines, dict)
    return engines
