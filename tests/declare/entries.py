"""What the capture tests share: a handler, a way to write, a way to read the outbox."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, MetaData, select, text
from sqlalchemy.orm import Session

from sqla_pubsub import OutboxEntry, outbox

Row = dict[str, Any] | None


def nothing() -> None:
    """Handle an event; never called, because these tests look at the outbox and no listener runs."""


def run(engine: Engine, *statements: str) -> None:
    """Execute SQL in one transaction."""
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def entries(engine: Engine, metadata: MetaData) -> Sequence[OutboxEntry]:
    """Return all entries in order of id, detached."""
    entry = outbox(metadata).Entry
    with Session(engine) as session:
        return session.scalars(select(entry).order_by(entry.id)).all()


def changes(engine: Engine, metadata: MetaData) -> list[tuple[str, Row, Row]]:
    """Return operation, old and new of all entries in order of id."""
    return [(entry.operation, entry.old, entry.new) for entry in entries(engine, metadata)]


def heard(engine: Engine, metadata: MetaData) -> list[tuple[str, str]]:
    """Return listener and operation of all entries, sorted."""
    return sorted((entry.listener, entry.operation) for entry in entries(engine, metadata))
