"""What `publish` and `set_context` may be given: the transaction that their work belongs to.

An `AsyncSession` answers the same calls with coroutines that nobody would await, so it is told apart
here and not by what it can do.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_pubsub.errors import ConfigurationError

_RUNNERS = {
    "AsyncSession": "session",
    "AsyncConnection": "connection",
    "async_scoped_session": "session()",
}
"""Of asyncio: what runs a function in its transaction."""


def transaction_of(given: object, function: str, arguments: str) -> Session | Connection:
    """Return the Session or Connection behind *given*.

    Args:
        given: What *function* was called with.
        function: The name of the called function.
        arguments: Its further arguments, as its callers write them.

    Raises:
        ConfigurationError: It is something else.
    """
    # By isinstance, which believes a proxy of a Session as well.
    if isinstance(given, scoped_session):
        return transaction_of(given(), function, arguments)
    if isinstance(given, Session | Connection):
        return given
    kind = getattr(given, "__name__", "") if isinstance(given, type) else type(given).__name__
    article = "an" if kind[:1] in "AEIOUaeiou" else "a"
    found = (
        f"the class {kind}" if isinstance(given, type) else "None" if given is None else f"{article} {kind}"
    )
    raise ConfigurationError(f"{function}() got {found}. {_advice(given, function, arguments)}")


def _advice(given: Any, function: str, arguments: str) -> str:
    kinds = {cls.__name__: cls.__module__ for cls in type(given).__mro__}
    # By name: SQLAlchemy's asyncio package needs more than a program without it has installed.
    names = [name for name, module in kinds.items() if module.startswith("sqlalchemy.ext.asyncio")]
    for name, word in _RUNNERS.items():
        if name in names:
            return (
                f"Write: await {word}.run_sync({function}, {arguments}), or take {function} from sqla_pubsub.asyncio: "
                f"await {function}({word}, {arguments})"
            )
    if names:
        return (
            "Open a session on it: async with AsyncSession(engine) as session, session.begin(): "
            f"await session.run_sync({function}, {arguments})"
        )
    if isinstance(given, Engine):
        return f"Write: with engine.begin() as connection: {function}(connection, {arguments})"
    if isinstance(given, sessionmaker):
        return f"Write: with factory.begin() as session: {function}(session, {arguments})"
    return "Give the Session or the Connection whose transaction it belongs to."
