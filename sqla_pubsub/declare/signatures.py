"""What a type checker knows of the event decorators: which handlers they take, and that they return them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Never, ParamSpec, Protocol, TypeVar, overload

from sqla_pubsub.declare.handler_types import (
    TakesBatch,
    TakesBatchS,
    TakesC,
    TakesE,
    TakesEC,
    TakesEN,
    TakesENC,
    TakesENS,
    TakesENSC,
    TakesEO,
    TakesEOC,
    TakesEON,
    TakesEONC,
    TakesEONS,
    TakesEONSC,
    TakesEOS,
    TakesEOSC,
    TakesES,
    TakesESC,
    TakesN,
    TakesNC,
    TakesNothing,
    TakesNS,
    TakesNSC,
    TakesO,
    TakesOC,
    TakesON,
    TakesONC,
    TakesONS,
    TakesONSC,
    TakesOS,
    TakesOSC,
    TakesS,
    TakesSC,
)

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E")
O = TypeVar("O")  # noqa: E741
N = TypeVar("N")


class Declares(Protocol[E, O, N]):
    """A decorator of handlers, which returns what it is given."""

    @overload
    def __call__(self, handler: TakesN[P, R, N], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesE[P, R, E], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesO[P, R, O], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesS[P, R, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesC[P, R, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEN[P, R, E, N], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesON[P, R, O, N], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesNS[P, R, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesNC[P, R, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEO[P, R, E, O], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesES[P, R, E, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEC[P, R, E, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesOS[P, R, O, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesOC[P, R, O, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesSC[P, R, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEON[P, R, E, O, N], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesENS[P, R, E, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesENC[P, R, E, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesONS[P, R, O, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesONC[P, R, O, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesNSC[P, R, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEOS[P, R, E, O, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEOC[P, R, E, O, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesESC[P, R, E, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesOSC[P, R, O, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEONS[P, R, E, O, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEONC[P, R, E, O, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesENSC[P, R, E, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesONSC[P, R, O, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEOSC[P, R, E, O, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesEONSC[P, R, E, O, N, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesBatch[P, R, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesBatchS[P, R, Never], /) -> Callable[P, R]: ...
    @overload
    def __call__(self, handler: TakesNothing[R, Never], /) -> Callable[[], R]: ...
