"""The transaction of a test, whatever it holds it by, and the outbox that is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, scoped_session

from sqla_pubsub.caller import transaction_of
from sqla_pubsub.contract.quoting import qualified
from sqla_pubsub.contract.tables import absence
from sqla_pubsub.deliver.claim.claims import Known
from sqla_pubsub.deliver.io.driver import driver_of
from sqla_pubsub.deliver.io.place import Place, find_place
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import Registry, registries, registry_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    AwaitedCaller = AsyncSession | AsyncConnection | async_scoped_session[Any]

T = TypeVar("T")
Caller = Session | scoped_session[Any] | Connection

_kept: WeakKeyDictionary[Registry, dict[str, tuple[Place, Known]]] = WeakKeyDictionary()
_THERE = text("SELECT to_regclass(:name) IS NOT NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What is declared, and where its outbox is on a connection.

    Attributes:
        registry: What is declared.
        place: Where the outbox is.
        known: Statements of that place: a suite asks a hundred times for the same.
    """

    registry: Registry
    place: Place
    known: Known = field(default_factory=dict)


def in_transaction(
    given: Caller | AwaitedCaller, function: str, work: Callable[[Connection], T], *, writes: bool
) -> T | Coroutine[Any, Any, T]:
    """Do *work* on the connection of a test, in its transaction; of asyncio, return what is to be awaited.

    Args:
        given: What the test holds its transaction by.
        function: Name of the public function, for messages.
        work: What is done there.
        writes: Whether it may change rows that the session has loaded.

    Raises:
        ConfigurationError: *given* is none of them, or commits statement by statement.
    """
    held = scoped(given)
    if is_awaited(held):
        awaited: Coroutine[Any, Any, T] = held.run_sync(
            lambda own: _worked(own, work, writes=writes, awaited=True)
        )
        return awaited
    own = transaction_of(held, function, "...")
    return _worked(own, work, writes=writes, awaited=False)


def scoped(given: Any) -> Any:
    """Return the session of a registry of sessions, else what was given."""
    names = {cls.__name__ for cls in type(given).__mro__}
    return given() if names & {"scoped_session", "async_scoped_session"} else given


def is_awaited(given: object) -> bool:
    """Whether it is a session or connection of asyncio."""
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")
    # Who has not imported that package has no such session.
    return asyncio is not None and isinstance(given, asyncio.AsyncSession | asyncio.AsyncConnection)


def outboxes(connection: Connection, metadata: MetaData | None) -> list[Declared]:
    """Return what is declared for the outboxes that are on *connection*.

    Raises:
        ConfigurationError: There is none, or it is not clear which of two is meant.
    """
    candidates = [registry_of(metadata)] if metadata is not None else registries()
    used = [each for each in candidates if each.in_use and (each.listeners or metadata is not None)]
    if not used:
        raise ConfigurationError(
            "no listener is declared. Import the modules with your @after_... functions in the test or in conftest.py."
        )
    found: dict[str, Declared] = {}
    for registry in used:
        place = find_place(connection, registry.outbox)
        name = qualified(place.entry.schema, place.entry.name)
        if not _is_there(connection, registry, place, name):
            continue
        if name in found:
            raise ConfigurationError(
                f"two metadata declare the outbox {name}. Say which one is meant: metadata=Base.metadata."
            )
        place, known = _kept.setdefault(registry, {}).setdefault(name, (place, {}))
        found[name] = Declared(registry=registry, place=place, known=known)
    if not found:
        raise ConfigurationError(f"{absence(used[0].outbox.Entry.__table__)}, or in a test: create_all.")
    return list(found.values())


def _is_there(connection: Connection, registry: Registry, place: Place, name: str) -> bool:
    declared = registry.outbox.Entry.__table__
    if connection.schema_for_object(declared) is None:
        # It was looked for.
        return place.entry is not declared
    return bool(connection.scalar(_THERE, {"name": name}))


def _worked(own: Session | Connection, work: Callable[[Connection], T], *, writes: bool, awaited: bool) -> T:
    if isinstance(own, Connection):
        _refuse_autocommit(own)
        return work(own)
    own.flush()
    connection = own.connection()
    _refuse_autocommit(connection)
    try:
        return work(connection)
    finally:
        if writes and not connection.closed and not connection.invalidated:
            _renew(own, awaited=awaited)


def _refuse_autocommit(connection: Connection) -> None:
    if driver_of(connection).autocommit:
        raise ConfigurationError(
            "the connection commits statement by statement, so there is no transaction of the test's. "
            "Leave out isolation_level='AUTOCOMMIT'."
        )


def _renew(session: Session, *, awaited: bool) -> None:
    """Let the session's objects show what handlers have written."""
    if not awaited:
        session.expire_all()
        return
    # Where nothing can be loaded by touching it, what was loaded is loaded again.
    for instance in list(session.identity_map.values()):
        loaded = list(_loaded(instance))
        with suppress(InvalidRequestError):
            session.refresh(instance, loaded)


def _loaded(instance: object) -> Iterator[str]:
    state: Any = inspect(instance)
    yield from (key for key in state.mapper.attrs.keys() if key in state.dict)  # noqa: SIM118
