"""What an entry or a dead letter carries, as the text that the database has stored, cut by the database.

It is never decoded here: a number of a million digits, a document nested a thousand times or a value of a megabyte
would cost this process what it cost the writer. The database takes the two rows apart and compares their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, TableClause, Text, case, cast, func, select, true
from sqlalchemy.exc import DataError, DBAPIError

from sqla_pubsub.errors import sqlstate
from sqla_pubsub.web.shown import shared_ends

Mask = Callable[[str, str, str], str | None]
"""Given source, name and the text of a value, returns what a person without OPERATE sees of it; None hides it."""
MOST_CHARACTERS = 2_000
"""Of one value."""
MOST_FIELDS = 400
HIDDEN = "hidden"
WHOLE = "(all of it)"
"""The name of what cannot be taken apart."""
_UNREADABLE = ("54001", "22P05")


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """The text of a stored value, in three parts, of which the middle one is what differs from its counterpart.

    Attributes:
        parts: Beginning, what differs, end.
        left_out: Characters that are not shown.
    """

    parts: tuple[str, str, str]
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column of a row, or one field of a message.

    Attributes:
        name: Its name.
        old: What it was, None where the event has no old row.
        new: What it became.
        changed: Whether they differ.
    """

    name: str
    old: Value | None
    new: Value | None
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """The difference that an event tells of, and its context."""

    fields: tuple[Field, ...] = ()
    context: tuple[Field, ...] = ()
    more: bool = False
    """Whether there are more fields than are shown."""


def payload_of(
    connection: Connection, table: TableClause, entry_id: int, source: str, mask: Mask | None
) -> Payload:
    """Read what entry *entry_id* of *table* carries.

    Args:
        connection: The database.
        table: The outbox or the dead letters.
        entry_id: Which one.
        source: Of what the event is, for *mask*.
        mask: Applied to every value; None shows them.
    """
    rows = _taken_apart(connection, table, entry_id, ("old", "new"))
    fields = [_field(row, source, "", mask) for row in rows]
    rows = _taken_apart(connection, table, entry_id, ("context",))
    context = [_field(row, source, "context.", mask) for row in rows]
    return Payload(
        fields=tuple(fields[:MOST_FIELDS]),
        context=tuple(context[:MOST_FIELDS]),
        more=len(fields) > MOST_FIELDS or len(context) > MOST_FIELDS,
    )


def _taken_apart(
    connection: Connection, table: TableClause, entry_id: int, columns: Sequence[str]
) -> Sequence[Any]:
    """Return the members of what is stored in *columns*; all in one where the database cannot take it apart."""
    statement = _difference(table, entry_id) if len(columns) == 2 else _context(table, entry_id)
    try:
        with connection.begin_nested():
            return connection.execute(statement).all()
    except DBAPIError as error:
        # json holds what PostgreSQL cannot read again: the escape of a null character, or too many levels.
        if not isinstance(error, DataError) and sqlstate(error) not in _UNREADABLE:
            raise
    return connection.execute(_whole(table, entry_id, columns)).all()


def _members(table: TableClause, column: str, entry_id: int) -> Any:
    """The members of one stored object: none where it is no object."""
    stored = table.c[column]
    # An enclosing query would hand the condition down to where json_each is called all the same.
    each = (
        func.json_each(case((func.json_typeof(stored) == "object", stored)))
        .table_valued("key", "value", with_ordinality="position")
        .render_derived()
        .lateral()
    )
    value = cast(each.c.value, Text)
    return (
        select(
            each.c.key,
            func.left(value, MOST_CHARACTERS).label("value"),
            func.length(value).label("size"),
            func.md5(value).label("digest"),
            each.c.position,
        )
        .select_from(table.join(each, true()))
        .where(table.c.id == entry_id)
        .subquery()
    )


def _difference(table: TableClause, entry_id: int) -> Select[Any]:
    old, new = _members(table, "old", entry_id), _members(table, "new", entry_id)
    return (
        select(
            func.coalesce(new.c.key, old.c.key).label("name"),
            old.c.value.label("old"),
            old.c.size.label("old_size"),
            new.c.value.label("new"),
            new.c.size.label("new_size"),
            (old.c.digest != new.c.digest).label("changed"),
        )
        .select_from(old.join(new, old.c.key == new.c.key, full=True))
        .order_by(func.coalesce(new.c.position, old.c.position))
        .limit(MOST_FIELDS + 1)
    )


def _whole(table: TableClause, entry_id: int, columns: Sequence[str]) -> Select[Any]:
    texts = [cast(table.c[name], Text) for name in columns]
    old, new = texts if len(texts) == 2 else (cast(None, Text), texts[0])
    return select(
        cast(WHOLE, Text).label("name"),
        func.left(old, MOST_CHARACTERS).label("old"),
        func.length(old).label("old_size"),
        func.left(new, MOST_CHARACTERS).label("new"),
        func.length(new).label("new_size"),
        (old != new).label("changed"),
    ).where(table.c.id == entry_id)


def _context(table: TableClause, entry_id: int) -> Select[Any]:
    members = _members(table, "context", entry_id)
    nothing = cast(None, Text)
    return (
        select(
            members.c.key.label("name"),
            nothing.label("old"),
            nothing.label("old_size"),
            members.c.value.label("new"),
            members.c.size.label("new_size"),
            nothing.label("changed"),
        )
        .order_by(members.c.position)
        .limit(MOST_FIELDS + 1)
    )


def _field(row: Any, source: str, prefix: str, mask: Mask | None) -> Field:
    old, new = row.old, row.new
    sizes = {"old": row.old_size, "new": row.new_size}
    if mask is not None:
        name = f"{prefix}{row.name}"
        old, new = (None if text is None else mask(source, name, text) or HIDDEN for text in (old, new))
        sizes = {"old": None, "new": None}
    changed = bool(row.changed)
    begin, end = shared_ends(old, new) if changed and old is not None and new is not None else (0, 0)
    return Field(
        name=row.name,
        old=_value(old, sizes["old"], begin, end, marked=changed),
        new=_value(new, sizes["new"], begin, end, marked=changed),
        changed=changed,
    )


def _value(text: str | None, length: int | None, begin: int, end: int, *, marked: bool) -> Value | None:
    if text is None:
        return None
    stop = len(text) - end
    parts = (text[:begin], text[begin:stop], text[stop:]) if marked else (text, "", "")
    return Value(parts=parts, left_out=max(0, (length or 0) - len(text)))
