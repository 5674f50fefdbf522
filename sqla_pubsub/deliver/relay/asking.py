"""How a sender is asked: whatever its client raises has a meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqla_pubsub.deliver.happenings import OutletFailed
from sqla_pubsub.deliver.instrument import Instrument
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Outgoing, OutletUnavailable, Sender

P = ParamSpec("P")
R = TypeVar("R")


class Asking:
    """Asks the sender of one listener.

    Args:
        listener: Its name.
        instrument: Is told what a client raised.
    """

    def __init__(self, listener: str, instrument: Instrument) -> None:
        self._listener = listener
        self._instrument = instrument

    def __call__(self, ask: Callable[P, R], /, *arguments: P.args, **options: P.kwargs) -> R:
        """Ask it. What its client raises without a word for it is an engine that is away: others have work to do.

        Raises:
            OutletUnavailable: The engine is away.
            ConfigurationError: It refuses us.
        """
        try:
            return ask(*arguments, **options)
        except (OutletUnavailable, ConfigurationError):
            raise
        except Exception as error:
            self._tell(error)
            raise OutletUnavailable(f"its client failed: {describe(error)}") from error

    def refused(self, sender: Sender, message: Outgoing) -> str | None:
        """Return why *message* can never be sent; a sender that cannot even look at it is no engine that is away."""
        try:
            return sender.refuses(message)
        except Exception as error:
            self._tell(error)
            return f"it cannot be written: {describe(error)}"

    def _tell(self, error: Exception) -> None:
        self._instrument(OutletFailed(listener=self._listener, error=error))
