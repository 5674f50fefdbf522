"""Who is told what happens while events are delivered; the log is the first observer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from sqla_pubsub.deliver.happenings import Happening
from sqla_pubsub.deliver.log import audible, log

logger = logging.getLogger(__name__)

Observer = Callable[[Happening], None]


class Instrument:
    """Tells every observer; one that raises is logged and disturbs nobody.

    Args:
        observers: Who is told, in this order, after the log.
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        # Logging was configured after the import, if not by now.
        audible()
        self._observers = (log, *observers)

    def __call__(self, happening: Happening) -> None:
        """Tell what happened."""
        for observer in self._observers:
            try:
                observer(happening)
            except Exception:
                logger.exception("observer.failed: %r at %s", observer, type(happening).__name__)
