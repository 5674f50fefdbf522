"""A seeded database for a module, and the dashboard on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from starlette.requests import Request
from starlette.types import ASGIApp

from sqla_pubsub.web import Access, dashboard
from tests.cli.project import Shop
from tests.conftest import first_driver, first_version
from tests.servers import Servers
from tests.web.client import Client
from tests.web.shop import Base, seed

USER = "x-user"
"""The header in which the tests say who they are."""
ACCESS = {"ada": Access.OPERATE, "bob": Access.READ}


def by_header(request: Request) -> tuple[Access, str]:
    """Trust a header, as an application behind its own proxy does."""
    name = request.headers.get(USER, "")
    return ACCESS.get(name, Access.NONE), name


def client_of(app: ASGIApp, user: str = "ada") -> Client:
    """Return a client who is *user*, and whose forms come from a page of the dashboard."""
    return Client(app, headers={USER: user, "sec-fetch-site": "same-origin"})


@pytest.fixture(scope="module")
def shop(servers: Servers) -> Iterator[Engine]:
    """An engine on a database with a seeded outbox, shared by a module."""
    server = servers.running(first_version())
    database = server.clone()
    engine = create_engine(server.url(database, first_driver()))
    Base.metadata.create_all(engine)
    seed(engine)
    yield engine
    engine.dispose()
    server.drop(database)


@pytest.fixture(scope="module")
def app(shop: Engine) -> ASGIApp:
    """The dashboard of that database."""
    return dashboard(shop, Base.metadata, authorize=by_header, title="the shop")


@pytest.fixture
def ada(app: ASGIApp) -> Client:
    """Who may operate."""
    return client_of(app)


@pytest.fixture
def bob(app: ASGIApp) -> Client:
    """Who may look."""
    return client_of(app, "bob")


@pytest.fixture
def bare_shop(tmp_path: Path, engine: Engine, url: str) -> Iterator[Shop]:
    """A project on disk whose database is empty, for commands."""
    shop = Shop(tmp_path, engine, url)
    yield shop
    shop.close()
