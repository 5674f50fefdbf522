"""`Admin` for programs on an event loop."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from sqla_pubsub.asyncio.bridge import in_greenlet
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.operate.admin import MINUTE, Admin
from sqla_pubsub.operate.dead_letters import ALL, STEP, DeadGroup, DeadLetterView, Letters
from sqla_pubsub.operate.entries import EVERY, Choice, EntryView, ErrorGroup
from sqla_pubsub.operate.history import Rate
from sqla_pubsub.operate.pause import Pause
from sqla_pubsub.operate.status import ListenerStatus
from sqla_pubsub.operate.system import SystemStatus
from sqla_pubsub.operate.why import Why
from sqla_pubsub.operate.workers import WorkerStatus


class AsyncAdmin:
    """The same as `sqla_pubsub.Admin`, awaited.

    Args:
        engine: AsyncEngine of the database.
        metadata: The metadata of the models. Import the modules with the listeners first: others are not declared.

    Raises:
        ConfigurationError: Nothing in the metadata publishes, or the engine is another one.
    """

    def __init__(self, engine: AsyncEngine, metadata: MetaData) -> None:
        if not isinstance(engine, AsyncEngine):
            raise ConfigurationError(
                f"AsyncAdmin() got an engine of type {type(engine).__name__}. Give an AsyncEngine; "
                "for an Engine there is sqla_pubsub.Admin."
            )
        self._admin = Admin(engine.sync_engine, metadata)

    async def status(self, *, exact: bool = False) -> list[ListenerStatus]:
        """Return the backlog per listener, declared or not, in order of name."""
        return await in_greenlet(partial(self._admin.status, exact=exact))

    async def workers(self) -> list[WorkerStatus]:
        """Return the supervisors that run; none where their table is not there."""
        return await in_greenlet(self._admin.workers)

    async def rates(self, since: timedelta, *, step: timedelta = MINUTE) -> list[Rate]:
        """Return what was done *since* so long ago, per listener and *step*, oldest first; empty without the table."""
        return await in_greenlet(partial(self._admin.rates, since, step=step))

    async def system(self) -> SystemStatus:
        """Return the state of the tables, and what keeps vacuum from its work."""
        return await in_greenlet(self._admin.system)

    async def why(self, entry_id: int) -> Why:
        """Return why an entry does not move, or what became of it."""
        return await in_greenlet(partial(self._admin.why, entry_id))

    async def pause(self, listener: str, note: str | None = None, *, by: str | None = None) -> bool:
        """Let no worker take entries of *listener* from now on; see `Admin.pause`."""
        return await in_greenlet(partial(self._admin.pause, listener, note, by=by))

    async def resume(self, listener: str) -> bool:
        """Let workers take entries of *listener* again; return False where it was not paused."""
        return await in_greenlet(partial(self._admin.resume, listener))

    async def paused(self) -> dict[str, Pause]:
        """Return what is paused, by the name of the listener."""
        return await in_greenlet(self._admin.paused)

    async def entries(
        self, choice: Choice = EVERY, *, after: int = 0, limit: int | None = 50, payload: bool = False
    ) -> list[EntryView]:
        """Return entries with ids above *after*, lowest first, with what they carry where *payload* is asked for."""
        return await in_greenlet(
            partial(self._admin.entries, choice, after=after, limit=limit, payload=payload)
        )

    async def entry(self, entry_id: int, *, payload: bool = True) -> EntryView | None:
        """Return one entry, or None where it is not in the outbox."""
        return await in_greenlet(partial(self._admin.entry, entry_id, payload=payload))

    async def retries(self, listener: str, *, limit: int = 50) -> list[EntryView]:
        """Return entries of *listener* that wait for their retry, those first that are due first."""
        return await in_greenlet(partial(self._admin.retries, listener, limit=limit))

    async def errors(self, listener: str) -> list[ErrorGroup]:
        """Return the retries of *listener* by the class of their last errors, the largest group first."""
        return await in_greenlet(partial(self._admin.errors, listener))

    async def retry_now(self, listener: str, *, limit: int = STEP) -> int:
        """Let up to *limit* retries of *listener* be due now; return how many. Call it until there are none."""
        return await in_greenlet(partial(self._admin.retry_now, listener, limit=limit))

    async def retry_entry(self, entry_id: int) -> bool:
        """Let one retry be due now; see `Admin.retry_entry`."""
        return await in_greenlet(partial(self._admin.retry_entry, entry_id))

    async def discard_entry(self, entry_id: int) -> bool:
        """Delete one entry for good; see `Admin.discard_entry`."""
        return await in_greenlet(partial(self._admin.discard_entry, entry_id))

    async def dead_letters(
        self,
        filter: Letters = ALL,  # noqa: A002
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = 50,
        payload: bool = False,
    ) -> list[DeadLetterView]:
        """Return dead letters, highest id first; with *after*, those above that id, lowest first."""
        return await in_greenlet(
            partial(
                self._admin.dead_letters, filter, before=before, after=after, limit=limit, payload=payload
            )
        )

    async def dead_letter(self, entry_id: int, *, payload: bool = True) -> DeadLetterView | None:
        """Return one dead letter, or None where it is none."""
        return await in_greenlet(partial(self._admin.dead_letter, entry_id, payload=payload))

    async def dead_groups(self, filter: Letters = ALL) -> list[DeadGroup]:  # noqa: A002
        """Return dead letters by listener and class of error, the newest group first."""
        return await in_greenlet(partial(self._admin.dead_groups, filter))

    async def count_dead(self, filter: Letters = ALL, *, cap: int | None = None) -> int:  # noqa: A002
        """Return how many dead letters fit; *cap* + 1 where there are more than *cap*."""
        return await in_greenlet(partial(self._admin.count_dead, filter, cap=cap))

    async def retry(self, filter: Letters, *, limit: int = STEP) -> int:  # noqa: A002
        """Move up to *limit* dead letters back into the outbox; return how many. Call it until there are none."""
        return await in_greenlet(partial(self._admin.retry, filter, limit=limit))

    async def discard(self, filter: Letters, *, limit: int = STEP) -> int:  # noqa: A002
        """Delete up to *limit* dead letters for good; return how many. Call it until there are none."""
        return await in_greenlet(partial(self._admin.discard, filter, limit=limit))
