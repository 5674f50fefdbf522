"""The JSON of a row without the columns that do not travel, in the SQL of a capture.

Not by naming the others: one that is added later travels too. Such a column is null in the copy of the row that
is converted, so that nobody's value is. Then its member has to go. Taking the object apart is always right, and
costs as much as all the rest. Cutting the member out of the text is right where nothing else looks like it, which
is asked first, in a statement of its own: a plan that could do both would cost every statement of one row more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sqla_pubsub.declare.capture.body import VALUES, literal, where
from sqla_pubsub.declare.capture.cells import GONE, unveiled, veiled, veiled_name

_PLAIN = re.compile(r'\w[^"\\\x00-\x1f]*')
"""Names that stand in JSON as they are. With ``,"`` before and ``":`` after, such a name is nothing but a member's:
a quote after a comma opens a string, unless it closes one, and then no letter follows it."""


def row_without_values(side: str) -> str:
    """Return the JSON of the row *side*, with nulls for the columns that do not travel."""
    head, tail = "pg_catalog.jsonb_populate_record(", f", {VALUES['cleared']}::jsonb)"
    return f"pg_catalog.row_to_json({where('cleared', head)}{side}.*{where('cleared', tail)})"


def can_be_cut(names: Sequence[str]) -> bool:
    """Return whether members of these names can be told from anything else in the text of an object."""
    return bool(names) and all(_PLAIN.fullmatch(name) for name in names)


def ambiguous(side: str, excluded: Mapping[str, str]) -> str:
    """Return the condition for rows that have not all of the columns, or in whose values such a member may be.

    Args:
        side: The row.
        excluded: The names of the columns and what is the value of each, see `sqla_pubsub.declare.capture.cells`.
    """
    members = [_member(name) for name in excluded]
    there = ", ".join(f"pg_catalog.pg_typeof({value})" for value in excluded.values())
    counted = _members(side)
    for member in members[1:]:
        counted = f"pg_catalog.replace({counted}, {literal(member)}, {literal(members[0])})"
    # What comes after one more of them than there are columns is not empty: it ends with a bracket.
    rest = f"pg_catalog.split_part({counted}, {literal(members[0])}, {len(members) + 2})"
    return f"{GONE} OPERATOR(pg_catalog.=) ANY (ARRAY[{there}])\n      OR {rest} OPERATOR(pg_catalog.<>) ''"


def cut(side: str, names: Sequence[str]) -> str:
    """Return the JSON of a row without the members *names*, where `ambiguous` is not true."""
    rest = _members(side)
    for name in names:
        rest = f"pg_catalog.replace({rest}, {literal(_member(name) + 'null')}, '')"
    # Of no other member nothing is left, as when it is taken apart.
    return f"nullif('{{' || pg_catalog.\"right\"({rest}, -1), '{{')::json"


def taken_apart(side: str, names: Sequence[str]) -> str:
    """Return the JSON of a row without the members *names*, whatever the others hold."""

    def kept(whole: str, names: Sequence[str]) -> str:
        return (
            f"(SELECT pg_catalog.json_object_agg(f.key, f.value) FROM pg_catalog.json_each({whole}) AS f"
            f" WHERE f.key NOT IN ({', '.join(names)}))"
        )

    whole = "pubsub_json.whole"
    return f"""\
(SELECT CASE WHEN pg_catalog.strpos({whole}::text, '\\u') OPERATOR(pg_catalog.=) 0
      THEN {kept(whole, [literal(name) for name in names])}
      ELSE {unveiled(kept(veiled(whole), [veiled_name(name) for name in names]))} END
    FROM (SELECT {row_without_values(side)} AS whole OFFSET 0) AS pubsub_json)"""


def _members(side: str) -> str:
    """Return the text of an object with a comma before each member, the first one too."""
    return f"',' || pg_catalog.\"right\"({row_without_values(side)}::text, -1)"


def _member(name: str) -> str:
    return f',"{name}":'
