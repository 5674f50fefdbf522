"""Annotations of a handler, compared with what it will be given.

``new: Article`` on a listener to comments, or ``new: Comment`` where a row is deleted and there is no new one, fails with
the first event, and a type checker is not run by everybody. What can be read at the declaration is refused there. An
annotation that cannot be read yet (a forward reference, an import under TYPE_CHECKING) or that says less than a class
does is not judged.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial, partialmethod
from types import MethodType, NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.event import EVENT_TYPES, Event
from sqla_pubsub.registry import Subscription

_HAS_OLD, _HAS_NEW = ("UPDATE", "DELETE"), ("INSERT", "UPDATE", "MESSAGE")
_LOOP = "sqlalchemy.ext.asyncio"


def check_annotations(
    handler: Callable[..., Any], name: str, subscription: Subscription, *, asynchronous: bool
) -> None:
    """Compare what the annotations of *handler* say with the events of *subscription*.

    Raises:
        ConfigurationError: One of them is of another class.
    """
    row = subscription.message if subscription.mapper is None else subscription.mapper.class_
    assert row is not None
    operation = subscription.operation
    for parameter, annotation in _readable(handler):
        match parameter:
            case "old" | "new":
                given = row if operation in (_HAS_OLD if parameter == "old" else _HAS_NEW) else NoneType
                _check_row(name, parameter, annotation, given, row, operation)
            case "event" if not any(_takes_event(arm, operation, row) for arm in _arms(annotation)):
                raise _wrong_event(name, "event", annotation, operation, row)
            case "events":
                for element in _elements(annotation):
                    if not any(_takes_event(arm, operation, row) for arm in _arms(element)):
                        raise _wrong_event(name, "an element of events", element, operation, row)
            case "session":
                _check_session(name, annotation, asynchronous=asynchronous)
            case _:
                pass


def _readable(handler: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    try:
        function = _function_of(handler)
        written = inspect.get_annotations(function)
    except Exception:
        return
    for parameter, annotation in written.items():
        alone = SimpleNamespace(__annotations__={parameter: annotation})
        try:
            hints = get_type_hints(alone, globalns=getattr(function, "__globals__", {}), include_extras=True)
        except Exception:
            continue
        yield parameter, hints[parameter]


def _function_of(handler: Any) -> Any:
    """Return the function whose annotations are those of *handler*."""
    layer = handler
    while isinstance(layer, partial | partialmethod):
        layer = layer.func
    if not inspect.isroutine(layer) and not isinstance(layer, type):
        layer = getattr(type(layer), "__call__", layer)  # noqa: B004
    if isinstance(layer, MethodType):
        layer = layer.__func__
    return inspect.unwrap(layer)


def _check_row(name: str, parameter: str, annotation: Any, given: type, row: type, operation: str) -> None:
    if any(_takes(arm, given) for arm in _arms(annotation)):
        return
    said = _shown(annotation)
    if given is NoneType:
        raise ConfigurationError(
            f"listener {name!r} annotates {parameter}: {said}, but {parameter} is None for {_an(operation)}. "
            f"Leave the parameter out, or annotate {parameter}: {row.__name__} | None where it has other events too."
        )
    raise ConfigurationError(
        f"listener {name!r} annotates {parameter}: {said}, but its {_kind(operation)} are of {row.__name__}. "
        f"Annotate {parameter}: {row.__name__}, or name the other class in the decorator."
    )


def _check_session(name: str, annotation: Any, *, asynchronous: bool) -> None:
    arms = [arm for arm in _arms(annotation) if isinstance(arm, type)]
    awaited = [any(each.__module__.startswith(_LOOP) for each in arm.__mro__) for arm in arms]
    sessions = [arm for arm in arms if arm.__name__.endswith("Session")]
    if len(sessions) == len(arms) == len(_arms(annotation)) and arms and asynchronous not in awaited:
        kind, given = ("async def", "an AsyncSession") if asynchronous else ("a plain function", "a Session")
        raise ConfigurationError(
            f"listener {name!r} annotates session: {_shown(annotation)}, but it is {kind} and is given {given}. "
            f"Annotate that, or make it {'a plain function' if asynchronous else 'async def'}."
        )


def _wrong_event(name: str, what: str, annotation: Any, operation: str, row: type) -> ConfigurationError:
    right = f"{EVENT_TYPES[operation].__name__}[{row.__name__}]"
    return ConfigurationError(
        f"listener {name!r} says that {what} is {_shown(annotation)}, but for {_an(operation)} it is {right}. "
        f"Annotate {right}, or a union of all that it listens to."
    )


def _arms(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, each without what Annotated adds."""
    if get_origin(annotation) is Annotated:
        return _arms(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(arm for each in get_args(annotation) for arm in _arms(each))
    return (annotation,)


def _elements(annotation: Any) -> Iterator[Any]:
    for arm in _arms(annotation):
        origin, inner = get_origin(arm), get_args(arm)
        if isinstance(origin, type) and issubclass(list, origin) and len(inner) == 1:
            yield inner[0]


def _takes(annotation: Any, given: type) -> bool:
    """Whether a value of *given* may be meant; what is no class says nothing."""
    wanted = NoneType if annotation is None else get_origin(annotation) or annotation
    if wanted is Any or not isinstance(wanted, type) or getattr(wanted, "_is_protocol", False):
        return True
    # A subclass too: a handler may know by its condition which rows come.
    return issubclass(given, wanted) or (given is not NoneType and issubclass(wanted, given))


def _takes_event(annotation: Any, operation: str, row: type) -> bool:
    wanted = get_origin(annotation) or annotation
    if wanted is Any or not isinstance(wanted, type) or not issubclass(wanted, Event):
        return _takes(annotation, EVENT_TYPES[operation])
    inner = get_args(annotation)
    of_row = not inner or any(_takes(arm, row) for arm in _arms(inner[0]))
    return of_row and issubclass(EVENT_TYPES[operation], wanted)


def _kind(operation: str) -> str:
    return "messages" if operation == "MESSAGE" else "rows"


def _an(operation: str) -> str:
    return "a message" if operation == "MESSAGE" else f"{'an' if operation[0] in 'IU' else 'a'} {operation}"


def _shown(annotation: Any) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return inspect.formatannotation(annotation).replace("sqla_pubsub.event.", "")
