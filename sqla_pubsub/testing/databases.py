"""Databases for tests: one is migrated, all others are copies of its files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy import Engine, create_engine, make_url, text

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import registries

ALEMBIC = "alembic.ini"


class Databases:
    """The databases of one test process.

    Args:
        server: URL of a server where databases may be created.
        migrate: Makes the tables in a new database, called with its URL.
    """

    def __init__(self, server: str, migrate: Callable[[str], None]) -> None:
        self._server = make_url(server)
        # Workers of pytest-xdist may share a server.
        self._prefix = f"pubsub_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
        self._numbers = itertools.count(1)
        self._names: list[str] = []
        self._admin: Engine = create_engine(self._server, isolation_level="AUTOCOMMIT")
        self._template = f"{self._prefix}_template"
        try:
            self._execute("CREATE DATABASE {name}", self._template)
            migrate(self._url(self._template))
        except BaseException:
            self.close()
            raise

    def clone(self) -> str:
        """Return the URL of a new database with all tables."""
        name = f"{self._prefix}_{next(self._numbers)}"
        # As files: for small databases that is quicker than through the log.
        self._execute("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy", name)
        return self._url(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._drop(str(make_url(url).database))

    def close(self) -> None:
        """Drop all that are there."""
        for name in list(self._names):
            self._drop(name)
        self._admin.dispose()

    def _drop(self, name: str) -> None:
        self._execute("DROP DATABASE IF EXISTS {name} WITH (FORCE)", name)
        if name in self._names:
            self._names.remove(name)

    def _execute(self, statement: str, name: str) -> None:
        quote = self._admin.dialect.identifier_preparer.quote_identifier
        with self._admin.connect() as connection:
            connection.execute(text(statement.format(name=quote(name), template=quote(self._template))))
        if statement.startswith("CREATE"):
            self._names.append(name)

    def _url(self, name: str) -> str:
        url = self._server.set(database=name).render_as_string(hide_password=False)
        # Written out: escaped slashes of a socket's folder would be interpolations in an ini file.
        return url.replace("%2F", "/")


def migration(folders: Iterable[Path]) -> Callable[[str], None]:
    """Return what makes the tables: the migrations of the project in one of *folders*, else what is declared."""
    for ini in (folder / ALEMBIC for folder in folders):
        if ini.is_file():
            from alembic_ext.testing import upgrade  # noqa: PLC0415 - Alembic is an extra.

            return lambda url, ini=ini: upgrade(url, ini)  # type: ignore[misc]
    return _create_all


def _create_all(url: str) -> None:
    found = [registry.metadata for registry in registries() if registry.in_use]
    if not found:
        raise ConfigurationError(
            f"there is no {ALEMBIC} in the folder of pytest.ini or pyproject.toml, and no model that publishes is imported "
            "in conftest.py. Import the models and listeners there, or override the fixture pubsub_migrate."
        )
    engine = create_engine(url)
    for metadata in found:
        metadata.create_all(engine)
    # The database is to be copied, which nobody may be connected to then.
    engine.dispose()
