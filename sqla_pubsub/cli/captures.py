"""What ``listen`` does about captures that are not installed.

A new release is started before its migration, or beside it: of eight listeners one has no capture yet. The others
run, and so does that one, since it only gets nothing until the migration is there. Until then this says so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence

from sqlalchemy.exc import SQLAlchemyError
from tenacity import nap

from sqla_pubsub.cli.difference import sentence
from sqla_pubsub.contract.names import MESSAGE
from sqla_pubsub.declare.diff import Changed, Difference, Missing
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError, PubSubError
from sqla_pubsub.registry import ListenerSpec

WAIT = 1.0
"""Seconds between two looks for a migration that is waited for."""
LOOK_AGAIN = 5.0
"""Seconds between two looks for captures that were missing at the start."""

logger = logging.getLogger(__name__)

Compare = Callable[[], list[Difference]]


class Captures:
    """The captures of the listeners that are to run.

    Args:
        specs: These listeners.
    """

    def __init__(self, specs: Collection[ListenerSpec]) -> None:
        self._specs = specs
        self._names = {spec.name for spec in specs}

    def accept(self, differences: Sequence[Difference]) -> list[Difference]:
        """Log what differs, and return which captures are missing.

        Raises:
            ConfigurationError: The outbox is not installed, or none of the listeners has a capture.
        """
        missing = self._missing(differences)
        if self._nothing_to_do(missing):
            raise ConfigurationError("\n".join(map(sentence, missing)))
        for difference in differences:
            if difference in missing:
                logger.error("capture.missing: %s", sentence(difference))
            elif difference.kind != "operators":  # Who misses them says so: see the heartbeat.
                logger.warning("capture.differs: %s", sentence(difference))
        return missing

    def wait(self, compare: Compare) -> list[Difference]:
        """Call *compare* until no capture is missing, and return what differs then."""
        said = ""
        while missing := self._missing(differences := compare()):
            words = "; ".join(map(sentence, missing))
            if words != said:
                logger.warning("capture.waiting: waiting for the migration: %s", words)
            said = words
            nap.sleep(WAIT)
        return differences

    def watch(self, missing: Sequence[Difference], compare: Compare) -> None:
        """Say in the log when *missing* captures are there, from a thread of its own."""
        if missing:
            threading.Thread(
                target=self._watch, args=(missing, compare), daemon=True, name="captures"
            ).start()

    def _watch(self, missing: Sequence[Difference], compare: Compare) -> None:
        while missing:
            nap.sleep(LOOK_AGAIN)
            try:
                present = self._missing(compare())
            except (SQLAlchemyError, PubSubError) as error:
                logger.debug("capture.unknown: %s", describe(error))
                continue
            if len(present) < len(missing):
                left = f"; still missing: {'; '.join(map(sentence, present))}" if present else ""
                logger.info("capture.installed: captures that were missing are installed now%s", left)
            missing = present

    def _missing(self, differences: Sequence[Difference]) -> list[Difference]:
        sends = any(spec.to is not None for spec in self._specs)
        tables = {"table", "lanes"} if sends else {"table"}
        return [each for each in differences if each.kind in tables or self._names & _uncaptured(each)]

    def _nothing_to_do(self, missing: Sequence[Difference]) -> bool:
        kinds = {each.kind for each in missing}
        if "table" in kinds:
            return True
        lacking = {(name, *_event(each)) for each in missing for name in _uncaptured(each)}
        return all(
            (spec.name, each.operation, "" if each.operation == MESSAGE else each.source) in lacking
            for spec in self._specs
            if spec.to is None or "lanes" not in kinds
            for each in spec.subscriptions
        )


def _uncaptured(difference: Difference) -> set[str]:
    """Return the listeners that get nothing at all because of a difference."""
    return set(difference.listeners) - set(difference.captured)


def _event(difference: Difference) -> tuple[str, str]:
    match difference:
        case Missing(declared=TriggerSpec() as spec) | Changed(declared=TriggerSpec() as spec):
            return (spec.operation, spec.source)
        case _:
            return (MESSAGE, "")
