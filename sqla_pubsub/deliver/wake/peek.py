"""The statement by which a sleeper looks whether there is work."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Executable, Text, bindparam, func, literal, select, tuple_

from sqla_pubsub.deliver.claim.statements import HIGHEST
from sqla_pubsub.deliver.io.place import Place


def peek(place: Place) -> Executable:
    """Is anything ready, and in how many seconds is the next retry due? What is paused has nothing.

    Parameters: listeners, low-water marks (of each the lowest id to look at), channel.
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
        .limit(1)
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
    looked = select(
        (func.count(first) > 0).label("ready"),
        func.extract("epoch", func.min(due) - func.clock_timestamp()).label("due_in"),
        select(literal(1))
        .select_from(channel)
        .where(channel.c.channel == bindparam("channel", type_=Text))
        .exists()
        .label("listening"),
    ).select_from(name)
    if place.listeners is None:
        return looked
    paused = select(literal(1)).select_from(place.listeners).where(place.listeners.c.name == name.c.name)
    return looked.where(~paused.correlate(name).exists())
