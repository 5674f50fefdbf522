"""Seeing to it that a test leaves nothing unhandled."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection, MetaData, create_engine, func, select
from sqlalchemy.orm import Session, scoped_session

from sqla_pubsub.testing.events import SPY
from sqla_pubsub.testing.transaction import Caller, Declared, in_transaction, outboxes

if TYPE_CHECKING:
    from sqla_pubsub.testing.transaction import AwaitedCaller

DATABASES = ("pubsub_database", "pubsub_session_database")


@overload
def assert_settled(session: Caller, *, metadata: MetaData | None = ...) -> None: ...


@overload
def assert_settled(
    session: AwaitedCaller, *, metadata: MetaData | None = ...
) -> Coroutine[Any, Any, None]: ...


def assert_settled(
    session: Caller | AwaitedCaller, *, metadata: MetaData | None = None
) -> Coroutine[Any, Any, None] | None:
    """Assert that all that is published is handled: no entry waits, and there is no dead letter.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        metadata: Whose outbox; None for those that are declared.

    Raises:
        AssertionError: The message says for which listeners something is left, and why.
    """

    def work(connection: Connection) -> None:
        left = [line for each in outboxes(connection, metadata) for line in _left(connection, each)]
        if left:
            raise AssertionError("the test leaves behind, in the outbox:\n" + "\n".join(left))

    return in_transaction(session, "assert_settled", work, writes=False)


def assert_all_settled(arguments: Mapping[str, object]) -> None:
    """Look into every session, connection and database among the fixtures of a test: what ``pubsub_settled`` asks for.

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


def _left(connection: Connection, declared: Declared) -> Iterator[str]:
    entry, letter = declared.place.entry.c, declared.place.letter.c
    waiting = (
        select(
            entry.listener,
            entry.operation,
            entry.source,
            func.count().label("number"),
            func.max(entry.last_error),
        )
        .where(entry.listener != SPY)
        .group_by(entry.listener, entry.operation, entry.source)
        .order_by(entry.listener)
    )
    for listener, operation, source, number, error in connection.execute(waiting):
        failed = f", of which one failed: {error.strip().splitlines()[-1]}" if error else ""
        yield f"  {number} of {operation} {source} for {listener!r}{failed}"
    for row in connection.execute(select(letter.listener, letter.id, letter.reason).order_by(letter.id)):
        yield f"  dead letter {row.id} for {row.listener!r}: {row.reason}"
