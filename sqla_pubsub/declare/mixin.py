"""The mixin: this table publishes its changes."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import event
from sqlalchemy.orm import Mapper

from sqla_pubsub.contract.attributes import column_names, local_table
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import Publish, registry_of


class PubSub:
    """Declarative mixin: listeners may be declared on this model.

    It adds no column. The first model of a metadata adds the outbox tables to that metadata; a
    trigger is installed once a listener is declared.
    """

    __pubsub__: ClassVar[Publish] = Publish()


@event.listens_for(PubSub, "after_mapper_constructed", propagate=True)
def _register(mapper: Mapper[Any], cls: type[PubSub]) -> None:
    table = local_table(mapper)
    publish = cls.__pubsub__
    if not isinstance(publish, Publish):
        raise ConfigurationError(
            f"{cls.__qualname__}.__pubsub__ is {publish!r}. Give Publish(columns=[...]) or Publish(exclude=[...])."
        )
    registry = registry_of(table.metadata)
    _ = registry.outbox
    if "__pubsub__" in vars(cls):
        column_names(mapper, publish.columns or (), "__pubsub__ columns")
        column_names(mapper, publish.exclude, "__pubsub__ exclude")
    known = registry.published.setdefault(table, publish)
    if known != publish:
        raise ConfigurationError(
            f"{cls.__qualname__}.__pubsub__ differs from that of another class on table {table.fullname!r}. "
            "One table has one payload: declare __pubsub__ on the base class only."
        )
