"""The pytest plugin: fixtures for the tests of an application that uses sqla-pubsub.

pytest imports it at every start, in every project of the environment. So it imports nothing of the library, nor
SQLAlchemy, until one of its fixtures is asked for, and nothing happens by its being there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqla_pubsub.testing.databases import Databases

SETTLED = "pubsub_settled"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", f"{SETTLED}: the test fails if it leaves entries or dead letters in the outbox"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Look, after a test with the marker has passed, whether it left anything."""
    yield
    if item.get_closest_marker(SETTLED) is not None:
        from sqla_pubsub.testing.settled import assert_all_settled  # noqa: PLC0415

        assert_all_settled(getattr(item, "funcargs", {}))


@pytest.fixture(scope="session")
def pubsub_postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL for this test process: an empty one, gone afterwards.

    Override it to use a server that is there: return its URL, of a role that may create databases.
    """
    from sqla_pubsub.testing import temporary_postgresql  # noqa: PLC0415

    with temporary_postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def pubsub_migrate(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """What makes the tables in a new database, called with its URL.

    By default ``alembic upgrade head`` with the ``alembic.ini`` of the project; without one, ``create_all``. Override
    it where that is done in another way.
    """
    from sqla_pubsub.testing.databases import migration  # noqa: PLC0415

    return migration([pytestconfig.rootpath, pytestconfig.invocation_params.dir])


@pytest.fixture(scope="session")
def pubsub_databases(pubsub_postgresql: str, pubsub_migrate: Callable[[str], None]) -> Iterator[Databases]:
    """Databases with all tables: copies of one that is migrated once for this test process."""
    from sqla_pubsub.testing.databases import Databases  # noqa: PLC0415

    databases = Databases(pubsub_postgresql, pubsub_migrate)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def pubsub_session_database(pubsub_databases: Databases) -> str:
    """The URL of a migrated database for all tests that roll back."""
    return pubsub_databases.clone()


@pytest.fixture
def pubsub_database(pubsub_databases: Databases) -> Iterator[str]:
    """The URL of a migrated database for one test, which may commit; it is dropped afterwards."""
    url = pubsub_databases.clone()
    yield url
    pubsub_databases.drop(url)
