"""The engines of the dashboard: one for screens, and one for actions."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine

from sqla_pubsub.operate.bounded import bounded

TO_READ = timedelta(seconds=2)
TO_ACT = timedelta(seconds=30)


def reading(engine: Engine) -> Engine:
    """Return *engine* for screens: read-only, and no statement takes longer than 2 s."""
    return bounded(engine, TO_READ, readonly=True)


def acting(engine: Engine) -> Engine:
    """Return *engine* for actions: no statement takes longer than 30 s."""
    return bounded(engine, TO_ACT, readonly=False)
