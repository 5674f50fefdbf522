"""What a type checker knows of handlers: which parameters they may have, and of which types.

A handler takes any of five parameters, by name, and stays what it is. So there is one protocol for each set of names,
with two overloads of its call. A function fits where it fits both: the first one takes it as it is, so that the decorated
function keeps its signature; the second one is the call that a listener makes. A parameter that is not filled for
an operation is given None: ``new: Comment | None`` is right for inserts and deletes together, ``new: Comment`` is not.

The class of ``session`` is left to the listener's settings, and ``context`` and the elements of ``events`` to the handler:
a list of two kinds of events is no list of one of them.
"""

# ruff: noqa: D101, D102 - a name has the first letters of the parameters.

from __future__ import annotations

from typing import ParamSpec, Protocol, TypeVar, overload

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
E_contra = TypeVar("E_contra", contravariant=True)
"""The event."""
O_contra = TypeVar("O_contra", contravariant=True)
"""The row before, or None."""
N_contra = TypeVar("N_contra", contravariant=True)
"""The row after, or None."""
N_co = TypeVar("N_co", covariant=True)
"""Never. A protocol without a type of its own is the one that mypy names for each handler that fits none."""
S_contra = TypeVar("S_contra", contravariant=True)
"""Never, which every parameter takes: not judged here."""


class TakesN(Protocol[P, R_co, N_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, new: N_contra) -> R_co: ...


class TakesE(Protocol[P, R_co, E_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra) -> R_co: ...


class TakesO(Protocol[P, R_co, O_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra) -> R_co: ...


class TakesS(Protocol[P, R_co, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, session: S_contra) -> R_co: ...


class TakesC(Protocol[P, R_co, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, context: S_contra) -> R_co: ...


class TakesEN(Protocol[P, R_co, E_contra, N_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, new: N_contra) -> R_co: ...


class TakesON(Protocol[P, R_co, O_contra, N_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra, new: N_contra) -> R_co: ...


class TakesNS(Protocol[P, R_co, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, new: N_contra, session: S_contra) -> R_co: ...


class TakesNC(Protocol[P, R_co, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, new: N_contra, context: S_contra) -> R_co: ...


class TakesEO(Protocol[P, R_co, E_contra, O_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, old: O_contra) -> R_co: ...


class TakesES(Protocol[P, R_co, E_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, session: S_contra) -> R_co: ...


class TakesEC(Protocol[P, R_co, E_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, context: S_contra) -> R_co: ...


class TakesOS(Protocol[P, R_co, O_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra, session: S_contra) -> R_co: ...


class TakesOC(Protocol[P, R_co, O_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra, context: S_contra) -> R_co: ...


class TakesSC(Protocol[P, R_co, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, session: S_contra, context: S_contra) -> R_co: ...


class TakesEON(Protocol[P, R_co, E_contra, O_contra, N_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, old: O_contra, new: N_contra) -> R_co: ...


class TakesENS(Protocol[P, R_co, E_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, new: N_contra, session: S_contra) -> R_co: ...


class TakesENC(Protocol[P, R_co, E_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, new: N_contra, context: S_contra) -> R_co: ...


class TakesONS(Protocol[P, R_co, O_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra, new: N_contra, session: S_contra) -> R_co: ...


class TakesONC(Protocol[P, R_co, O_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra, new: N_contra, context: S_contra) -> R_co: ...


class TakesNSC(Protocol[P, R_co, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, new: N_contra, session: S_contra, context: S_contra) -> R_co: ...


class TakesEOS(Protocol[P, R_co, E_contra, O_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, old: O_contra, session: S_contra) -> R_co: ...


class TakesEOC(Protocol[P, R_co, E_contra, O_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, old: O_contra, context: S_contra) -> R_co: ...


class TakesESC(Protocol[P, R_co, E_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, session: S_contra, context: S_contra) -> R_co: ...


class TakesOSC(Protocol[P, R_co, O_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra, session: S_contra, context: S_contra) -> R_co: ...


class TakesEONS(Protocol[P, R_co, E_contra, O_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, old: O_contra, new: N_contra, session: S_contra) -> R_co: ...


class TakesEONC(Protocol[P, R_co, E_contra, O_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, old: O_contra, new: N_contra, context: S_contra) -> R_co: ...


class TakesENSC(Protocol[P, R_co, E_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, new: N_contra, session: S_contra, context: S_contra) -> R_co: ...


class TakesONSC(Protocol[P, R_co, O_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, old: O_contra, new: N_contra, session: S_contra, context: S_contra) -> R_co: ...


class TakesEOSC(Protocol[P, R_co, E_contra, O_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, event: E_contra, old: O_contra, session: S_contra, context: S_contra) -> R_co: ...


class TakesEONSC(Protocol[P, R_co, E_contra, O_contra, N_contra, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self, *, event: E_contra, old: O_contra, new: N_contra, session: S_contra, context: S_contra
    ) -> R_co: ...


class TakesBatch(Protocol[P, R_co, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, events: S_contra) -> R_co: ...


class TakesBatchS(Protocol[P, R_co, S_contra]):
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *, events: S_contra, session: S_contra) -> R_co: ...


class TakesNothing(Protocol[R_co, N_co]):
    def __call__(self) -> R_co | N_co: ...
