"""How many entries a statement finds at most."""

from __future__ import annotations

from sqlalchemy import BigInteger, ScalarSelect, bindparam, cast, literal_column, select


def at_most(name: str) -> ScalarSelect[int]:
    """Return a limit, the parameter *name*, that the server does not know before it plans.

    Of an outbox without statistics it expects fewer entries than the limit, and to sort all that are there seems as good
    to it then as to walk the index. With a limit unknown to it, it expects to be asked for a tenth of them.
    """
    return select(cast(bindparam(name, type_=BigInteger), BigInteger)).scalar_subquery()


SIZE: ScalarSelect[int] = at_most("size")
FIRST: ScalarSelect[int] = select(literal_column("1", BigInteger)).scalar_subquery()
"""A limit of one, of which the same holds."""
