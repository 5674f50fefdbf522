"""Connections that notice a server which went away without a word, and what to say when they do not work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from sqla_pubsub.contract.tables import absence
from sqla_pubsub.deliver.happenings import LossRole, Lost, Restored, RightMissing, RightUnknown, Waiting
from sqla_pubsub.deliver.instrument import Instrument, Observer
from sqla_pubsub.deliver.io.connecting import connect, is_of_driver
from sqla_pubsub.deliver.io.own_settings import PROGRAM
from sqla_pubsub.deliver.io.stop import StopSignal
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError, HandlerTimeout, OutboxMissing, TransactionEnded, sqlstate
from sqla_pubsub.registry import outbox
from sqla_pubsub.retry import RetryPolicy
from sqla_pubsub.rights import Duty, needed, refuse_without_rights
from sqla_pubsub.sqlstates import DENIED, GONE, is_lasting

KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8_000,
    "connect_timeout": 10,
}
"""Within 15 s: the time without an answer begins with the next poll, which may be 5 s away.

Source: https://www.postgresql.org/docs/current/libpq-connect.html
"""

_KEEPALIVE_OF_ASYNCPG = {"timeout": 10.0}
"""The rest is said to the socket: see `sqla_pubsub.deliver.io.asyncpg_driver`."""

# What connects but cannot work, for want of a right say, would connect again without end.
_backoff = RetryPolicy(
    max_attempts=10**9, initial=timedelta(milliseconds=100), max_delay=timedelta(seconds=2)
)


def connect_args(driver: str | None) -> dict[str, Any]:
    """Return what a driver is to be told, so that a server which went away is noticed."""
    return dict(_KEEPALIVE_OF_ASYNCPG if driver == "asyncpg" else KEEPALIVE)


def fallback_name(name: str, options: object) -> dict[str, Any]:
    """Return what lets the server call a connection *name*, where the *options* of libpq do not name it.

    >>> fallback_name("sqla-pubsub", "-c application_name=shop")
    {}
    """
    # A fallback goes before them: they are read first.
    return {} if "application_name" in str(options or "") else {"fallback_application_name": name}


def make_engine(url: str, name: str = PROGRAM) -> Engine:
    """Return an engine for *url* whose connections notice a server that went away.

    Args:
        url: Where the database is.
        name: What the server calls the connections, where neither the URL nor PGAPPNAME says otherwise.
    """
    return create_engine(
        url,
        poolclass=NullPool,
        connect_args={**KEEPALIVE, **fallback_name(name, make_url(url).query.get("options"))},
    )


def denial(
    engine: Engine, metadata: MetaData, duty: Duty, error: BaseException, tell: Observer
) -> ConfigurationError | None:
    """Return the refusal where *error* came from a right that the role lacks, None where it did not.

    Args:
        engine: The database.
        metadata: Whose outbox is used.
        duty: What the role does there.
        error: What a statement ended with.
        tell: Is told where that cannot be found out.
    """
    if sqlstate(error) in (DENIED, *GONE):
        try:
            with connect(engine) as connection:
                refuse_without_rights(connection, metadata, duty)
        except ConfigurationError as refusal:
            return refusal
        except SQLAlchemyError as unread:
            tell(RightUnknown(what="the rights of the role", error=unread))
    return None


def refusal(
    engine: Engine, metadata: MetaData, error: BaseException, tell: Observer
) -> ConfigurationError | None:
    """Return the refusal where the URL has an unknown option or our tables are missing, else None.

    Args:
        engine: The database.
        metadata: Whose outbox is used.
        error: What connecting, or a statement, ended with.
        tell: Is told where that cannot be found out.
    """
    if isinstance(error, DBAPIError) and _unreadable(error):
        return ConfigurationError(
            f"the database URL cannot be used: {describe(error.orig or error)}. Allowed options are those of "
            f"{'asyncpg.connect()' if engine.dialect.driver == 'asyncpg' else 'libpq'}."
        )
    if sqlstate(error) in GONE:
        try:
            return _absence(engine, metadata)
        except SQLAlchemyError as unread:
            tell(RightUnknown(what="the catalog", error=unread))
    return None


def _absence(engine: Engine, metadata: MetaData) -> ConfigurationError | None:
    table = outbox(metadata).Entry.__table__
    with connect(engine) as connection:
        if needed(connection, metadata, "listener"):
            return None
        hint = ""
        if connection.schema_for_object(table) is None:
            path = connection.scalar(text("SHOW search_path"))
            hint = f". If it is installed, its schema is not in the search_path of this connection: {path}"
    return OutboxMissing(f"{absence(table)}{hint}")


def is_loss(error: BaseException) -> bool:
    """Whether *error* is what a listener that runs gets from a server which is there no more, or not yet."""
    return isinstance(error, DBAPIError | PoolTimeout) or is_of_driver(error)


def is_away(error: DBAPIError) -> bool:
    """Whether it may go better later: not where the URL, a table or a right is wrong."""
    state = sqlstate(error)
    return not _unreadable(error) if state is None else not is_lasting(state)


def _unreadable(error: DBAPIError) -> bool:
    """Whether the driver refused the URL before it asked any server."""
    # Of asyncpg's error SQLAlchemy keeps only that it is none of the server.
    wrong = isinstance(error, ProgrammingError) or isinstance(
        getattr(error.orig, "__cause__", None), ValueError
    )
    return sqlstate(error) is None and error.statement is None and wrong


class Outage:
    """What a listener says from the first failure until there is work again, and the attempts between.

    Args:
        engine: The database.
        metadata: Whose listeners are to run.
        instrument: Is told of them.
        clock: Seconds.
    """

    def __init__(
        self,
        engine: Engine,
        metadata: MetaData,
        instrument: Instrument,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instrument = instrument
        self._engine = engine
        self._metadata = metadata
        self._clock = clock
        self._rng = random.Random()
        self._losses = 0
        """Connections lost in a row without a round of work between them."""
        self.worked = False
        """Whether the outbox was there once."""
        self._since: float | None = None

    def refuse(self, error: BaseException, *, rights: bool = False) -> None:
        """Raise what trying again would not mend; a right may be given back, so that only where it is asked for.

        Raises:
            ConfigurationError: The outbox is not installed, the URL has an unknown option, or a right is missing.
        """
        refused = self._denial(error) if rights else None
        refused = refused or refusal(self._engine, self._metadata, error, self._instrument)
        # Who has worked with the outbox waits for it: it is being restored, or another one takes its place.
        if refused is not None and not (self.worked and isinstance(refused, OutboxMissing)):
            raise refused from error

    def lost(self, error: BaseException, role: LossRole) -> None:
        """Tell that the work was interrupted, unless the listener gave the connection up for what a handler did."""
        if isinstance(error.__cause__, HandlerTimeout | TransactionEnded):
            return
        if not self._denied(error):
            self._instrument(Lost(error=error, role=role))

    def waiting(self, state: RetryCallState) -> None:
        """Tell of an attempt to connect that failed."""
        error = None if state.outcome is None else state.outcome.exception()
        if error is None or not self._denied(error):
            self._instrument(Waiting(attempt=state.attempt_number, error=error))

    def pause(self) -> float:
        """Return how many seconds to wait before connecting again, more after each loss."""
        self._losses += 1
        pause = _backoff.delay(self._losses, self._rng)
        assert pause is not None
        return pause.total_seconds()

    def over(self) -> None:
        """Tell once that the database can be worked with again."""
        self._losses = 0
        if self._since is not None:
            away, self._since = self._clock() - self._since, None
            self._instrument(Restored(away=away))

    def until_open(self, opens: Callable[[], None], stop: StopSignal) -> bool:
        """Call *opens* until it succeeds; return False when stopped before that."""
        retrying = Retrying(
            retry=retry_if_exception(self.may_pass),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            sleep=stop.wait,
            before_sleep=self.waiting,
            stop=lambda _: stop(),
            reraise=True,
        )
        try:
            retrying(opens)
        except Exception as error:
            if not (stop() and self.may_pass(error)):
                raise
            return False
        return True

    def may_pass(self, error: BaseException) -> bool:
        """Whether what is wrong may be right when it is tried again."""
        missing = self.worked and isinstance(error, OutboxMissing)
        return missing or is_loss(error)

    def _denied(self, error: BaseException) -> bool:
        """Tell which right is missing; return False where none is."""
        refused = self._denial(error)
        if refused is not None:
            self._instrument(RightMissing(refusal=refused))
        elif self._since is None:
            self._since = self._clock()
        return refused is not None

    def _denial(self, error: BaseException) -> ConfigurationError | None:
        return denial(self._engine, self._metadata, "listener", error, self._instrument)
