"""Events for the rows that were there before a listener: in batches, resumable, beside live writes.

A row is reported when it is certain that no entry was written for it. Rows whose version is older than the
listener are; of rows that came or changed later, and of rows that come while the backfill is open, it keeps
marks, and leaves those out. One moment draws the line: a trigger that marks new rows is created and a
snapshot taken while no writer of the table is open, so every row is in one or the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception, retry_if_exception_type, stop_after_delay, wait_random

from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.declare.capture.body import literal
from sqla_pubsub.errors import ConfigurationError, sqlstate
from sqla_pubsub.operate.backfill.progress import Measure, Progress
from sqla_pubsub.operate.backfill.sources import find_sources, place_of
from sqla_pubsub.operate.backfill.sql import Source, forget, memory
from sqla_pubsub.operate.backfill.steps import (
    apply,
    count_rows,
    draw,
    dump,
    functions,
    load,
    run,
    write_page,
)
from sqla_pubsub.registry import outbox
from sqla_pubsub.sqlstates import CONTENDED, NO_TABLE

STEP = 10_000
"""Marks deleted in one transaction."""

logger = logging.getLogger(__name__)


class Backfill:
    """The backfill of one listener, on connections of its own: use it in a ``with`` statement.

    Args:
        engine: The database, as the role that runs the migrations.
        metadata: What is declared.
        listener: The name of the listener.

    Raises:
        ConfigurationError: On entering: another backfill of the listener is running.
    """

    def __init__(self, engine: Engine, metadata: MetaData, listener: str) -> None:
        self._engine = engine
        self._metadata = metadata
        self._entry = outbox(metadata).Entry.__table__
        self.listener = listener
        self._sources: list[Source] = []
        self._connection: Connection | None = None

    def __enter__(self) -> Backfill:
        self._connection = self._engine.connect()
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._connection is not None
        # With its connection ends the lock.
        self._connection.invalidate()
        self._connection.close()

    def prepare(self) -> None:
        """Find the tables and how their inserts are captured.

        Raises:
            ConfigurationError: The listener cannot be backfilled; the message says why.
        """
        with self._begin() as connection:
            self._sources = find_sources(connection, self._metadata, self.listener)

    def begun(self) -> Progress | None:
        """Return the progress of a backfill that was begun, all tables together, None if there is none.

        Raises:
            ConfigurationError: It cannot go on.
        """
        found = [progress for source in self._sources if (progress := self._progress(source)) is not None]
        return Progress.together(found) if len(found) == len(self._sources) else None

    def measure(self) -> Measure:
        """Count what there is to report; it changes nothing."""
        found = []
        for source in self._sources:
            with self._begin(source) as connection:
                found.append(count_rows(connection, source))
        return Measure.together(found)

    def choice(self, measure: Measure) -> str:
        """Return the sentence that asks what to do with rows that may have been reported."""
        if any(source.since is None for source in self._sources):
            found = (
                f"it is not known since when listener {self.listener!r} is installed, because the comment on its "
                f"capture function is gone, and {measure.changed} rows have no entry: they may have been reported"
            )
        else:
            found = (
                f"{measure.changed} rows came or changed after listener {self.listener!r} was installed and have "
                "no entry: they may have been reported, or be older"
            )
        return (
            f"{found}. Choose --skip-changed to leave them out, or --include-changed to report them, "
            "which repeats none if the listener has not run yet."
        )

    def begin(self, *, include_changed: bool | None) -> None:
        """Draw the line, in every table where that is not done.

        Args:
            include_changed: Whether to report rows that came or changed after the listener did and have no
                entry; None refuses where there are any.

        Raises:
            ConfigurationError: There are, and it is None.
        """
        for source in self._sources:
            if self._progress(source) is not None:
                continue
            with self._engine.connect() as reader:
                reader.execution_options(isolation_level="REPEATABLE READ")
                self._with_lock(source.table, partial(draw, source, reader))
                run(reader, f"SELECT pg_catalog.pg_advisory_xact_lock_shared({self._lock(3)})")
                run(reader, source.lock())
                measure = count_rows(reader, source)
                if measure.changed and include_changed is None:
                    reader.rollback()
                    self.abandon()
                    raise ConfigurationError(self.choice(measure))
                run(reader, source.mark(changed=not include_changed))
                last = run(reader, source.last()).one_or_none()
                progress = Progress(
                    total=measure.total,
                    last=None if last is None else list(last),
                    include_changed=bool(include_changed),
                    left_out=0 if include_changed else measure.changed,
                )
                run(reader, source.begin(dump(progress)))
                reader.commit()

    def run(self, size: int) -> Iterator[Progress]:
        """Write the entries, *size* rows in a transaction, and yield the progress after each.

        Raises:
            ConfigurationError: A migration took the listener away meanwhile; the backfill is abandoned.
        """
        done: list[Progress] = []
        for source in self._sources:
            progress, now = None, size
            while progress is None or not progress.finished:
                try:
                    progress = self._batch(source, now)
                except DBAPIError as error:
                    if sqlstate(error) == NO_TABLE:
                        raise self._given_up() from error
                    if sqlstate(error) not in CONTENDED:
                        raise
                    # Somebody is writing a row of the page: smaller ones pass what is free, and one row waits.
                    now = max(1, now // 4)
                    continue
                now = min(size, now * 2)
                yield Progress.together([*done, progress])
            done.append(progress)

    def end(self) -> None:
        """Take away what it installed and remembered."""
        self._drop_functions()
        self._forget("key IS NOT NULL")
        self._forget("key IS NULL")

    def abandon(self) -> bool:
        """Take it away without having finished; return whether there was anything."""
        # Progress first: without it the next backfill begins anew, as it must when nothing marks new rows.
        forgotten = self._forget("key IS NULL")
        dropped = self._drop_functions()
        return bool(forgotten + dropped + self._forget("key IS NOT NULL"))

    def _take(self) -> None:
        with self._begin() as connection:
            self._place = place_of(connection, self._entry)
        # The connections of one that was killed may need a moment to end. They end one by one, so each has a
        # lock: the second one may be committing the line that it has drawn.
        query = (
            f"SELECT pg_catalog.pg_try_advisory_lock({self._lock(2)})"
            f" AND pg_catalog.pg_try_advisory_xact_lock({self._lock(3)})"
        )
        for attempt in Retrying(
            retry=retry_if_exception_type(_Busy),
            wait=wait_random(0.1, 0.5),
            stop=stop_after_delay(5),
            reraise=True,
        ):
            with attempt, self._begin() as connection:
                if not run(connection, query).scalar():
                    raise _Busy(
                        f"another backfill of listener {self.listener!r} is running. Wait for it, or stop it first."
                    )

    def _lock(self, number: int) -> str:
        name = literal(f"{self._place}.{self._entry.name}{memory(self.listener)}")
        return f"pg_catalog.hashtextextended({name}, {number})"

    @contextmanager
    def _begin(self, source: Source | None = None) -> Iterator[Connection]:
        assert self._connection is not None
        with self._connection.begin():
            if source is not None:
                apply(self._connection, source)
                run(self._connection, source.lock())
            yield self._connection

    def _progress(self, source: Source) -> Progress | None:
        with self._begin(source) as connection:
            row = run(connection, source.read()).one_or_none()
        if row is None:
            return None
        progress = load(row)
        if not row.marking and not progress.finished:
            raise ConfigurationError(
                f"the open backfill of listener {self.listener!r} lost its trigger on table {source.table}, so it "
                "cannot know which rows are new. Run it with --abandon."
            )
        return progress

    def _batch(self, source: Source, size: int) -> Progress:
        with self._begin(source) as connection:
            run(connection, "SET LOCAL lock_timeout = '1s'")
            row = run(connection, source.read()).one_or_none()
            if row is not None and row.captured:
                progress = load(row)
                if not progress.finished:
                    progress = write_page(connection, source, progress, size)
                    run(connection, source.advance(dump(progress)))
                return progress
        raise self._given_up()

    def _given_up(self) -> ConfigurationError:
        self.abandon()
        return ConfigurationError(
            f"a migration took the capture of listener {self.listener!r} away while its backfill ran, so the "
            "backfill was abandoned. Run: alembic upgrade head"
        )

    def _with_lock(self, table: str, action: Callable[[Connection], object]) -> None:
        """Do what needs a lock on a table without letting its writers queue for long."""
        for attempt in Retrying(
            retry=retry_if_exception(lambda error: sqlstate(error) in CONTENDED), wait=wait_random(0.05, 0.3)
        ):
            with attempt, self._begin() as connection:
                number = attempt.retry_state.attempt_number
                if number == 5:
                    logger.warning("backfill.waiting: for the open transactions on %s to end", table)
                # An autovacuum gives way only to who waits for longer than deadlock_timeout.
                patience = "1500ms" if number % 5 == 0 else "200ms"
                run(connection, f"SET LOCAL lock_timeout = '{patience}'")
                action(connection)

    def _drop_functions(self) -> int:
        with self._begin() as connection:
            found = list(run(connection, functions(self.listener, self._entry.name, self._place)).scalars())
        for function in found:
            # Its trigger goes with it.
            self._with_lock(
                "the table", partial(run, statement=f"DROP FUNCTION IF EXISTS {function} CASCADE")
            )
        return len(found)

    def _forget(self, what: str) -> int:
        name = f"{self._place}.{identifier(self._entry.name)}"
        count, gone = 0, STEP
        while gone == STEP:
            with self._begin() as connection:
                if run(connection, f"SELECT to_regclass({literal(name)})").scalar() is None:
                    return count
                gone = len(run(connection, forget(name, self.listener, what, STEP)).all())
            count += gone
        return count


class _Busy(ConfigurationError):
    pass
