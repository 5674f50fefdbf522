"""How a sender is asked: whatever its client raises has a meaning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Outgoing, OutletUnavailable, Sender

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def asked(ask: Callable[P, R], /, *arguments: P.args, **options: P.kwargs) -> R:
    """Ask a sender. What its client raises without a word for it is an engine that is away: others have work to do.

    Raises:
        OutletUnavailable: The engine is away.
        ConfigurationError: It refuses us.
    """
    try:
        return ask(*arguments, **options)
    except (OutletUnavailable, ConfigurationError):
        raise
    except Exception as error:
        logger.debug("outlet.failed: %s", describe(error), exc_info=True)
        raise OutletUnavailable(f"its client failed: {describe(error)}") from error


def refused(sender: Sender, message: Outgoing) -> str | None:
    """Return why *message* can never be sent; a sender that cannot even look at it is no engine that is away."""
    try:
        return sender.refuses(message)
    except Exception as error:
        logger.debug("outlet.failed: %s", describe(error), exc_info=True)
        return f"it cannot be written: {describe(error)}"
