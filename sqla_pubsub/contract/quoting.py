"""Quoted identifiers for SQL that is written as text.

Those of an engine's own dialect double every ``%`` for the driver, which is right in a statement and
wrong in a value; and ``text()`` doubles it once more.
"""

from __future__ import annotations

from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.elements import quoted_name

_preparer = postgresql.dialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]


def identifier(name: str) -> str:
    """Return *name* quoted always, so that equal names give equal text.

    >>> identifier("comment")
    '"comment"'
    """
    return str(_preparer.quote_identifier(str(quoted_name(name, quote=None))))


def quoted(name: str) -> str:
    """Return *name* as people write it: quoted where PostgreSQL needs it.

    >>> quoted("comment"), quoted("Comment")
    ('comment', '"Comment"')
    """
    return str(_preparer.quote(name))


def qualified(schema: str | None, name: str) -> str:
    """Return *name*, quoted, with its schema where there is one.

    >>> qualified("Shop %", "comment")
    '"Shop %"."comment"'
    """
    return identifier(name) if schema is None else f"{identifier(schema)}.{identifier(name)}"


def place(name: str) -> str:
    """Return SQL that quotes the name that *name* is an expression for, where PostgreSQL needs quotes.

    As ``quote_ident()`` does, but whatever ``quote_all_identifiers`` is: the outbox's lock key is a hash of it,
    and captures, made by one session, must come to that of the listeners.
    """
    return (
        f"CASE WHEN {name} ~ '^[a-z_][a-z0-9_]*$' AND NOT EXISTS (SELECT FROM pg_catalog.pg_get_keywords() AS k"
        f" WHERE k.word = {name} AND k.catcode <> 'U')"
        f""" THEN {name}::text ELSE '"' || pg_catalog.replace({name}::text, '"', '""') || '"' END"""
    )


def names_of(path: str) -> str:
    """Return a query for the names in the search path that *path* is an expression for, with their positions.

    In quotes or not, which is up to who set it: ``quote_ident()`` of a name may be either, too.
    """
    return f"""\
SELECT coalesce(pg_catalog.replace(p.parts[1], '""', '"'), pg_catalog.lower(p.parts[2])) AS name, p.position
  FROM pg_catalog.regexp_matches({path}, '"((?:[^"]|"")*)"|([^",\\s]+)', 'g') WITH ORDINALITY AS p (parts, position)"""
