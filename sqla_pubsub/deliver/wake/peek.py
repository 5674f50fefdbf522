"""The statement by which a sleeper looks whether there is work."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Executable,
    Text,
    bindparam,
    case,
    false,
    func,
    literal,
    null,
    select,
    tuple_,
)

from sqla_pubsub.deliver.claim.bounds import FIRST
from sqla_pubsub.deliver.claim.statements import HIGHEST
from sqla_pubsub.deliver.io.place import Place
from sqla_pubsub.deliver.io.prepared import prepared


def peek(place: Place) -> Executable:
    """Of each listener: is anything ready, and in how many seconds is the next retry due? What is paused has nothing.

    Parameters: listeners, low_waters (of each the lowest id to look at), channel. Columns: name, ready, due_in, listening.
    """
    c = place.entry.c
    arrays = bindparam("listeners", type_=ARRAY(Text)), bindparam("low_waters", type_=ARRAY(BigInteger))
    name = func.unnest(*arrays).table_valued("name", "low_water").render_derived("l")
    pair = tuple_(c.listener, c.id)
    # Not EXISTS, for which the server may as well read the table: it expects to find one soon.
    first = (
        select(c.id)
        .where(
            pair >= tuple_(name.c.name, name.c.low_water),
            pair <= tuple_(name.c.name, HIGHEST),
            c.due_at.is_(None),
        )
        .order_by(c.listener, c.id)
        .limit(FIRST)
        .correlate(name)
        .scalar_subquery()
    )
    due = (
        select(func.min(c.due_at))
        .where(c.listener == name.c.name, c.due_at.is_not(None))
        .correlate(name)
        .scalar_subquery()
    )
    channel = func.pg_listening_channels().table_valued("channel").render_derived("c")
    ready: ColumnElement[bool] = first.is_not(None)
    due_in: ColumnElement[Any] = func.extract("epoch", due - func.clock_timestamp())
    if place.listeners is not None:
        listeners = place.listeners.c
        paused = select(literal(1)).where(listeners.name == name.c.name).correlate(name).exists()
        ready, due_in = case((paused, false()), else_=ready), case((paused, null()), else_=due_in)
    listening = (
        select(literal(1)).select_from(channel).where(channel.c.channel == bindparam("channel", type_=Text))
    )
    seen = select(
        name.c.name, ready.label("ready"), due_in.label("due_in"), listening.exists().label("listening")
    )
    return seen.select_from(name).execution_options(**prepared("look"))
