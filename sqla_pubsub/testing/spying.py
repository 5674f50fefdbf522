"""A listener for one transaction: it sees what nobody listens to, and is gone with the rollback."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection
from sqlalchemy.orm import Mapper

from sqla_pubsub.contract.attributes import local_table
from sqla_pubsub.contract.names import publish_function
from sqla_pubsub.declare.catalog import Names, installed, installed_publish
from sqla_pubsub.declare.ddl import CreateCapture, CreatePublish, create
from sqla_pubsub.declare.declared import trigger_for
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.relations import relations
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import ListenerSpec, Subscription
from sqla_pubsub.retry import RetryPolicy
from sqla_pubsub.testing.events import OPERATIONS, SPY, Topic, topic_of
from sqla_pubsub.testing.transaction import Caller, in_transaction

if TYPE_CHECKING:
    from sqla_pubsub.testing.transaction import AwaitedCaller

_ROWS = OPERATIONS[:3]


@overload
def spy(session: Caller, model: type[Any], /, *, op: str | None = ...) -> None: ...


@overload
def spy(
    session: AwaitedCaller, model: type[Any], /, *, op: str | None = ...
) -> Coroutine[Any, Any, None]: ...


def spy(
    session: Caller | AwaitedCaller, model: type[Any], /, *, op: str | None = None
) -> Coroutine[Any, Any, None] | None:
    """Have changes of *model* published in this transaction, although nobody may listen to them.

    `published` and the assertions see them; `drain` leaves them alone. The trigger, or the function of one that is
    there, is changed inside the transaction, and is as before when that is rolled back: never commit it. Until then
    other transactions wait that want to write to a table which had no trigger.

    Args:
        session: The session or connection of the test; of asyncio, the call is awaited.
        model: A model with the mixin, or a `Message` class.
        op: ``"insert"``, ``"update"``, ``"delete"`` or ``"truncate"``; None for the first three.

    Raises:
        ConfigurationError: The class does not publish.
    """
    topic = topic_of(model, "spy")
    if op is not None and op.lower() not in OPERATIONS:
        raise ConfigurationError(f"spy(op={op!r}): give one of {', '.join(OPERATIONS)}.")
    operations = _ROWS if op is None else (op.lower(),)

    def work(connection: Connection) -> None:
        if topic.mapper is None:
            _spy_on_messages(connection, topic)
        else:
            _spy_on_rows(connection, topic, topic.mapper, [operation.upper() for operation in operations])

    return in_transaction(session, "spy", work, writes=False)


def _spy_on_rows(connection: Connection, topic: Topic, mapper: Mapper[Any], operations: list[str]) -> None:
    table = local_table(mapper)
    names: Names = (table.schema, table.name)
    relation = relations(connection, [names]).get(names)
    per_row = relation is not None and relation.per_row
    there = {
        str(each.operation): each.spec
        for each in installed(connection, [names], topic.registry.settings.prefix)
    }
    for operation in operations:
        known = there.get(operation)
        if known is None:
            create(connection, _alone(topic, mapper, operation, per_row=per_row))
        elif SPY not in known.listener_names:
            listeners = (*known.listeners, CapturedListener(name=SPY))
            connection.execute(
                CreateCapture(replace(known, schema=table.schema, table=table.name, listeners=listeners))
            )


def _alone(topic: Topic, mapper: Mapper[Any], operation: str, *, per_row: bool) -> TriggerSpec:
    subscription = Subscription(operation=operation, source=topic.source, mapper=mapper)
    listener = ListenerSpec(
        name=SPY, handler=_nothing, parameters=frozenset(), subscriptions=(subscription,), retry=RetryPolicy()
    )
    return trigger_for(listener, subscription, per_row=per_row)


def _spy_on_messages(connection: Connection, topic: Topic) -> None:
    registry = topic.registry
    entry = registry.outbox.Entry.__table__
    settings = registry.settings
    found = installed_publish(connection, (entry.schema, entry.name), publish_function(settings.prefix))
    known = None if found is None else found.fan_out
    if known is None:
        known = FanOut(messages=(), prefix=settings.prefix, outbox_schema=settings.schema)
    messages = dict(known.messages)
    listeners = dict(messages.get(topic.source, ()))
    messages[topic.source] = tuple(sorted((listeners | {SPY: None}).items()))
    connection.execute(CreatePublish(replace(known, messages=tuple(sorted(messages.items())))))


def _nothing() -> None:
    """Nobody calls it."""
