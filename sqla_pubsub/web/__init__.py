"""The dashboard: an ASGI application that shows the outbox to operators, and lets them act.

Needs ``pip install 'sqla-pubsub[web]'``. Nothing else of the library imports it.
"""

from __future__ import annotations

from sqla_pubsub.web.access import Access
from sqla_pubsub.web.application import dashboard

__all__ = ["Access", "dashboard"]
