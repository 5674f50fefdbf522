"""The same for programs on an event loop: a listener and `Admin` over an ``AsyncEngine``.

And publishing in an ``AsyncSession``. Needs ``pip install 'sqla-pubsub[asyncio]'`` or ``[asyncpg]``. The names are
those of `sqla_pubsub`, as in ``sqlalchemy.ext.asyncio``.
"""

from __future__ import annotations

from sqla_pubsub.asyncio.admin import AsyncAdmin
from sqla_pubsub.asyncio.listener import AsyncListener
from sqla_pubsub.asyncio.publishing import publish, set_context

__all__ = ["AsyncAdmin", "AsyncListener", "publish", "set_context"]
