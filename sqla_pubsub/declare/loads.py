"""``load=``: the relationships that come loaded with the rows of events.

Nothing here configures the mappers: it is called while the user's modules are still being imported. So what is
behind a relationship is not looked at, only whether the listened model has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from sqlalchemy import inspect
from sqlalchemy.orm import Load, Mapper, QueryableAttribute, RelationshipProperty

from sqla_pubsub.declare.options import refuse

_LAZY_ONLY = ("dynamic", "write_only")
"""Kinds of relationships that are always a query."""
_NOT_LOADING = ("raise", "raise_on_sql", "noload")


def loads_of(name: str, load: object, mapper: Mapper[Any]) -> tuple[Any, ...]:
    """Return what a listener of *mapper* wants loaded: relationships and loader options.

    Args:
        name: The listener's, for messages.
        load: What was given; one alone needs no list.
        mapper: The listened model.

    Raises:
        ConfigurationError: One of them is no relationship of the model and no loader option of one.
    """
    if load is None:
        return ()
    alone = isinstance(load, str | QueryableAttribute | Load) or not isinstance(load, Iterable)
    items = (load,) if alone else tuple(load)  # type: ignore[arg-type]
    for item in items:
        _check(name, item, mapper)
    return items


def refuse_load(name: str, load: object, source: str) -> None:
    """Refuse *load*, if there is any, for a listener whose events have no rows.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if load is not None and load not in ((), []):
        refuse(
            name, f"load= is given for {source}, which has no row", "Leave it out, and query in the handler"
        )


def _check(name: str, item: object, mapper: Mapper[Any]) -> None:
    if isinstance(item, Load):
        _check_option(name, item, mapper)
        return
    if not isinstance(item, QueryableAttribute):
        _refuse(name, mapper, f"load={item!r} is no relationship and no loader option")
    _check_model(name, item.parent, mapper, str(item))
    _check_relationship(name, getattr(item, "prop", None), mapper, str(item))


def _check_option(name: str, option: Load, mapper: Mapper[Any]) -> None:
    root: Any = option.path[0]
    firsts = [element.path.path[1] for element in option.context if len(element.path.path) > 1]
    shown = f"{root.class_.__name__}.{firsts[0].key}" if firsts and hasattr(firsts[0], "key") else str(root)
    _check_model(name, root, mapper, shown)
    for first, element in zip(firsts, option.context, strict=True):
        _check_relationship(name, first, mapper, shown)
        if len(element.path.path) <= 3 and dict(element.strategy or ()).get("lazy") in _NOT_LOADING:
            _refuse(name, mapper, f"load= has an option that loads nothing of {shown}")
    if not firsts:
        _refuse(name, mapper, f"load= has the option {option}, which loads no relationship")


def _check_model(name: str, parent: Any, mapper: Mapper[Any], shown: str) -> None:
    if not isinstance(parent, Mapper):
        _refuse(name, mapper, f"load={shown} is of an alias")
    if not mapper.isa(parent) and not parent.isa(mapper):
        _refuse(name, mapper, f"load={shown} is no relationship of {mapper.class_.__name__}")


def _check_relationship(name: str, prop: object, mapper: Mapper[Any], shown: str) -> None:
    if not isinstance(prop, RelationshipProperty):
        _refuse(name, mapper, f"load={shown} is no relationship")
    if prop.lazy in _LAZY_ONLY:
        _refuse(
            name, mapper, f"load={shown} has lazy={prop.lazy!r}, which is never loaded but always a query"
        )


def _refuse(name: str, mapper: Mapper[Any], found: str) -> NoReturn:
    model = mapper.class_.__name__
    names = [
        key
        for key, each in inspect(mapper.class_).all_orm_descriptors.items()
        if isinstance(getattr(each, "prop", None), RelationshipProperty)
    ]
    if not names:
        refuse(name, found, f"{model} has no relationship: leave load= out")
    first = f"{model}.{names[0]}"
    remedy = (
        f"Give a list of relationships of {model}, such as load=[{first}], or of loader options that begin with one, "
        f"such as load=[selectinload({first})]. {model} has: {', '.join(names)}"
    )
    refuse(name, found, remedy)
