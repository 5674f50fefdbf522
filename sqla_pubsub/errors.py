"""What can go wrong, in two branches: what you can fix before running, and what befell an entry.

Every message says what was found, what is allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

ENDED = (
    "a handler ended the transaction itself. The listener commits it together with the acknowledgement: "
    "leave out commit() and rollback(), or use transactional=False."
)


_STALE = ("InvalidCachedStatementError", "OutdatedSchemaCacheError")
"""What asyncpg calls it."""


class PubSubError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(PubSubError):
    """A declaration, a setting or an installation that can be mended before anything runs."""


class NotSettled(ConfigurationError):
    """The outbox does not take what a listener writes to it, though the server reports no error.

    .. versionadded:: 0.2.0

    Args:
        message: What could not be written.
        entries: Ids of the entries.
    """

    def __init__(self, message: str, entries: Sequence[int]) -> None:
        super().__init__(message)
        self.entries = tuple(entries)


class OutboxMissing(ConfigurationError):
    """The outbox tables are not in this database: not installed, or away while they are restored.

    .. versionadded:: 0.2.0
    """


class DeliveryError(PubSubError):
    """A delivery that cannot go on as it is; recorded with the entry."""


class UnreadableEntry(DeliveryError):
    """A stored entry that cannot become an event: it is moved to the dead letters at once."""


class UnreadablePayload(UnreadableEntry):
    """Values of a payload cannot become Python's. Many are decoded together, so it does not say of which entry.

    .. versionadded:: 0.2.0
    """


class LoadFailed(UnreadablePayload):
    """What ``load=`` asks for cannot be read for a group; each of its events is tried by itself then.

    .. versionadded:: 0.2.0
    """


class SessionOwnershipError(DeliveryError):
    """A handler tried to end a transaction that belongs to the listener."""


class HandlerNotRun(DeliveryError):
    """A handler returned something that had to be run first, such as a coroutine, so nothing was done.

    .. versionadded:: 0.2.0
    """


class TransactionEnded(SessionOwnershipError):
    """A handler ended the transaction below SQLAlchemy: what it did may be committed, and is not tried again.

    .. versionadded:: 0.2.0
    """


class TaskLeft(DeliveryError):
    """An ``async def`` handler returned while a task that it had started went on.

    .. versionadded:: 0.2.0
    """


class HandlerTimeout(DeliveryError):
    """A handler ran longer than its ``timeout=``."""


class HandlerCancelled(DeliveryError):
    """An ``async def`` handler ended by a cancellation that did not come from the listener.

    .. versionadded:: 0.2.0
    """


class HandlerExit(DeliveryError):
    """An ``async def`` handler asked for the end of the process, which is not its to end.

    .. versionadded:: 0.2.0
    """


class LazyLoad(DeliveryError):
    """An ``async def`` handler touched what is not loaded, where nothing can be awaited.

    .. versionadded:: 0.2.0
    """


class NotSendable(DeliveryError):
    """The function of an outlet returned something that has no JSON.

    .. versionadded:: 0.3.0
    """


class RetryLater(PubSubError):
    """Raised by a handler: roll this event back and deliver it again later.

    It counts as an attempt, so ``max_attempts`` of the retry policy still ends it.

    Args:
        after: The wait, on the database's clock. Without it the retry policy decides.
    """

    def __init__(self, after: timedelta | None = None) -> None:
        if not isinstance(after, timedelta | None):
            raise ConfigurationError(
                f"RetryLater(after={after!r}): give a timedelta, such as timedelta(seconds=30)."
            )
        if after is not None and after < timedelta(0):
            raise ConfigurationError(f"RetryLater(after={after!r}) lies in the past. Give zero or more.")
        super().__init__("later" if after is None else f"after {after}")
        self.after = after


class Reject(PubSubError):
    """Raised by a handler: roll this event back and move it straight to the dead letters.

    Args:
        reason: One sentence, stored with the dead letter.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE behind a SQLAlchemy or driver error, or None."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state if isinstance(state, str) else None


def is_stale(error: BaseException) -> bool:
    """Whether a statement that was prepared before was overtaken by a change of the schema.

    It says nothing about the event. On the same connection the next try may meet it again, on another one it cannot.
    """
    original = getattr(error, "orig", None) or error
    # SQLAlchemy gives the error of asyncpg no code, and for some its text.
    return any(map(_is_of_plan, (original, getattr(original, "__cause__", None))))


def _is_of_plan(error: object) -> bool:
    function = getattr(getattr(error, "diag", None), "source_function", None)
    if function == "RevalidateCachedQuery" or type(error).__name__ in _STALE:
        return True
    try:
        said = str(error)
    except Exception:
        # One of a handler's own, which cannot even be printed.
        return False
    # The server's internal errors are in no language but English; the other text is asyncpg's.
    return said.startswith("cache lookup failed for") or "the prepared statement is closed" in said
