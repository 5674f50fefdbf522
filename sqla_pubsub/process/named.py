"""What the settings only name, ``myapp.db:lifespan``: each worker imports it for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any, cast

from sqla_pubsub.deliver.handle.surroundings import Surroundings, is_awaited
from sqla_pubsub.deliver.instrument import Observer
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.settings import import_modules

_LISTS = ("around", "lifespan", "observers")
_ONE = ("session_class", "async_session_class")
KEYS = (*_LISTS, *_ONE)
"""Settings of ``[tool.sqla-pubsub.listen]`` that name something of the application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names of what an application puts around its handlers and workers; it travels to each worker.

    Attributes:
        around: Functions that take the current event, and return the context of one call of a handler.
        lifespan: Functions without parameters that return the context of a worker's whole life.
        session_class: The class, or the sessionmaker, of the sessions that plain functions get.
        async_session_class: The same for ``async def``.
        observers: Functions that are called with each happening.
    """

    around: tuple[str, ...] = ()
    lifespan: tuple[str, ...] = ()
    observers: tuple[str, ...] = ()
    session_class: str | None = None
    async_session_class: str | None = None

    def surroundings(self) -> dict[str, Any]:
        """Return the arguments of a `Listener`; contexts that have to be awaited are not among them.

        Raises:
            ConfigurationError: There is nothing of a name, or something of another kind.
        """
        around = [each for each in self._around() if not is_awaited(each)]
        given: dict[str, Any] = {"around": around}
        if self.session_class is not None:
            given["session_class"] = found(self.session_class, "session_class")
        Surroundings(given.get("session_class", Surroundings.session_class), tuple(around))
        return given

    def async_surroundings(self) -> dict[str, Any]:
        """Return the arguments of an `AsyncListener`.

        Raises:
            ConfigurationError: There is nothing of a name.
        """
        given: dict[str, Any] = {"around": self._around()}
        if self.async_session_class is not None:
            given["session_class"] = found(self.async_session_class, "async_session_class")
        return given

    def lifespans(self) -> list[Any]:
        """Return the context managers to enter in this process, the outermost first.

        Raises:
            ConfigurationError: There is nothing of a name, or it returns something else.
        """
        return [_manager(name, found(name, "lifespan")) for name in self.lifespan]

    def found_observers(self) -> list[Observer]:
        """Return the observers.

        Raises:
            ConfigurationError: There is nothing of a name, or what there is cannot be called with a happening.
        """
        return [_observer(name, found(name, "observers")) for name in self.observers]

    def _around(self) -> list[Any]:
        return [found(name, "around") for name in self.around]


def names_of(settings: Mapping[str, Any]) -> Names:
    """Return those of ``[tool.sqla-pubsub.listen]``.

    Raises:
        ConfigurationError: One is no name.
    """
    given: dict[str, Any] = {}
    for key in (key for key in KEYS if key in settings):
        value = settings[key]
        names = [value] if isinstance(value, str) else value
        several = "" if key in _ONE else ", or a list of such"
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) for name in names)
            or (key in _ONE and len(names) != 1)
        ):
            raise ConfigurationError(
                f"[tool.sqla-pubsub.listen] {key} = {value!r}: give a name such as 'myapp.wsgi:in_context'{several}."
            )
        given[key] = names[0] if key in _ONE else tuple(names)
    return Names(**given)


def found(name: str, setting: str) -> Any:
    """Return what *name* stands for, a module and its attribute: ``myapp.db:engine``.

    Raises:
        ConfigurationError: It is no such name, or there is nothing of it.
    """
    module, _, attributes = name.partition(":")
    example = f"Give a module and what it calls its {setting}, such as 'myapp.db:{setting}'."
    if not module or not attributes:
        raise ConfigurationError(f"{setting} {name!r} of the settings is no name. {example}")
    import_modules([module])
    thing: Any = import_module(module)
    for attribute in attributes.split("."):
        try:
            thing = getattr(thing, attribute)
        except AttributeError as error:
            raise ConfigurationError(
                f"{setting} {name!r} of the settings: {getattr(thing, '__name__', type(thing).__name__)!r} has no "
                f"{attribute!r}. {example}"
            ) from error
    return thing


def _observer(name: str, thing: Any) -> Observer:
    if not callable(thing) or isinstance(thing, type) or iscoroutinefunction(thing):
        kind = "a class" if isinstance(thing, type) else "an async function"
        gives = kind if callable(thing) else f"an object of type {type(thing).__name__}"
        raise ConfigurationError(
            f"observers {name!r} of the settings is {gives}. Name a plain function that takes one happening, or an object "
            "that can be called with one."
        )
    return cast(Observer, thing)


def _manager(name: str, factory: Any) -> Any:
    made = factory() if callable(factory) else factory
    if not hasattr(made, "__enter__") and not hasattr(made, "__aenter__"):
        raise ConfigurationError(
            f"lifespan {name!r} of the settings gives an object of type {type(made).__name__}. "
            "Name a function without parameters that returns a context manager, as @contextmanager makes it."
        )
    return made
