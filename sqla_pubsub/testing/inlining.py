"""Handling events right after each commit: for tests that go through the client of a web framework."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_pubsub.errors import ConfigurationError, PubSubError
from sqla_pubsub.testing.draining import MAX_DEPTH, drain
from sqla_pubsub.testing.one_drain import Drained, Listeners

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

    AwaitedTarget = AsyncSession | async_scoped_session[Any] | async_sessionmaker[Any]

_handling: ContextVar[bool] = ContextVar("sqla_pubsub_handling", default=False)
"""Whether events are handled in this context."""
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
        session: The session that the application uses in the test, or the sessionmaker or scoped_session that makes
            them, each followed; joined to the connection of the test by ``join_transaction_mode="create_savepoint"``.
            Also those of asyncio; the block is a plain ``with`` there too.
        listeners: Names or handlers of the listeners to run; None runs all.
        raises: Whether to raise, at the end, the first error of a handler.
        check_constraints: Whether deferred constraints are checked with each event.
        max_depth: Handlers that may have written, one after the other, what caused an event.
        session_class: As for `drain`.
        around: As for `drain`.
        metadata: Whose listeners; None for those that are declared.

    Raises:
        ConfigurationError: A session is not joined to a connection. It is raised before anything is committed, and
            at the end of the block again.
    """
    handle = partial(
        drain, listeners=listeners, raises=False, check_constraints=check_constraints, max_depth=max_depth,
        session_class=session_class, around=around, metadata=metadata,
    )  # fmt: skip
    target, is_meant, one = _target(session)
    # Outside of a context of its application Flask-SQLAlchemy knows no engine; its commits are checked.
    with suppress(RuntimeError):
        _connection_of(one)
    commits = _Commits(is_meant, handle)
    event.listen(target, "before_commit", commits.checked)
    event.listen(target, "after_commit", commits.followed)
    try:
        yield commits.inlined
    finally:
        event.remove(target, "before_commit", commits.checked)
        event.remove(target, "after_commit", commits.followed)
    if commits.error is not None:
        raise commits.error
    if raises and commits.inlined.drained.failed:
        raise commits.inlined.drained.failed[0]


class _Commits:
    """Told of the commits of sessions.

    Args:
        is_meant: Whether a session is one of them.
        handle: Handles what is due on a connection.
    """

    def __init__(self, is_meant: Callable[[Session], bool], handle: Callable[[Connection], Drained]) -> None:
        self._is_meant = is_meant
        self._handle = handle
        self.inlined = Inlined()
        self.error: PubSubError | None = None

    def checked(self, own: Session) -> None:
        """Refuse what would really be committed: a session may be made otherwise than the one seen first."""
        if self._is_followed(own):
            with self._kept():
                _connection_of(own)

    def followed(self, own: Session) -> None:
        """Handle what is due."""
        if own.in_nested_transaction() or not self._is_followed(own):
            return
        token = _handling.set(True)
        try:
            with self._kept():
                self.inlined.drained += self._handle(_connection_of(own))
        finally:
            _handling.reset(token)

    def _is_followed(self, own: Session) -> bool:
        # Sessions of handlers may be of the same class; what they publish is handled by the drain under way.
        return not _handling.get() and self._is_meant(own)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error for the end of the block: a framework that commits may swallow it."""
        try:
            yield
        except PubSubError as error:
            self.error = self.error or error
            raise


def _target(session: Any) -> tuple[Any, Callable[[Session], bool], Session]:
    """Return where commits are told of, which of these sessions are meant, and one of them."""
    names = _names(session)
    if names & {"scoped_session", "async_scoped_session"}:
        # A request may be in another scope than the test, and so have another session.
        factory = session.session_factory
        return _target(factory if _names(factory) & {"sessionmaker", "async_sessionmaker"} else session())
    if "AsyncSession" in names:
        return session.sync_session, _every, session.sync_session
    if isinstance(session, sessionmaker):
        # A class of its own.
        return session.class_, _every, session()
    if "async_sessionmaker" in names:
        return Session, partial(_is_proxied, session.class_), session().sync_session
    if isinstance(session, Session):
        return session, _every, session
    raise ConfigurationError(
        f"inline() got {session!r}. Give the session of the test, or the sessionmaker of the application."
    )


def _names(given: object) -> set[str]:
    """Return the names of its classes: who has not installed asyncio's extra cannot ask for the classes."""
    return {cls.__name__ for cls in type(given).__mro__}


def _every(_: Session) -> bool:
    return True


def _is_proxied(kind: type[Any], own: Session) -> bool:
    """Whether a session is that behind one of a class of asyncio."""
    proxied: Any = sys.modules["sqlalchemy.ext.asyncio"].async_session(own)
    return isinstance(proxied, kind)


def _connection_of(session: Session) -> Connection:
    try:
        bind = session.get_bind()
    except UnboundExecutionError:
        bind = None
    if not isinstance(bind, Connection):
        raise ConfigurationError(
            f"inline() needs sessions that are joined to the connection of the test, and found one on {bind!r}. "
            'Write: Session(connection, join_transaction_mode="create_savepoint"), of a sessionmaker: '
            'factory.configure(bind=connection, join_transaction_mode="create_savepoint"), of Flask-SQLAlchemy: '
            "db.engines[None] = connection"
        )
    return bind
