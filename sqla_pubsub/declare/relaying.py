"""Relays: listeners without a function, whose rows go to an outlet as they were stored."""

from __future__ import annotations

from typing import Any

from sqla_pubsub.declare.decorators import Forward, Options
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Outlet
from sqla_pubsub.retry import RetryPolicy


def relay(
    *events: Any,
    name: str,
    to: Outlet,
    retry: RetryPolicy | None = None,
) -> None:
    """Send the rows of events to an outlet, as JSON; no object is built of them.

    .. versionadded:: 0.3.0

    ``relay(after_insert(Order), after_update(Order), name="orders_to_kafka", to=Kafka("orders"))``

    Args:
        events: Event decorators: ``after_insert(Order)``, ``on_message(Viewed)``.
        name: Durable name of the listener.
        to: Where they go.
        retry: What happens to an event that the other side refuses; default: ``RetryPolicy()``.

    Raises:
        ConfigurationError: The declaration cannot work; the message says why.
    """
    if not events:
        raise ConfigurationError(
            f"relay(name={name!r}) is given no event. Give decorators, such as relay(after_insert(Order), ...)."
        )
    options = Options(name=name, to=to, retry=retry)
    forward = Forward(options)
    for event in events:
        if not callable(event) or isinstance(event, type):
            raise ConfigurationError(
                f"relay(name={name!r}) is given {event!r}. Give event decorators, such as after_insert(Order)."
            )
        event(forward)
