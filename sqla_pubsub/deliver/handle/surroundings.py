"""What an application puts around its handlers: the class of its sessions, and contexts to enter.

A handler is written in the application's own words. It calls ``session.exec`` where the application's sessions have
that, reads ``current_app`` where there is a Flask application, and takes a connection of a container for the time of one
call. So its session is of the application's class, and ``around`` is entered about each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import cached_property
from inspect import isasyncgenfunction, unwrap
from typing import Any, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from sqla_pubsub.current import CurrentEvent, current_event
from sqla_pubsub.deliver.handle.deferred_inserts import DeferredSession
from sqla_pubsub.deliver.handle.outside_session import OutsideSession
from sqla_pubsub.deliver.handle.session import HandlerSession
from sqla_pubsub.deliver.instrument import Observer
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.values import shown

SessionClass = type[Session] | sessionmaker[Any]
"""A subclass of Session, or what makes sessions of one with options of its own."""
Around = Callable[[CurrentEvent], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
"""Returns a context manager for one call of a handler."""

S = TypeVar("S", bound=Session)

_OURS = (
    "bind",
    "binds",
    "expire_on_commit",
    "join_transaction_mode",
    "autobegin",
    "twophase",
    "enable_baked_queries",
)
"""Options of a session on which its transaction depends: they are the listener's."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """How the sessions of handlers are made, and what is entered about each call.

    Attributes:
        session_class: The class of their sessions.
        around: Contexts about each call, the outermost first.

    Raises:
        ConfigurationError: One of them is of another kind, or the class cannot be made into a handler's session.
    """

    session_class: SessionClass = Session
    around: tuple[Around, ...] = ()

    def __post_init__(self) -> None:
        for each in self.around:
            if not callable(each):
                raise ConfigurationError(
                    f"around={shown(each)}: give functions that take the current event and return a context manager."
                )
        base: object = self.base
        if not isinstance(base, type) or not issubclass(base, Session):
            raise ConfigurationError(
                f"session_class={shown(self.session_class)}: give a subclass of sqlalchemy.orm.Session, or a sessionmaker."
            )
        if base is not Session or self.options:
            self._try()

    def refuse_awaited(self) -> None:
        """Refuse contexts that have to be awaited, where they can be known before they are made.

        Raises:
            ConfigurationError: One of them.
        """
        for each in self.around:
            if is_awaited(each):
                raise ConfigurationError(
                    f"around={shown(each)} is an asynchronous context manager, and the handlers are plain functions. "
                    "Give one that 'with' can enter, as @contextmanager makes it."
                )

    @property
    def base(self) -> type[Session]:
        """The class of the application's sessions."""
        given = self.session_class
        return given.class_ if isinstance(given, sessionmaker) else given

    @cached_property
    def options(self) -> dict[str, Any]:
        """What the application makes its sessions with, but for what belongs to the listener."""
        given = self.session_class
        options = given.kw if isinstance(given, sessionmaker) else {}
        return {name: value for name, value in options.items() if name not in _OURS}

    @cached_property
    def inside(self) -> type[HandlerSession]:
        """The class of sessions inside the listener's transaction."""
        return _joined(HandlerSession, self.base)

    @cached_property
    def deferred(self) -> type[DeferredSession]:
        """The class of the session that writes what handlers only added."""
        return _joined(DeferredSession, self.base)

    @cached_property
    def outside(self) -> type[OutsideSession]:
        """The class of sessions that commit by themselves."""
        return _joined(OutsideSession, self.base)

    def call(self, handler: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call a plain handler inside of the contexts, and return what it returned."""
        failed: BaseException | None = None
        event = _event()
        with ExitStack() as stack:
            for each in self.around:
                stack.enter_context(_plain(each(event), each))
            try:
                returned = handler(**arguments)
            except BaseException as error:
                failed = error
                raise
        if failed is not None:
            # A context has swallowed it. The event was not handled for that.
            raise failed
        return returned

    async def await_call(self, handler: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Await a handler inside of the contexts, which may be plain ones too."""
        failed: BaseException | None = None
        event = _event()
        async with AsyncExitStack() as stack:
            for each in self.around:
                await entered(stack, each(event))
            try:
                returned = await handler(**arguments)
            except BaseException as error:
                failed = error
                raise
        if failed is not None:
            raise failed
        return returned

    def _try(self) -> None:
        """A class that wants other arguments would fail at each event."""
        try:
            _joined(OutsideSession, self.base)(_unconnected, **self.options)
        except TypeError as error:
            raise ConfigurationError(
                f"session_class={shown(self.session_class)} cannot be made: {error}. Handlers get sessions of a subclass of "
                "it, made with keywords of Session: let its __init__ take and pass on such, or give the sessionmaker "
                "that knows the other arguments."
            ) from error


def is_awaited(around: Around) -> bool:
    """Whether it makes contexts that have to be awaited, as ``@asynccontextmanager`` does."""
    return isasyncgenfunction(unwrap(around))


async def entered(stack: AsyncExitStack, manager: Any) -> None:
    """Enter a context manager, awaited or plain."""
    if hasattr(manager, "__aenter__"):
        await stack.enter_async_context(manager)
    else:
        stack.enter_context(manager)


def contexts(around: Around | Sequence[Around] | None) -> tuple[Around, ...]:
    """Return one or several as a tuple."""
    if around is None:
        return ()
    return tuple(around) if isinstance(around, Sequence) else (around,)


def observers_of(around: Iterable[Around], engine: Engine, listeners: Sequence[str]) -> list[Observer]:
    """Return who is told what becomes of the calls, of those that ask for it by a method ``observing``."""
    asking = dict.fromkeys(each for each in around if hasattr(each, "observing"))
    return [cast("Any", each).observing(engine, listeners) for each in asking]


def _joined(ours: type[S], base: type[Session]) -> type[S]:
    if base is Session:
        return ours
    return cast("type[S]", type(base.__name__, (ours, base), {"__module__": base.__module__}))


def _plain(manager: Any, around: Around) -> AbstractContextManager[Any]:
    if not hasattr(manager, "__enter__"):
        kind = "an asynchronous context manager" if hasattr(manager, "__aenter__") else shown(manager)
        raise ConfigurationError(
            f"around: {getattr(around, '__qualname__', around)} returned {kind}, and the handler is a plain function. "
            "Return a context manager that 'with' can enter."
        )
    return cast("AbstractContextManager[Any]", manager)


def _event() -> CurrentEvent:
    event = current_event.get()
    assert event is not None
    return event


def _unconnected() -> Any:
    raise AssertionError("made to see that it can be made; it is never used")
