"""The same for programs on an event loop: a listener over an ``AsyncEngine``, and publishing in an ``AsyncSession``.

Needs ``pip install 'sqla-pubsub[asyncio]'``, or ``[asyncpg]``. The names are those of `sqla_pubsub`, as in
``sqlalchemy.ext.asyncio``.
"""

from __future__ import annotations

from sqla_pubsub.asyncio.listener import AsyncListener
from sqla_pubsub.asyncio.publishing import publish, set_context

__all__ = ["AsyncListener", "publish", "set_context"]
