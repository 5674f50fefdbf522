"""Hypothesis: any trigger that a declaration could lead to."""

from hypothesis import strategies as st

from sqla_pubsub.contract.names import OPERATIONS
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec

# PostgreSQL's text knows no NUL and no surrogates.
_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names = st.text(_characters, min_size=1, max_size=20)
_name_lists = st.lists(names, max_size=3, unique=True).map(tuple)


def listeners() -> st.SearchStrategy[CapturedListener]:
    """Any listener of a trigger."""
    return st.builds(
        CapturedListener,
        name=names,
        of=_name_lists,
        when=st.none() | st.text(_characters, min_size=1),
        ordered=st.booleans(),
    )


def specs() -> st.SearchStrategy[TriggerSpec]:
    """Any trigger."""
    return st.builds(
        TriggerSpec,
        table=names,
        operation=st.sampled_from(OPERATIONS),
        listeners=st.lists(listeners(), min_size=1, max_size=3, unique_by=lambda item: item.name).map(tuple),
        schema=st.none() | names,
        key=_name_lists,
        zoned=_name_lists,
        columns=st.none() | _name_lists,
        exclude=_name_lists,
        capture=st.sampled_from(["statement", "row"]),
        prefix=st.sampled_from(["pubsub_", "shop_"]),
        outbox_schema=st.none() | names,
    )


def fan_outs() -> st.SearchStrategy[FanOut]:
    """Any set of messages with their listeners."""
    readers = st.dictionaries(names, st.none() | names, max_size=3).map(
        lambda found: tuple(sorted(found.items()))
    )
    messages = st.dictionaries(names, readers, min_size=1, max_size=3)
    return st.builds(
        FanOut,
        messages=messages.map(lambda found: tuple(sorted(found.items()))),
        prefix=st.sampled_from(["pubsub_", "shop_"]),
        outbox_schema=st.none() | names,
    )
