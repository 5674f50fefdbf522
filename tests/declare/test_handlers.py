"""Which functions may be handlers: calling them must run them."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sqla_pubsub import ConfigurationError, after_insert, on_message
from sqla_pubsub.message import Message
from sqla_pubsub.registry import registry_of
from tests.declare.test_declarations import Models


async def asynchronous(new: Any) -> None: ...


async def asynchronous_generator(new: Any) -> AsyncIterator[None]:
    yield


def generator(new: Any) -> Iterator[None]:
    yield


@contextmanager
def manager(new: Any) -> Iterator[None]:
    yield


@functools.wraps(asynchronous)
def wrapper(*arguments: Any, **others: Any) -> Any:
    return asynchronous(*arguments, **others)


class Plain:
    def __init__(self, new: Any = None) -> None: ...

    def __call__(self, new: Any) -> None: ...

    async def send(self, new: Any) -> None: ...

    @staticmethod
    async def static(new: Any) -> None: ...

    @classmethod
    async def of_class(cls, new: Any) -> None: ...


class Asynchronous:
    async def __call__(self, new: Any) -> None: ...


class Generating:
    def __call__(self, new: Any) -> Iterator[None]:
        yield


class Wrapping:
    __call__ = wrapper


class Inner:
    """An object that keeps the function it wraps, as a decorator that is a class does."""

    def __init__(self, function: Any) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, new: Any) -> None: ...


NOT_RUN: dict[str, tuple[Any, str]] = {
    "an async generator": (asynchronous_generator, "an async generator function"),
    "a generator function": (generator, "a generator function"),
    "a context manager": (manager, "a generator function"),
    "a class": (Plain, "the class Plain"),
    "an object that generates": (Generating(), "a generator function"),
    "an object whose call wraps": (Wrapping(), "around an async function, whose coroutine nobody awaits"),
    "an object that wraps": (Inner(asynchronous), "around an async function, whose coroutine nobody awaits"),
    "a wrapper": (wrapper, "around an async function, whose coroutine nobody awaits"),
    "a wrapper of a wrapper": (
        functools.wraps(wrapper)(lambda new: None),
        "around an async function, whose coroutine nobody awaits",
    ),
    "a cached one": (
        functools.cache(asynchronous),
        "around an async function, whose coroutine nobody awaits",
    ),
    "a partial of a partial": (functools.partial(functools.partial(generator)), "a generator function"),
    "a partial of a class": (functools.partial(Plain), "the class Plain"),
    "a lambda that is a generator": (lambda new: (yield), "a generator function"),
}


@pytest.mark.parametrize("found", NOT_RUN)
@pytest.mark.parametrize("batch", [None, 10])
def test_a_handler_that_a_call_does_not_run_is_refused(found: str, batch: int | None) -> None:
    handler, words = NOT_RUN[found]
    models = Models()
    with pytest.raises(ConfigurationError, match=words):
        after_insert(models.Comment, name="handle", batch=batch)(handler)
    assert "handle" not in registry_of(models.metadata).listeners


@pytest.mark.parametrize("found", NOT_RUN)
def test_the_same_holds_for_messages(found: str) -> None:
    class Sent(Message, metadata=Models().metadata, name="sent"):
        pass

    handler, words = NOT_RUN[found]
    with pytest.raises(ConfigurationError, match=words):
        on_message(Sent, name="handle")(handler)


def plain(new: Any) -> None: ...


RUN: dict[str, Callable[..., Any]] = {
    "an object": Plain(),
    "a partial of an object": functools.partial(Plain()),
    "a partial": functools.partial(lambda more, new: None, 1),
    "a wrapper": functools.wraps(plain)(lambda new: None),
    "an object that wraps": Inner(plain),
    "a method": Plain().__call__,
}


@pytest.mark.parametrize("found", RUN)
def test_what_a_call_runs_may_be_a_handler(found: str) -> None:
    models = Models()
    after_insert(models.Comment, name="handle")(RUN[found])
    spec = registry_of(models.metadata).listeners["handle"]
    assert spec.handler is RUN[found]
    assert not spec.asynchronous


@functools.wraps(plain)
async def asynchronous_wrapper(new: Any) -> None: ...


ASYNCHRONOUS: dict[str, Callable[..., Any]] = {
    "async def": asynchronous,
    "an object with an async call": Asynchronous(),
    "a partial": functools.partial(asynchronous),
    "a partial of an object": functools.partial(Asynchronous()),
    "a method": Plain().send,
    "a static method": Plain.static,
    "a class method": Plain.of_class,
    "an async wrapper": asynchronous_wrapper,
    "an async wrapper of an async function": functools.wraps(asynchronous)(asynchronous_wrapper),
}


@pytest.mark.parametrize("found", ASYNCHRONOUS)
def test_what_is_awaited_may_be_a_handler(found: str) -> None:
    models = Models()
    after_insert(models.Comment, name="handle")(ASYNCHRONOUS[found])
    assert registry_of(models.metadata).listeners["handle"].asynchronous


def test_two_objects_of_one_name_are_told_apart_by_their_class() -> None:
    models = Models()
    after_insert(models.Comment, name="handle")(Plain())
    with pytest.raises(ConfigurationError, match=r"declared twice, in .*Plain and .*partial"):
        after_insert(models.Comment, name="handle")(functools.partial(Plain()))
