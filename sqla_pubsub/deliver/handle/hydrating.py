"""Instances of rows, as a query that loads them would make them.

`sqlalchemy.orm.make_transient_to_detached` asks an instance for its key and for each attribute that is not loaded, and
that costs more than all the rest of an instance. For the same class and the same columns the answer is always the same.
So there is a function for each of these, which knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import instance_dict, instance_state

from sqla_pubsub.deliver.handle.mapped import Shape

Maker = Callable[[Sequence[Any]], Any]
"""Makes a detached instance of the values of a row, None where somebody hears of instances of its class."""


def is_heard(mapper: Mapper[Any]) -> bool:
    """Whether anybody is told of instances that are loaded or expired: who is may do anything with them."""
    heard = mapper.class_manager.dispatch
    return bool(heard.load) or bool(heard.expire)


def maker_of(mapper: Mapper[Any], shape: Shape, width: int, absent: Collection[int]) -> Maker | None:
    """Return what makes instances of a class as long as nobody hears of them, None where its key is not in the row.

    Args:
        mapper: The class.
        shape: Where its attributes are found.
        width: How many values a row has.
        absent: Indexes of those that stand for nothing.
    """
    found = {name: index for name, index in shape.columns if index not in absent}
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    if not all(key in found for key in keys):
        return None
    key_places = [found[key] for key in keys]
    found |= {name: index for name, index in shape.expressions if index < width}
    manager = mapper.class_manager
    late = [name for name in manager if name not in found and manager[name].impl.accepts_scalar_loader]
    names, places = tuple(found), tuple(found.values())
    pick = None if places == tuple(range(width)) else _picking(places)
    new_instance, key_of, key_pick = (
        manager.new_instance,
        mapper.identity_key_from_primary_key,
        _picking(key_places),
    )

    def make(row: Sequence[Any]) -> Any:
        if is_heard(mapper):
            return None
        instance = new_instance()
        state = instance_state(instance)
        instance_dict(instance).update(zip(names, row if pick is None else pick(row), strict=True))
        state.key = key_of(key_pick(row))
        if late:
            state.expired_attributes.update(late)
        return instance

    return make


def _picking(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(places) == 1:
        [only] = places
        return lambda row: (row[only],)
    return itemgetter(*places)
