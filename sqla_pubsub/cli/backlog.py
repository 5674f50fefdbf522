"""What ``listen`` says of the entries that are there when it starts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.phrases import counted
from sqla_pubsub.deliver.arguments import chosen
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.operate.admin import Admin
from sqla_pubsub.operate.problems import pausing
from sqla_pubsub.registry import Registry

logger = logging.getLogger(__name__)


class Backlog:
    """The entries of the listeners that are to run, and those that nobody will take.

    Args:
        admin: The outbox.
        listeners: Names of those that are to run; none for all.
        registry: Where they are declared.
    """

    def __init__(self, admin: Admin, listeners: Collection[str], registry: Registry) -> None:
        self._admin = admin
        self._names = [spec.name for spec in chosen(registry.listeners, listeners)]

    def say(self) -> None:
        """Say it from a thread of its own: to count a large backlog takes a while, and workers need not wait."""
        threading.Thread(target=self._say, daemon=True, name="backlog").start()

    def _say(self) -> None:
        try:
            ready, waiting = self._admin.pending(self._names)
            abandoned = self._admin.abandoned()
            paused = self._admin.paused()
        except DBAPIError as error:
            logger.debug("backlog.unknown: %s", describe(error.orig or error))
            return
        logger.info(
            "backlog.found: %s ready, %s waiting for a retry, for %s",
            counted(ready, "entry", "entries"), waiting, counted(len(self._names), "listener"),
            extra={"ready": ready, "waiting": waiting},
        )  # fmt: skip
        for name in filter(paused.__contains__, self._names):
            logger.warning(
                "listener.paused: listener %r is %s; its entries are left until: sqla-pubsub resume %s",
                name, pausing(paused[name]), name, extra={"listener": name},
            )  # fmt: skip
        for name, count in abandoned.items():
            logger.warning(
                "backlog.abandoned: %s of listener %r, which these modules do not declare, and no worker of theirs takes. "
                "Give the listener that takes them over previous_names=[%r], declare it, or run: sqla-pubsub "
                "discard-entries %s",
                counted(count, "entry", "entries"), name, name, name, extra={"listener": name, "entries": count},
            )  # fmt: skip
