"""What tests of outlets may ask for: servers that are started when first asked for, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.outlets.engines.rabbitmq import SERVER, Node
from tests.outlets.relayed import Relayed


@pytest.fixture
def relayed(engine: Engine, tmp_path: Path) -> Relayed:
    """Notes whose events leave for a file, and the listener for that."""
    return Relayed(engine, tmp_path)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Node]:
    """A node of RabbitMQ: who kills it starts it again."""
    if SERVER is None:
        pytest.skip("no rabbitmq-server is installed")
    node = Node()
    node.start()
    yield node
    node.stop()
