"""What was declared: published tables, messages and listeners, kept with the metadata they belong to.

The registry lives in ``metadata.info``. Never in ``Table.info``: Alembic renders that into the
migration.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import Mapper

from sqla_pubsub.contract.names import DEFAULT_PREFIX
from sqla_pubsub.contract.tables import Outbox, map_outbox
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import Outlet
from sqla_pubsub.retry import RetryPolicy

INFO_KEY = "sqla_pubsub"
Capture = Literal["statement", "row"]
Condition = str | Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """What of a table travels with its events: assign it to ``__pubsub__`` of the model.

    Args:
        columns: Attribute or column names to send; None sends the whole row. Primary-key columns
            always travel.
        exclude: Names to leave out.
        capture: ``"statement"`` (the default) or ``"row"``; partitioned tables always use ``"row"``,
            so that a write sent straight to a partition publishes too.
        always: Whether writes publish under ``session_replication_role = replica`` too: those of a
            subscriber of logical replication, and of restores and bulk loads that set it. New in 0.2.0.

    Raises:
        ConfigurationError: Both ``columns`` and ``exclude`` are given, one of them is no list, ``capture`` is
            unknown or ``always`` is no bool.
    """

    columns: list[Any] | None = None
    exclude: list[Any] = field(default_factory=list)
    capture: Capture | None = None
    always: bool = False

    def __post_init__(self) -> None:
        columns = [] if self.columns is None else self.columns
        for keyword, given in (("columns", columns), ("exclude", self.exclude)):
            if not isinstance(given, (list, tuple, set, frozenset)):
                raise ConfigurationError(
                    f"Publish({keyword}={given!r}) is no list. Give the names in one, such as {keyword}=['secret']."
                )
        if self.columns is not None and self.exclude:
            raise ConfigurationError("Publish() takes columns= or exclude=, not both.")
        if self.capture not in (None, "statement", "row"):
            raise ConfigurationError(
                f"Publish(capture={self.capture!r}) is unknown. Give 'statement' or 'row'."
            )
        if not isinstance(self.always, bool):
            raise ConfigurationError(f"Publish(always={self.always!r}) is unknown. Give True or False.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One kind of event that a listener wants.

    Attributes:
        operation: INSERT, UPDATE, DELETE, TRUNCATE or MESSAGE.
        source: Full name of the table, or the name of the message.
        mapper: Mapper of the model; None for messages.
        of: Names of the columns whose change counts; empty for all.
        when: SQL string, or a function of ``old`` and/or ``new``.
        message: The message class; None for tables.
        ordered_by: Field of the message whose values order its events, for an ordered listener.
        load: Relationships and loader options of them, to be loaded with the rows.
    """

    operation: str
    source: str
    mapper: Mapper[Any] | None = None
    of: tuple[str, ...] = ()
    when: Condition | None = None
    message: type[Any] | None = None
    ordered_by: str | None = None
    # Comparing two attributes of a model makes SQL of them.
    load: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSpec:
    """A named reader with its handler, and how its events are delivered.

    One with an outlet, *to*, is ordered and autonomous; where it is to *forward* rows, its handler is not called.
    """

    name: str
    handler: Callable[..., Any]
    parameters: frozenset[str]
    subscriptions: tuple[Subscription, ...]
    retry: RetryPolicy
    ordered: bool = False
    batch: int | None = None
    transactional: bool = True
    asynchronous: bool = False
    timeout: timedelta | None = None
    effects: Literal["any", "database"] = "any"
    concurrency: int | None = None
    previous_names: tuple[str, ...] = ()
    to: Outlet | None = None
    forward: bool = False

    @property
    def where(self) -> str:
        """Dotted place of the handler, for messages to people."""
        # An object that can be called, or a partial, has no name of its own.
        found = self.handler if hasattr(self.handler, "__qualname__") else type(self.handler)
        return f"{found.__module__}.{found.__qualname__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where our tables and functions live."""

    schema: str | None = None
    prefix: str = DEFAULT_PREFIX
    statistics: bool = True


in_use: list[Callable[[MetaData], None]] = []
"""Called with a metadata when the outbox joins it; the declaring side attaches its DDL here."""


class Registry:
    """Everything one metadata declares."""

    def __init__(self, metadata: MetaData) -> None:
        self.metadata = metadata
        self.settings = Settings(schema=metadata.schema)
        self.published: dict[Table, Publish] = {}
        self.messages: dict[str, type[Any]] = {}
        self.listeners: dict[str, ListenerSpec] = {}
        self._outbox: Outbox | None = None

    @property
    def outbox(self) -> Outbox:
        """The mapped outbox, added to the metadata at the first call."""
        if self._outbox is None:
            settings = self.settings
            self._outbox = map_outbox(
                self.metadata, settings.schema, settings.prefix, statistics=settings.statistics
            )
            for hook in in_use:
                hook(self.metadata)
        return self._outbox

    @property
    def in_use(self) -> bool:
        """Whether the outbox tables are part of the metadata."""
        return self._outbox is not None

    def configure(self, settings: Settings) -> None:
        """Choose where the tables live, before the first model or message is declared."""
        if self.in_use and settings != self.settings:
            raise ConfigurationError(
                "configure() came after the first PubSub model or Message of this metadata, "
                "which had already placed the outbox. Call it right after the metadata is made."
            )
        self.settings = settings

    def add(self, spec: ListenerSpec) -> None:
        """Add a listener, or one more subscription of the same function.

        Raises:
            ConfigurationError: Another function carries the name, or the options differ.
        """
        known = self.listeners.get(spec.name)
        if known is None:
            self.listeners[spec.name] = spec
            return
        if known.handler is not spec.handler:
            raise ConfigurationError(_declared_twice(known, spec))
        if replace(known, subscriptions=()) != replace(spec, subscriptions=()):
            raise ConfigurationError(
                f"listener {spec.name!r} is declared by stacked decorators with different options. "
                "Give both decorators the same retry=, ordered=, batch=, transactional=, timeout=, effects=, "
                "concurrency=, to=."
            )
        # Decorators apply from the bottom up; the order on the page is the other way round.
        self.listeners[spec.name] = replace(known, subscriptions=spec.subscriptions + known.subscriptions)


def _declared_twice(known: ListenerSpec, spec: ListenerSpec) -> str:
    lines = [_line_of(each.handler) for each in (known, spec)]
    same = lines[0] == lines[1] != ""
    shown = lines if known.where == spec.where else ["", ""]
    places = f"{known.where}{shown[0]} and {spec.where}{shown[1]}"
    found = f"listener name {spec.name!r} is declared twice, in {places}. "
    if same and known.where != spec.where:
        return f"{found}It is one file that was imported under two names: import it by one of them."
    if same and "<locals>" in spec.where:
        return (
            f"{found}They are made by the same function: let it use functools.wraps(function), which keeps their names, "
            "or give one of them another name=."
        )
    if same:
        return f"{found}Its module was executed twice, by importlib.reload() for example: start the program anew."
    return f"{found}Give one of them another name=."


def _line_of(handler: object) -> str:
    code = getattr(handler, "__code__", None)
    return "" if code is None else f" ({Path(code.co_filename).name}:{code.co_firstlineno})"


_all: weakref.WeakSet[Registry] = weakref.WeakSet()


def registries() -> list[Registry]:
    """Return every registry of this process, in stable order."""
    return sorted(_all, key=lambda registry: min(registry.listeners, default=""))


def registry_of(metadata: MetaData) -> Registry:
    """Return the registry of *metadata*, empty at first.

    Raises:
        ConfigurationError: It is no metadata, or something else stands in our place of it.
    """
    if not isinstance(metadata, MetaData):
        raise ConfigurationError(
            f"{metadata!r} is no MetaData. Give that of your models, such as Base.metadata."
        )
    registry = metadata.info.get(INFO_KEY)
    if registry is None:
        registry = metadata.info[INFO_KEY] = Registry(metadata)
        _all.add(registry)
    if not isinstance(registry, Registry):
        raise ConfigurationError(f"metadata.info[{INFO_KEY!r}] is taken by {registry!r}. Remove it.")
    return registry


def configure(
    metadata: MetaData, schema: str | None = None, prefix: str = DEFAULT_PREFIX, *, statistics: bool = True
) -> None:
    """Choose where the outbox of *metadata* lives.

    Args:
        metadata: The metadata of your models, before the first `PubSub` model is declared.
        schema: Schema of our tables and functions; None takes ``metadata.schema``, and without one
            the first schema of the search path at the time a migration runs.
        prefix: Start of every name we create. Two projects in one schema need two prefixes.
        statistics: Whether there is a table of what each listener did in each minute of the last days.

    Raises:
        ConfigurationError: The outbox is placed already, or the prefix is no plain name.
    """
    if not prefix or not prefix.isidentifier() or prefix != prefix.lower() or len(prefix.encode()) > 24:
        raise ConfigurationError(
            f"configure(prefix={prefix!r}): give lower-case letters, digits and underscores, at most 24 bytes, "
            "such as 'shop_'."
        )
    registry_of(metadata).configure(
        Settings(schema=schema or metadata.schema, prefix=prefix, statistics=statistics)
    )


def outbox(metadata: MetaData) -> Outbox:
    """Return the mapped classes of *metadata*, ``.Entry`` and ``.DeadLetter``, and the tables beside them.

    Raises:
        ConfigurationError: Nothing in this metadata publishes.
    """
    registry = registry_of(metadata)
    if not registry.in_use:
        raise ConfigurationError(
            "this metadata has no PubSub model and no Message, so it has no outbox. "
            "Add the PubSub mixin to a model first."
        )
    return registry.outbox
