"""The arguments of a listener: of the right kind, and which of the declared listeners they name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Engine

from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.io.engines import refuse_unwatched
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import ListenerSpec


def refuse_wrong_kinds(engine: object, config: object, listeners: object, *, asynchronous: bool) -> None:
    """Refuse arguments of a listener that are not of their kind.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if not isinstance(engine, Engine):
        raise ConfigurationError(
            f"Listener({type(engine).__name__}, ...): give an Engine, as create_engine(url) returns it."
        )
    if engine.dialect.name != "postgresql":
        raise ConfigurationError(
            f"engine speaks {engine.dialect.name!r}, but events come from PostgreSQL. Give a postgresql:// URL."
        )
    refuse_unwatched(engine)
    if engine.dialect.is_async and not asynchronous:
        raise ConfigurationError(
            f"driver {engine.dialect.driver!r} is asynchronous. Give a postgresql+psycopg2:// or "
            "postgresql+psycopg:// engine, or use sqla_pubsub.asyncio.AsyncListener."
        )
    if not isinstance(config, ListenerConfig | None):
        raise ConfigurationError(f"Listener(config={config!r}): give a ListenerConfig.")
    if isinstance(listeners, str):
        raise ConfigurationError(f"Listener(listeners={listeners!r}): give a list of names, [{listeners!r}].")


def of_colour(
    declared: Mapping[str, ListenerSpec], names: Collection[str] | None, *, asynchronous: bool
) -> list[ListenerSpec]:
    """Return the listeners to run whose handlers are called in one way.

    Args:
        declared: All of them, by name.
        names: Those that were asked for; None or none asks for all.
        asynchronous: Whether the handlers are awaited.

    Raises:
        ConfigurationError: There is none, a name is unknown, or one of *names* is called in the other way, or all are.
    """
    specs = chosen(declared, names)
    kept = [spec for spec in specs if spec.asynchronous == asynchronous]
    others = [spec for spec in specs if spec.asynchronous != asynchronous]
    if others and (names or not kept):
        kind, remedy = ("a plain function", "Listener") if asynchronous else ("async def", "AsyncListener")
        place = "sqla_pubsub" if asynchronous else "sqla_pubsub.asyncio"
        raise ConfigurationError(
            f"listener {others[0].name!r} is {kind}. Run it with {place}.{remedy}, or by: sqla-pubsub listen"
        )
    return kept


def chosen(declared: Mapping[str, ListenerSpec], names: Collection[str] | None) -> list[ListenerSpec]:
    """Return the listeners to run.

    Raises:
        ConfigurationError: There is none, or a name is unknown.
    """
    if not declared:
        raise ConfigurationError(
            "no listener is declared for this metadata. Import the modules with your @after_... functions first."
        )
    unknown = sorted(set(names or ()) - set(declared))
    if unknown:
        raise ConfigurationError(
            f"listener {unknown[0]!r} is not declared. Declared are: {', '.join(sorted(declared))}."
        )
    return [spec for name, spec in declared.items() if names is None or not names or name in names]
