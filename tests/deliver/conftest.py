"""Fixtures of the delivery tests."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, MetaData

from sqla_pubsub import Listener
from sqla_pubsub.registry import ListenerSpec, registry_of
from tests.deliver.awaited import AwaitedListener
from tests.deliver.notes import Notes, create_tables
from tests.servers import Furnish


@pytest.fixture
def furnish(request: pytest.FixtureRequest) -> Furnish | None:
    """The tables of `notes` for a test that asks for it: to make them takes longer than most of these tests."""
    if request.node.get_closest_marker("empty_database") is not None:
        return None
    return create_tables if "notes" in request.fixturenames else None


@pytest.fixture
def notes(engine: Engine, awaited: str | None) -> Notes:
    """A published table and a table of effects, made when the first note is written."""
    return Notes(engine, awaited=awaited)


@pytest.fixture
def drain(awaited: str | None) -> Iterator[Callable[[Engine, MetaData], int]]:
    """Settle what is due of a metadata, on the driver of the test."""
    declared: list[tuple[MetaData, dict[str, ListenerSpec]]] = []

    def drained(engine: Engine, metadata: MetaData) -> int:
        if awaited is None:
            return Listener(engine, metadata).drain()
        declared.append((metadata, dict(registry_of(metadata).listeners)))
        return AwaitedListener(awaited, engine, metadata).drain()

    yield drained
    # The metadata may be that of other tests as well, which call its handlers.
    for metadata, listeners in reversed(declared):
        registry_of(metadata).listeners.update(listeners)
