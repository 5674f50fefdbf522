"""How many handlers of a loop run at once: what was asked for, as far as the connections of the pool go."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from sqla_pubsub.deliver.config import MOST_SLOTS
from sqla_pubsub.deliver.happenings import Slots
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import ListenerSpec

LEFT_FREE = 2
"""Connections of a pool that stay for the sessions of outside handlers, and for the application."""


def slots_of(engine: AsyncEngine, specs: Sequence[ListenerSpec], concurrency: int) -> Slots:
    """Return how many handlers of *specs* run at once: the rest of the pool listens, claims, and is free."""
    inside = [min(concurrency, spec.concurrency or concurrency) for spec in specs if spec.transactional]
    outside = [min(concurrency, spec.concurrency or concurrency) for spec in specs if not spec.transactional]
    # One listens for all, and one claims for all that are outside.
    reserved = bool(specs) + bool(outside)
    pool = _most(engine)
    room = MOST_SLOTS if pool is None else max(1, min(MOST_SLOTS, pool - reserved - LEFT_FREE))
    return Slots(
        wanted=concurrency,
        transactional=min(max(inside, default=0), room),
        outside=min(concurrency, sum(outside)),
        reserved=reserved,
        pool=pool,
    )


def refuse_small_pool(slots: Slots) -> None:
    """Refuse a pool that has not even the connections without which nothing runs.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    needed = min(slots.transactional, 1) + slots.reserved
    if slots.pool is not None and slots.pool < needed:
        raise ConfigurationError(
            f"the engine's pool gives {slots.pool} connection{'s' if slots.pool > 1 else ''}, and an AsyncListener with "
            f"these listeners needs {needed} to run. Give create_async_engine(pool_size={needed + LEFT_FREE}) or more."
        )


def _most(engine: AsyncEngine) -> int | None:
    pool = engine.sync_engine.pool
    if not isinstance(pool, QueuePool) or pool._max_overflow < 0:
        return None
    return pool.size() + pool._max_overflow
