"""The role that ``grants --monitor-role`` makes suffices to look, and to nothing else."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from sqla_pubsub.rights import needed, statements
from sqla_pubsub.web import dashboard
from tests.web.client import Client
from tests.web.conftest import by_header, client_of
from tests.web.shop import Base
from tests.web.test_access import DEEDS, EVERYTHING, SCREENS, state

pytestmark = pytest.mark.one_driver

ROLE = "watcher"


@pytest.fixture
def watching(shop: Engine) -> Iterator[Engine]:
    """An engine of the role."""
    with shop.begin() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {ROLE}"))
        connection.execute(text(f"CREATE ROLE {ROLE} LOGIN"))
        for statement in statements(needed(connection, Base.metadata, "monitor"), ROLE):
            connection.execute(text(statement))
    engine = create_engine(shop.url.set(username=ROLE))
    yield engine
    engine.dispose()
    with shop.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {ROLE}"))
        connection.execute(text(f"DROP ROLE {ROLE}"))


def entries(engine: Engine) -> list[str]:
    """Pages of an entry that waits, one that is ready and one that is held back."""
    with engine.connect() as connection:
        ids = connection.scalars(
            text(
                "SELECT min(id) FROM pubsub_outbox GROUP BY listener, due_at IS NULL UNION SELECT max(id) FROM pubsub_outbox"
            )
        )
        return [f"/entry?id={each}" for each in ids]


def test_the_role_of_a_monitor_suffices_for_who_may_look(shop: Engine, watching: Engine) -> None:
    bob = client_of(dashboard(watching, Base.metadata, authorize=by_header), "bob")
    for path in [*SCREENS, *entries(shop), "/listener?name=index", "/find?id=900000001"]:
        answer = bob.get(path)
        assert answer.status_code in (200, 303) or path in ("/entry?id=999", "/job?id=x"), path
        assert "cannot be read" not in answer.text, (path, answer.text)
        assert "may not" not in answer.text


def test_the_role_makes_it_read_only_a_second_time(shop: Engine, watching: Engine) -> None:
    """Whatever the application lets somebody do."""
    ada: Client = client_of(dashboard(watching, Base.metadata, authorize=by_header))
    before = state(shop)
    for path, fields in DEEDS.items():
        answer = ada.post(path, data=fields)
        assert answer.status_code == (400 if path == "/stop-job" else 503), path
        assert path == "/stop-job" or "sqla-pubsub grants" in answer.text
    for path, fields in EVERYTHING.items():
        place = "/" + ada.post(path, data=fields).headers["location"]
        assert place.startswith("/job?")
    assert state(shop) == before
    page = ada.get("/letter?id=900000001").text
    assert "What it carries cannot be read now" in page
    assert "sqla-pubsub grants --monitor-role" in page
