"""The publish function as a frozen value: which messages there are, and who listens to each.

There is one per outbox. It holds the fan-out, so a process that publishes knows no listener.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqla_pubsub.contract.names import DEFAULT_PREFIX, outbox_table, publish_function
from sqla_pubsub.declare.spec import CAPTURE_FORMAT
from sqla_pubsub.errors import ConfigurationError

_FIRST_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """All messages of an outbox.

    Attributes:
        messages: Message name -> its listeners, each with the field that orders its events or None.
        prefix, outbox_schema: Where outbox and function live, as in `TriggerSpec`.
        format: Version of the capture SQL.
    """

    messages: tuple[tuple[str, tuple[tuple[str, str | None], ...]], ...]
    prefix: str = DEFAULT_PREFIX
    outbox_schema: str | None = None
    format: int = CAPTURE_FORMAT

    @property
    def function(self) -> str:
        """Name of the function, without schema."""
        return publish_function(self.prefix)

    @property
    def outbox(self) -> str:
        """Name of the outbox table, without schema."""
        return outbox_table(self.prefix)

    @property
    def listener_names(self) -> tuple[str, ...]:
        """Names of all listeners."""
        return tuple(sorted({listener for _, listeners in self.messages for listener, _ in listeners}))

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form, without what has its default.

        ``{"messages": {"viewed": ["count", {"name": "audit", "ordered_by": "article_id"}]}}``
        """
        plain: dict[str, Any] = {
            "messages": {
                name: [
                    listener if field is None else {"name": listener, "ordered_by": field}
                    for listener, field in listeners
                ]
                for name, listeners in self.messages
            }
        }
        if self.prefix != DEFAULT_PREFIX:
            plain["prefix"] = self.prefix
        if self.outbox_schema is not None:
            plain["outbox_schema"] = self.outbox_schema
        if self.format != _FIRST_FORMAT:
            plain["format"] = self.format
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FanOut:
        """Read what `as_dict` wrote.

        Raises:
            ConfigurationError: A keyword is unknown or a value impossible.
        """
        try:
            # As in TriggerSpec: without its format it is of the first one, not of this release's.
            values = {"format": _FIRST_FORMAT, **plain}
            if values["format"] > CAPTURE_FORMAT:
                values = {name: value for name, value in values.items() if name in cls.__slots__}
            messages = tuple(
                (name, tuple(sorted(_listener(item) for item in listeners)))
                for name, listeners in sorted(values.pop("messages").items())
            )
            return cls(messages=messages, **values)
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"fan-out {plain!r} is not readable: {error}.") from error


def _listener(plain: str | Mapping[str, str]) -> tuple[str, str | None]:
    return (plain, None) if isinstance(plain, str) else (plain["name"], plain.get("ordered_by"))
