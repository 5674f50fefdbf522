"""What the types of a table's columns ask of its capture, read from the catalog when a migration runs.

PostgreSQL writes a value of a type that has a cast to json by that cast: a function of somebody else, which
may fail the application's own statement, and which would run as the owner of the capture. The value travels
as the text that its type's output function gives, instead. Nothing of a row is converted that does not travel.

Sources: https://www.postgresql.org/docs/current/functions-json.html#FUNCTIONS-JSON-CREATION-TABLE (to_json)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import BigInteger, Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from sqla_pubsub.declare.capture.function import looked_at
from sqla_pubsub.declare.spec import TriggerSpec

Values = Mapping[str, str | None]
"""By the names of `sqla_pubsub.declare.capture.body.VALUES`."""

# hstore is the one type with such a cast that always travelled as an object, and its cast cannot fail.
# An object identifier below 16384 is PostgreSQL's own, and it looks for no cast there. What an array, a
# composite type or a domain is made of is converted in the same way.
_CAST = """\
WITH RECURSIVE part (name, number, oid) AS (
    SELECT a.attname, a.attnum, a.atttypid FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = {relation} AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT part.name, part.number, inside.oid FROM part JOIN pg_catalog.pg_type AS t ON t.oid = part.oid
    CROSS JOIN LATERAL (
      SELECT t.typbasetype WHERE t.typtype = 'd'
      UNION ALL SELECT t.typelem
      WHERE t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc
      UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
      WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) AS inside (oid))
  SELECT DISTINCT part.name FROM part JOIN pg_catalog.pg_type AS t ON t.oid = part.oid
  JOIN pg_catalog.pg_cast AS c ON c.castsource = part.oid
  WHERE c.casttarget = 'pg_catalog.json'::pg_catalog.regtype AND c.castmethod = 'f'
    AND part.oid >= 16384 AND t.typname <> 'hstore' AND t.typtype NOT IN ('c', 'd')
    AND t.typsubscript <> 'pg_catalog.array_subscript_handler'::pg_catalog.regproc"""

# A null is no value of every domain, and asking would run its constraints.
_MAY_BE_NULL = """\
(t.typtype <> 'd' OR NOT t.typnotnull
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid)
      AND (SELECT b.typtype FROM pg_catalog.pg_type AS b WHERE b.oid = t.typbasetype) <> 'd')"""


def values_query(relation: str, exclude: str, named: str) -> str:
    """Return the query for the values that a body asks for, but for the table itself; NULL is none.

    Args:
        relation: The table's oid, as SQL.
        exclude: An array of the columns that do not travel.
        named: An array of those that the capture looks at by name.

    Returns:
        A query of one row: the columns to leave unconverted as a literal, whether one of *exclude* is not among
        them, the texts that travel in place of values, the columns of those texts which *named* does not hold.
    """
    quoted = "'\"' || pg_catalog.replace(f.name, '\"', '\"\"') || '\"'"
    # Not by the cast to text, which is somebody else's function too.
    written = f"'CASE pg_catalog.num_nonnulls(' || {quoted} || ') WHEN 1 THEN pg_catalog.concat(' || {quoted}"
    return f"""\
SELECT
    pg_catalog.quote_literal(pg_catalog.json_object_agg(f.name, NULL::text ORDER BY f.number)
      FILTER (WHERE f.nullable)),
    CASE WHEN pg_catalog.count(*) FILTER (WHERE f.excluded AND f.nullable) <> pg_catalog.cardinality({exclude})
      THEN 'true' END,
    pg_catalog.string_agg({written} || ') END AS ' || {quoted}, ', ' ORDER BY f.number)
      FILTER (WHERE f.converted AND NOT f.excluded),
    pg_catalog.string_agg('NULL::pg_catalog.void AS ' || {quoted}, ', ' ORDER BY f.number)
      FILTER (WHERE f.converted AND NOT f.excluded AND f.name <> ALL ({named}))
  FROM (
    SELECT a.attname::text, a.attnum, a.attname = ANY ({exclude}), c.name IS NOT NULL, {_MAY_BE_NULL}
    FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN ({_CAST.format(relation=relation)}) AS c ON c.name = a.attname
    WHERE a.attrelid = {relation} AND a.attnum > 0 AND NOT a.attisdropped
  ) AS f (name, number, excluded, converted, nullable)
  WHERE f.converted OR f.excluded"""


_NAMES = "ARRAY(SELECT pg_catalog.json_array_elements_text(CAST(u.{} AS json)))"
_VALUES = text(
    f"""
    SELECT v.cleared, v.uncleared, v.texts, v.missing
    FROM unnest(CAST(:relations AS oid[]), CAST(:excluded AS text[]), CAST(:named AS text[]))
      WITH ORDINALITY AS u (relation, excluded, named, position)
    CROSS JOIN LATERAL ({values_query("u.relation", _NAMES.format("excluded"), _NAMES.format("named"))}
    ) AS v (cleared, uncleared, texts, missing)
    ORDER BY u.position
    """
).bindparams(
    bindparam("relations", type_=ARRAY(BigInteger)),
    bindparam("excluded", type_=ARRAY(TEXT)),
    bindparam("named", type_=ARRAY(TEXT)),
)


def find_values(connection: Connection, captures: Sequence[tuple[int, TriggerSpec | None]]) -> list[Values]:
    """Return what a migration would fill into the bodies of *captures* now, each with the oid of its table."""
    asked = [(oid, spec) for oid, spec in captures if spec is not None]
    if not asked:
        return [{} for _ in captures]
    rows = connection.execute(
        _VALUES,
        {
            "relations": [oid for oid, _ in asked],
            "excluded": [json.dumps(spec.exclude) for _, spec in asked],
            "named": [json.dumps(looked_at(spec)) for _, spec in asked],
        },
    ).mappings()
    return [{} if spec is None else dict(next(rows)) for _, spec in captures]
