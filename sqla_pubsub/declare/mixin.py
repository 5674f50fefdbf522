"""The mixin: this table publishes its changes."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import MetaData, event
from sqlalchemy.orm import Mapper

from sqla_pubsub.attributes import column_names, local_table
from sqla_pubsub.declare.install import attach
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.subscription import Publish, Registry, registry_of


class PubSub:
    """Declarative mixin: listeners may be declared on this model.

    It adds no column. The first model of a metadata adds the outbox tables to that metadata; a
    trigger is installed once a listener is declared.
    """

    __pubsub__: ClassVar[Publish] = Publish()


def published_registry(metadata: MetaData) -> Registry:
    """Return the registry of *metadata* with its outbox in place and its DDL attached."""
    registry = registry_of(metadata)
    if not registry.in_use:
        _ = registry.outbox
        attach(metadata)
    return registry


@event.listens_for(PubSub, "after_mapper_constructed", propagate=True)
def _register(mapper: Mapper[Any], cls: type[PubSub]) -> None:
    table = local_table(mapper)
    publish = cls.__pubsub__
    if not isinstance(publish, Publish):
        raise ConfigurationError(
            f"{cls.__qualname__}.__pubsub__ is {publish!r}. Give Publish(columns=[...]) or Publish(exclude=[...])."
        )
    registry = published_registry(table.metadata)
    if "__pubsub__" in vars(cls):
        column_names(mapper, publish.columns or (), "__pubsub__ columns")
        column_names(mapper, publish.exclude, "__pubsub__ exclude")
    known = registry.published.setdefault(table, publish)
    if known != publish:
        raise ConfigurationError(
            f"{cls.__qualname__}.__pubsub__ differs from that of another class on table {table.fullname!r}. "
            "One table has one payload: declare __pubsub__ on the base class only."
        )
