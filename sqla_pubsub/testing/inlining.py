"""Handling events right after each commit: for tests that go through the client of a web framework."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, event
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing.draining import MAX_DEPTH, drain
from sqla_pubsub.testing.one_drain import Drained, Listeners

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

    AwaitedTarget = AsyncSession | async_scoped_session[Any] | async_sessionmaker[Any]

Target = Session | scoped_session[Any] | sessionmaker[Any]


class Inlined:
    """What was handled so far.

    Attributes:
        drained: What became of all events.
    """

    def __init__(self) -> None:
        self.drained = Drained()


@contextmanager
def inline(
    session: Target | AwaitedTarget,
    *,
    listeners: Listeners = None,
    raises: bool = True,
    check_constraints: bool = False,
    max_depth: int = MAX_DEPTH,
    session_class: Any = None,
    around: Any = None,
    metadata: MetaData | None = None,
) -> Iterator[Inlined]:
    """Handle what is due after each commit in the block: never when something is published, never on a rollback.

    A handler that fails does not fail the request that published its event: there it has succeeded, as in
    production. The error is raised at the end of the block.

    Args:
        session: The session that the application uses in the test, or the sessionmaker that makes them; joined to the
            connection of the test by ``join_transaction_mode="create_savepoint"``. Also those of asyncio; the block is
            a plain ``with`` there too.
        listeners: Names or handlers of the listeners to run; None runs all.
        raises: Whether to raise, at the end, the first error of a handler.
        check_constraints: Whether deferred constraints are checked with each event.
        max_depth: Handlers that may have written, one after the other, what caused an event.
        session_class: As for `drain`.
        around: As for `drain`.
        metadata: Whose listeners; None for those that are declared.

    Raises:
        ConfigurationError: The session is not joined to a connection.
    """
    inlined = Inlined()

    def committed(own: Session) -> None:
        if own.in_nested_transaction() or not is_meant(own):
            return
        inlined.drained += drain(
            _connection_of(own), listeners=listeners, raises=False, check_constraints=check_constraints,
            max_depth=max_depth, session_class=session_class, around=around, metadata=metadata,
        )  # fmt: skip

    target, is_meant = _target(session)
    if isinstance(target, Session):
        _connection_of(target)
    event.listen(target, "after_commit", committed)
    try:
        yield inlined
    finally:
        event.remove(target, "after_commit", committed)
    if raises and inlined.drained.failed:
        raise inlined.drained.failed[0]


def _target(session: Any) -> tuple[Any, Callable[[Session], bool]]:
    """Return where commits are told of, and which of these sessions are meant."""
    names = {cls.__name__ for cls in type(session).__mro__}
    if names & {"scoped_session", "async_scoped_session"}:
        return _target(session())
    if "AsyncSession" in names:
        return session.sync_session, _every
    if isinstance(session, sessionmaker):
        # A class of its own.
        return session.class_, _every
    if "async_sessionmaker" in names:
        return Session, partial(_is_proxied, session.class_)
    if isinstance(session, Session):
        return session, _every
    raise ConfigurationError(
        f"inline() got {session!r}. Give the session of the test, or the sessionmaker of the application."
    )


def _every(_: Session) -> bool:
    return True


def _is_proxied(kind: type[Any], own: Session) -> bool:
    """Whether a session is that behind one of a class of asyncio."""
    proxied: Any = sys.modules["sqlalchemy.ext.asyncio"].async_session(own)
    return isinstance(proxied, kind)


def _connection_of(session: Session) -> Connection:
    bind = session.get_bind()
    if not isinstance(bind, Connection):
        raise ConfigurationError(
            "inline() needs a session that is joined to the connection of the test. "
            'Write: Session(connection, join_transaction_mode="create_savepoint")'
        )
    return bind
