"""What a test asks for among the events of a transaction, and the sentence where it is not as wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sqlalchemy import Connection

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.event import Event
from sqla_pubsub.testing.events import OPERATIONS, Seen, Topic, events_of, topic_of, values_of
from sqla_pubsub.testing.reasons import reasons, shown

Changed = Collection[str] | str | None
Context = Mapping[str, Any] | None
_MISSING: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a test asks for."""

    topic: Topic
    op: str | None
    context: Mapping[str, Any]
    changed: frozenset[str]
    listener: str | None
    attributes: Mapping[str, Any]

    def found(self, connection: Connection) -> list[Seen]:
        """Return the events that are so."""
        return [each for each in events_of(connection, self.topic, self.listener) if self._is(each.event)]

    def _is(self, event: Event[Any]) -> bool:
        row = event.new if event.new is not None else event.old
        values = {} if row is None else values_of(row)
        return (
            self.op in (None, event.operation.lower())
            and _has(event.context, self.context)
            and self.changed <= set(event.changed)
            and _has(values, self.attributes)
        )

    def fail(self, connection: Connection, sentence: str, found: Iterable[Seen] = ()) -> NoReturn:
        """Raise an AssertionError that says what was *found*, else what there is, and why this is not."""
        lines = [f"{sentence}."]
        rest = list(found)
        if rest:
            lines += [f"  {shown(each)}" for each in rest]
        else:
            seen = events_of(connection, self.topic)
            lines.append(f"Of {self.topic.name} this transaction has published:" if seen else "")
            lines += [f"  {shown(each)}" for each in seen]
            if not seen:
                lines[-1] = f"Of {self.topic.name} this transaction has published nothing."
            lines += [f"- {each}" for each in reasons(connection, self.topic, self.op, self.attributes)]
        raise AssertionError("\n".join(lines))

    def __str__(self) -> str:
        what = f"{self.op or 'event'} of {self.topic.name}"
        parts = [f"{name}={value!r}" for name, value in self.attributes.items()]
        parts += [f"context={dict(self.context)!r}"] if self.context else []
        parts += [f"changed={sorted(self.changed)!r}"] if self.changed else []
        parts += [f"listener={self.listener!r}"] if self.listener else []
        return f"{what} with {', '.join(parts)}" if parts else what


def wanted_of(
    function: str,
    model: type[Any],
    op: str | None,
    context: Context,
    changed: Changed,
    listener: str | None,
    attributes: Mapping[str, Any],
) -> Wanted:
    """Return what the arguments of a public function ask for.

    Raises:
        ConfigurationError: The class does not publish, or has no such operation or attribute.
    """
    topic = topic_of(model, function)
    names = frozenset([changed] if isinstance(changed, str) else changed or ())
    operation = None if op is None else op.lower()
    if operation not in (None, *OPERATIONS) or (operation is not None and topic.mapper is None):
        allowed = "none for a message" if topic.mapper is None else f"one of {', '.join(OPERATIONS)}"
        raise ConfigurationError(f"{function}(op={op!r}): give {allowed}.")
    known = topic.attributes
    for name in (*attributes, *names):
        if name not in known:
            raise ConfigurationError(
                f"{function}(): {topic.name} has no attribute {name!r} that travels with its events. "
                f"Give some of: {', '.join(known)}."
            )
    return Wanted(
        topic=topic,
        op=operation,
        context=context or {},
        changed=names,
        listener=listener,
        attributes=attributes,
    )


def _has(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(_same(values.get(name, _MISSING), value) for name, value in wanted.items())


def _same(found: Any, wanted: Any) -> bool:
    return found is not _MISSING and bool(found == wanted)
