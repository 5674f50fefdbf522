"""Payloads: small ones travel with the claim, large ones stay where they are until there is room.

A claim locks many entries and must not return a gigabyte. So it returns the payload of an entry only where that is
known to be small, and else an upper bound of its size. What is large is read afterwards, when it is known to others
which entries are in hand, as many as fit into one group; it is decoded by the server from the row itself, and does
not travel back and forth. Of such a row only a *digest* is read: an object with the same keys, in which a long value
is replaced by its hash. That is enough to know which columns were stored, and which of them differ.

What PostgreSQL has compressed is larger than it looks. Asking for the real size unpacks it, so that is done only where
it cannot be much; else the most that the method can make of it counts.

Source: https://www.postgresql.org/docs/current/storage-toast.html
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from msgspec.structs import replace
from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    TableClause,
    Text,
    any_,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    null,
    select,
    true,
    types,
)

from sqla_pubsub.contract.envelope import Entry
from sqla_pubsub.contract.names import MESSAGE
from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.deliver.io.place import Place

PAYLOAD = ("old", "new", "context")
SMALL = 8_000
"""Bytes of a payload that travels with the claim, where nothing else is said."""
INLINE: BindParameter[int] = bindparam("inline", SMALL, type_=BigInteger)
"""The largest payload that travels with the claim; -1 for none at all."""

_FEW = 2_048
"""Compressed bytes that are unpacked to see how many they are: what is not kept out of line."""
_PGLZ, _LZ4 = 88, 256
"""How many times as large a value may be as compressed: the longest match by the bytes that it takes."""
_SHORT = 100
"""Bytes of a value that stands in a digest as it is."""


# As text, because it is compiled for every claim of every listener that starts.
BOUND: ColumnElement[int] = literal_column(
    " + ".join(
        f"CASE WHEN pg_column_compression({name}) IS NULL THEN coalesce(pg_column_size({name}), 0)"
        f" WHEN pg_column_size({name}) <= {_FEW} THEN octet_length(CAST({name} AS text))"
        f" WHEN pg_column_compression({name}) = 'pglz' THEN pg_column_size({name}) * CAST({_PGLZ} AS bigint)"
        f" ELSE pg_column_size({name}) * CAST({_LZ4} AS bigint) END"
        for name in map(identifier, PAYLOAD)
    ),
    BigInteger,
)
"""The most bytes that the payload of an entry can have."""


def with_small_payloads(found: Select[Any], names: Sequence[str]) -> Select[Any]:
    """Return *found*, which has the columns *names* and `BOUND` as ``large``, with the payloads that are small.

    As a subquery, so that the bound is computed once. What stands in it does the locking.
    """
    c = found.subquery("found").c
    small = c.large <= INLINE
    payload = {name: case((small, cast(c[name], Text))).label(name) for name in PAYLOAD}
    large = case((small, null()), else_=c.large).label("large")
    rest = [each for each in c if each.key not in (*names, "large")]
    return select(*(payload.get(name, c[name]) for name in names), large, *rest)


class Payloads:
    """Reads what did not travel with the claim, on the connection that has the entries in hand.

    Args:
        connection: That connection.
        place: Where the outbox is.
    """

    def __init__(self, connection: Connection, place: Place) -> None:
        self.connection = connection
        self.entry: TableClause = place.entry

    def read(self, entries: Sequence[Entry], most: int = 0, *, digests: bool = True) -> list[Entry]:
        """Return the first ones of *entries*, with what was to be read: at least one, and no more than fit.

        Args:
            entries: Claimed entries.
            most: Bytes of large payloads that may be in hand at once; one entry may have more.
            digests: Whether to read digests; else it is only found out what there is, and its text is ``null``.

        Raises:
            DBAPIError: A payload cannot be read; the transaction is aborted then.
            UnicodeError: The driver cannot show it.
        """
        if all(entry.large is None for entry in entries):
            return list(entries)
        read, spent, waiting = list[Entry](), 0, deque(entries)
        while portion := _portion(waiting, most - spent, one=not read):
            found = self._found(portion, digests=digests)
            for entry in portion:
                if entry.large is None:
                    read.append(entry)
                elif entry.id in found:
                    whole = digests and _is_small(entry)
                    size, old, new, context = found[entry.id]
                    large = None if whole else entry.large
                    spent += size
                    read.append(replace(entry, old=old, new=new, context=context, large=large))
        return read

    def _found(self, portion: list[Entry], *, digests: bool) -> dict[int, Sequence[Any]]:
        waiting = [entry for entry in portion if entry.large is not None]
        small = [entry.id for entry in waiting if digests and _is_small(entry)]
        large = [entry.id for entry in waiting if not digests or not _is_small(entry)]
        found = dict[int, Sequence[Any]]()
        for statement, ids in ((self._whole, small), (self._digests if digests else self._presence, large)):
            if ids:
                found |= {row[0]: row[1:] for row in self.connection.execute(statement, {"ids": ids})}
        return found

    @cached_property
    def _whole(self) -> Select[Any]:
        """Read payloads. Parameter: ids."""
        c = self.entry.c
        old, new, context = (cast(c[name], Text) for name in PAYLOAD)
        size = sum((_length(each) for each in (new, context)), _length(old))
        return self._of(size, old, new)

    @cached_property
    def _digests(self) -> Select[Any]:
        """Read what is small of large payloads. Parameter: ids."""
        old, new = (_digest(self.entry.c[side], side) for side in ("old", "new"))
        size = func.coalesce(old.c.size, literal_column("0")) + func.coalesce(new.c.size, literal_column("0"))
        found = self._of(
            size, *(_made(self.entry.c[side], each) for side, each in (("old", old), ("new", new)))
        )
        return found.select_from(self.entry.join(old, true()).join(new, true()))

    @cached_property
    def _presence(self) -> Select[Any]:
        """Find out which payloads there are. Parameter: ids."""
        c = self.entry.c
        there = (case((c[name].is_not(None), literal_column("'null'"))) for name in ("old", "new"))
        return self._of(literal_column("0"), *there)

    def _of(self, size: ColumnElement[Any], old: ColumnElement[Any], new: ColumnElement[Any]) -> Select[Any]:
        c = self.entry.c
        # A message is read by Python, from its text.
        message = c.operation == literal_column(f"'{MESSAGE}'")
        new = case((message, cast(c.new, Text)), else_=new)
        ids = bindparam("ids", type_=ARRAY(BigInteger))
        return select(c.id, size.label("size"), old, new, cast(c.context, Text)).where(c.id == any_(ids))


def _is_small(entry: Entry) -> bool:
    return (entry.large or 0) <= SMALL


def _portion(waiting: deque[Entry], room: int, *, one: bool) -> list[Entry]:
    """Take from *waiting* what surely fits into *room*, the first one anyway where there must be *one*."""
    portion = list[Entry]()
    while waiting:
        large = waiting[0].large or 0
        if large > room and (portion or not one):
            break
        room -= large
        portion.append(waiting.popleft())
    return portion


def _length(value: ColumnElement[Any]) -> ColumnElement[int]:
    return func.coalesce(func.octet_length(value), literal_column("0"))


def _digest(payload: ColumnElement[Any], name: str) -> Any:
    """Return the digest of a payload and its size, as one row that is joined: a large value is unpacked only once."""
    each = func.json_each(payload).table_valued("key", column("value", types.JSON), name="each")
    value = cast(each.c.value, Text)
    # In the encoding of the database, so that nothing is converted.
    raw = func.convert_to(value, literal_column("getdatabaseencoding()"))
    short = case(
        (func.octet_length(value) <= literal_column(str(_SHORT)), each.c.value),
        else_=func.to_json(func.encode(func.sha256(raw), literal_column("'hex'"))),
    )
    made = cast(func.json_object_agg(each.c.key, short), Text).label("made")
    return select(made, func.sum(func.octet_length(value)).label("size")).lateral(name)


def _made(payload: ColumnElement[Any], digest: Any) -> ColumnElement[Any]:
    return case((payload.is_not(None), func.coalesce(digest.c.made, literal_column("'{}'"))))
