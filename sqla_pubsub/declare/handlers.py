"""What may be decorated: a function that is called and runs.

Calling some objects only makes something that would have to be run by somebody else: a generator, an
instance, the coroutine of a function that a plain one wraps. The event of such a handler would be
acknowledged and nothing done. So the objects that a handler is wrapped in are looked through here; what
cannot be seen before the call is refused after it, by the delivering side. The coroutine of a handler that
is itself asynchronous is awaited.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial, partialmethod
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType, WrapperDescriptorType
from typing import Any

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.values import nearest

PARAMETERS = ("event", "old", "new", "session", "context")
BATCH_PARAMETERS = ("events", "session")
_MOST_LAYERS = 100
_OF_NOTHING = ("RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST")
"""What a function that does nothing is compiled to; its one constant is None."""
_IN_C = (BuiltinFunctionType, MethodWrapperType, WrapperDescriptorType)
_WRAPPER = ". Where a wrapper runs it to its end itself, make the wrapper without functools.wraps"


def is_asynchronous(handler: object) -> bool:
    """Whether calling *handler* makes a coroutine, which is to be awaited."""
    layer: Any = handler
    for _ in range(_MOST_LAYERS):
        if isinstance(layer, partial | partialmethod):
            layer = layer.func
        elif isinstance(layer, MethodType):
            layer = layer.__func__
        elif isinstance(layer, FunctionType | BuiltinFunctionType | type):
            break
        else:
            layer = getattr(type(layer), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(layer)


def is_empty(handler: object) -> bool:
    """Whether *handler* is a function without a body: ``...``, ``pass`` or a docstring alone."""
    return isinstance(handler, FunctionType) and all(
        each.opname in _OF_NOTHING and each.argval in (None, 0) for each in dis.get_instructions(handler)
    )


def parameters_of(handler: Callable[..., Any], name: str, batch: int | None) -> frozenset[str]:
    """Return the names of the parameters that are to be filled.

    Raises:
        ConfigurationError: Calling the handler would not run it, or a parameter has a name that nothing fills.
    """
    _refuse_what_does_not_run(handler, name)
    allowed = PARAMETERS if batch is None else BATCH_PARAMETERS
    given = handler.keywords if isinstance(handler, partial) else {}
    names = []
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.name in given:
            continue
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not by_name or parameter.name not in allowed:
            raise ConfigurationError(
                f"listener {name!r} has a parameter {str(parameter)!r}, which nothing fills. "
                f"{_instead_of(parameter, allowed, batch)}Allowed are any of: {', '.join(allowed)}."
            )
        names.append(parameter.name)
    return frozenset(names)


def _instead_of(parameter: inspect.Parameter, allowed: Sequence[str], batch: int | None) -> str:
    """Return why a parameter is not filled, where that can be told, and what to do."""
    like = nearest(parameter.name, allowed)
    causes = {
        "A function that takes anything does not say what it wants: name the parameters. If a decorator made it, let "
        "that use functools.wraps(function)": parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD),
        "It cannot be given by name: take out the '/'": parameter.kind is parameter.POSITIONAL_ONLY
        and parameter.name in allowed,
        "A function in a class body gets no instance: declare a method of one, after_insert(Model)(instance.method)":
        parameter.name in ("self", "cls"),
        "Only with batch= there are events": batch is None and parameter.name == "events",
        "With batch= there are several: each of events has it": batch is not None and parameter.name in PARAMETERS,
        "Set it in the function, or with functools.partial(function, ...)": parameter.default is not parameter.empty,
        f"Do you mean {like!r}?": like is not None,
    }  # fmt: skip
    cause = next((cause for cause, is_it in causes.items() if is_it), None)
    return "" if cause is None else f"{cause.removesuffix('.')}{'' if cause.endswith('?') else '.'} "


def _refuse_what_does_not_run(handler: object, name: str) -> None:
    asynchronous = is_asynchronous(handler)
    for depth, layer in enumerate(_layers(handler)):
        wrapped = _WRAPPER if depth else ""
        if isinstance(layer, type):
            raise ConfigurationError(
                f"listener {name!r} is the class {layer.__qualname__}, and calling it only makes an instance. "
                "Decorate a function, or an instance that has __call__."
            )
        if inspect.iscoroutinefunction(layer) and not asynchronous:
            raise ConfigurationError(
                f"listener {name!r} is a plain function around an async function, whose coroutine nobody awaits. "
                f"Make the wrapper 'async def' too, and await in it{wrapped}."
            )
        if inspect.isgeneratorfunction(layer) or inspect.isasyncgenfunction(layer):
            kind = "a generator" if inspect.isgeneratorfunction(layer) else "an async generator"
            raise ConfigurationError(
                f"listener {name!r} is {kind} function: calling it runs nothing of it. "
                f"Take out the 'yield'{wrapped}."
            )


def _layers(handler: object) -> Iterator[object]:
    """Yield *handler* and all that is called when it is called, as far as that can be seen."""
    waiting, seen = [handler], set[int]()
    # An object may have an endless chain of attributes that it makes up.
    while waiting and len(seen) < _MOST_LAYERS:
        layer = waiting.pop(0)
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        if isinstance(layer, type):
            continue
        inner = [getattr(layer, "__wrapped__", None)]
        if isinstance(layer, partial | partialmethod):
            inner.append(layer.func)
        elif isinstance(layer, MethodType):
            inner.append(layer.__func__)
        elif not isinstance(layer, FunctionType | BuiltinFunctionType):
            inner.append(getattr(type(layer), "__call__", None))  # noqa: B004
        waiting += [each for each in inner if callable(each) and not isinstance(each, _IN_C)]
