"""What ``listen`` says of the entries that are there when it starts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from sqlalchemy.exc import DBAPIError

from sqla_pubsub.cli.phrases import counted
from sqla_pubsub.deliver.arguments import chosen
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.operate.maintenance import Maintenance
from sqla_pubsub.registry import Registry

logger = logging.getLogger(__name__)


class Backlog:
    """The entries of the listeners that are to run, and those that nobody will take.

    Args:
        maintenance: The outbox.
        listeners: Names of those that are to run; none for all.
        registry: Where they are declared.
    """

    def __init__(self, maintenance: Maintenance, listeners: Collection[str], registry: Registry) -> None:
        self._maintenance = maintenance
        self._names = [spec.name for spec in chosen(registry.listeners, listeners)]

    def say(self) -> None:
        """Say it from a thread of its own: to count a large backlog takes a while, and workers need not wait."""
        threading.Thread(target=self._say, daemon=True, name="backlog").start()

    def _say(self) -> None:
        try:
            ready, waiting = self._maintenance.pending(self._names)
            abandoned = self._maintenance.abandoned()
        except DBAPIError as error:
            logger.debug("backlog.unknown: %s", describe(error.orig or error))
            return
        logger.info(
            "backlog.found: %s ready, %s waiting for a retry, for %s",
            counted(ready, "entry", "entries"), waiting, counted(len(self._names), "listener"),
            extra={"ready": ready, "waiting": waiting},
        )  # fmt: skip
        for name, count in abandoned.items():
            logger.warning(
                "backlog.abandoned: %s of listener %r, which these modules do not declare, and no worker of theirs takes. "
                "Give the listener that takes them over previous_names=[%r], declare it, or run: sqla-pubsub "
                "discard-entries %s",
                counted(count, "entry", "entries"), name, name, name, extra={"listener": name, "entries": count},
            )  # fmt: skip
