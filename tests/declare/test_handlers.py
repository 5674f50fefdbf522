"""Which functions may be handlers: calling them must run them."""

import functools
import runpy
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sqla_pubsub import ConfigurationError, after_insert, on_message
from sqla_pubsub.declare.covered import is_covered
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


def in_general(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **others: Any) -> Any:
        return function(*arguments, **others)

    return wrapper


def named(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(new: Any) -> Any:
        return function(new)

    return wrapper


def of_more(new: Any, mailer: str) -> None: ...


def misspelt(nwe: Any) -> None: ...


def of_position(new: Any, /) -> None: ...


def with_default(new: Any, dry: bool = False) -> None: ...


def of_several(events: Any) -> None: ...


def of_several_and_one(events: Any, new: Any) -> None: ...


CAUSES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a lambda": (
        lambda new: None,
        {},
        "is a lambda, which has no name of its own.* Give it .*: name='email_author'",
    ),
    "a partial": (
        functools.partial(of_more, mailer="x"),
        {},
        "an object of type partial, which has no name of its own",
    ),
    "without wraps": (in_general(asynchronous), {}, "If a decorator made it, let that use functools.wraps"),
    "a typing error": (misspelt, {}, "has a parameter 'nwe: .*Any', which nothing fills. Do you mean 'new'"),
    "by position only": (of_position, {}, "It cannot be given by name: take out the '/'"),
    "a default": (with_default, {}, "Set it in the function, or with functools.partial"),
    "a function in a class": (Plain.send, {}, "gets no instance: declare a method of one"),
    "events without a batch": (of_several, {}, "Only with batch= there are events"),
    "a row of a batch": (
        of_several_and_one,
        {"batch": 5},
        "With batch= there are several: each of events has it",
    ),
    "a partial without the rest": (functools.partial(of_more), {"name": "x"}, "has a parameter 'mailer: "),
}


@pytest.mark.parametrize("case", CAUSES)
def test_the_sentence_says_why_a_handler_is_refused(case: str) -> None:
    handler, options, sentence = CAUSES[case]
    with pytest.raises(ConfigurationError, match=sentence):
        after_insert(Models().Comment, **options)(handler)


def test_what_a_partial_fills_is_not_asked_for() -> None:
    models = Models()
    after_insert(models.Comment, name="x")(functools.partial(of_more, mailer="x"))
    assert registry_of(models.metadata).listeners["x"].parameters == {"new"}


def test_two_functions_of_one_wrapper_are_told_apart_by_wraps() -> None:
    models = Models()
    after_insert(models.Comment)(named(misspelt))
    with pytest.raises(ConfigurationError, match=r"made by the same function: let it use functools\.wraps"):
        after_insert(models.Comment)(named(of_more))


def test_a_file_that_is_imported_under_two_names_is_said(tmp_path: Path) -> None:
    models = Models()
    (tmp_path / "twice.py").write_text("def handle(new): ...")
    for name in ("shop.twice", "twice"):
        module = runpy.run_path(str(tmp_path / "twice.py"), run_name=name)
        if name == "shop.twice":
            after_insert(models.Comment)(module["handle"])
    with pytest.raises(
        ConfigurationError,
        match=r"in shop\.twice\.handle and twice\.handle\. It is one file that was imported under two names",
    ):
        after_insert(models.Comment)(module["handle"])


def test_a_decorator_above_is_seen_where_it_wraps() -> None:
    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return function(*arguments)

        return call

    module = vars(sys.modules[__name__])
    assert not is_covered(of_more)
    original, covered = of_more, traced(of_more)
    module["of_more"] = covered
    try:
        assert is_covered(original)
        assert not is_covered(covered)
    finally:
        module["of_more"] = original
