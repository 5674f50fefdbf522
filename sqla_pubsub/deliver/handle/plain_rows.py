"""Rows of plain types, which are read here and need no statement.

JSON has whole numbers, text and booleans of its own, and dates and timestamps without a time zone have one form in it;
Python makes the same of them as PostgreSQL and a driver. So a row that has only these is read here. Each value has to be
of exactly that form: where one is not (a number for a column that the model calls text, ``infinity``, an escaped NUL),
PostgreSQL reads the rows, or says what is wrong with them.

Floating-point numbers are left to it, because ``-0`` is none in JSON; so are timestamps with a time zone, which are shown
in that of the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from sqlalchemy import types
from sqlalchemy.dialects import postgresql as pg

from sqla_pubsub.deliver.handle.reading import Kind

_BIGINT = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_NUL = "\\u0000"

_PLAIN: tuple[tuple[type[Kind], Any, int], ...] = (
    (types.BigInteger, _BIGINT, 20),
    (types.Text, str, 25),
    (types.Boolean, bool, 16),
    (types.Date, date, 1082),
    (pg.TIMESTAMP, Annotated[datetime, msgspec.Meta(tz=False)], 1114),
)
"""Types that a value is read as, what Python makes of it, and the code by which drivers know them (pg_type.oid)."""


class PlainRows:
    """Reads rows of plain types.

    Args:
        names: Of the columns; they are written in JSON as they are.
        kinds: What each is made of.
        codes: The driver's codes of their types.
    """

    def __init__(self, names: Sequence[str], kinds: Sequence[Any], codes: Sequence[int]) -> None:
        fields = [f"v{number}" for number in range(len(names))]
        row = msgspec.defstruct(
            "Row",
            [(field, kind | None, None) for field, kind in zip(fields, kinds, strict=True)],
            rename=dict(zip(fields, names, strict=True)),
            gc=False,
        )
        self.codes = tuple(codes)
        self._decoder = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]

    def read(self, payloads: str) -> list[tuple[Any, ...]] | None:
        """Return the values of each row, None where PostgreSQL has to read them.

        Args:
            payloads: A JSON array of objects.
        """
        if _NUL in payloads:
            return None
        try:
            rows = self._decoder.decode(payloads)
        except (msgspec.MsgspecError, RecursionError):
            return None
        return [msgspec.structs.astuple(row) for row in rows]


def plain_rows(names: Sequence[str], kinds: Sequence[Kind | None]) -> PlainRows | None:
    """Return what reads rows here, None where one of their columns is of another type.

    Args:
        names: Of the columns.
        kinds: What each is read as, see `reading.read_as`.
    """
    plain = [found for kind in kinds if (found := _plain(kind)) is not None]
    if len(plain) < len(kinds) or not all(map(_is_written_as_it_is, names)):
        return None
    return PlainRows(names, [made for made, _ in plain], [code for _, code in plain])


def _plain(kind: Kind | None) -> tuple[Any, int] | None:
    """Return what Python makes of a type, and its code; None for one that is not plain."""
    if isinstance(kind, pg.TIMESTAMP) and kind.timezone:
        return None
    return next(((made, code) for plain, made, code in _PLAIN if type(kind) is plain), None)


def _is_written_as_it_is(name: str) -> bool:
    """Whether JSON writes a name without an escape."""
    return name.isprintable() and not {'"', "\\"} & set(name)
