"""Single values of a row in the SQL of a capture: by name, and right also where the name is gone.

A column may be dropped or renamed while the capture names it, and that must not break the application's
statement. So each name is looked up in three rows, one inside the other, as SQL does it: in the texts that
travel in place of values (`sqla_pubsub.declare.capture.columns`), in the row itself, in a row of nulls. The type of
those nulls is void, which no column of a table has. The server resolves that once for a plan, and reads
nothing but what is named.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqla_pubsub.contract.quoting import identifier
from sqla_pubsub.declare.capture.body import VALUES, literal, where

LONGEST_KEY = 2_000
"""In bytes. An index takes 2,704 for the key, the name of the listener and the id together."""
GONE = "'pg_catalog.void'::pg_catalog.regtype"
"""The type of the value from `cell` of a column that is not there."""


def cells(side: str, columns: Sequence[str]) -> str:
    """Return a subquery of the *columns* of the row *side*, to be joined laterally; `cell` names its values."""
    nulls = ", ".join(f"NULL::pg_catalog.void AS {identifier(column)}" for column in columns)
    found = ", ".join(f"{identifier(column)} AS pubsub_{i}" for i, column in enumerate(columns, 1))
    texts = f"pg_catalog.row_to_json(pubsub_text.*) AS pubsub_texts FROM (SELECT {VALUES['texts']}) AS pubsub_text"
    if columns:
        nulls += where("missing", f", {VALUES['missing']}")
        found += where("texts", f", {texts}")
    else:
        nulls, found = VALUES["missing"], texts
    return f"""\
(SELECT pubsub_found.* FROM (SELECT {nulls}) AS pubsub_missing
    CROSS JOIN LATERAL (SELECT pubsub_cell.* FROM (SELECT {side}.*) AS pubsub_row
    CROSS JOIN LATERAL (SELECT {found}) AS pubsub_cell) AS pubsub_found) AS pubsub_{side}_cells"""


def cell(side: str, column: str, columns: Sequence[str]) -> str:
    """Return the value of *column* from `cells` of all *columns*."""
    return f"pubsub_{side}_cells.pubsub_{columns.index(column) + 1}"


def texts(side: str) -> str:
    """Return the texts that travel in place of values, as one JSON object."""
    return f"pubsub_{side}_cells.pubsub_texts"


def keys(side: str, values: Sequence[str]) -> str:
    """Return a subquery of the key of the row *side*, to be joined laterally; `key` names it."""
    whole = f"pg_catalog.jsonb_build_array({', '.join(values)})"
    return f"""\
(SELECT {bounded("pubsub_whole")} AS pubsub_key
    FROM (SELECT {whole} AS pubsub_whole) AS pubsub_found) AS pubsub_{side}_key"""


def key(side: str) -> str:
    """Return the key from `keys`."""
    return f"pubsub_{side}_key.pubsub_key"


def key_of(values: Sequence[str]) -> str:
    """Return the key of a row as entries carry it; one that no index would take is hashed."""
    return bounded(f"pg_catalog.jsonb_build_array({', '.join(values)})")


def bounded(key: str) -> str:
    """Return *key*, or a hash of it where it is long."""
    # In the server's own encoding, because not every text can be written in another one.
    raw = f"pg_catalog.convert_to({key}::text, pg_catalog.getdatabaseencoding())"
    return (
        f"CASE WHEN pg_catalog.pg_column_size({key}) OPERATOR(pg_catalog.>) {LONGEST_KEY}"
        f" THEN {hashed(raw)} ELSE {key} END"
    )


def hashed(raw: str) -> str:
    """Return the key that stands for one whose bytes are *raw*."""
    digest = f"pg_catalog.encode(pg_catalog.sha256({raw}), 'hex')"
    return f"pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('sha256', {digest}))"


def instant(value: str) -> str:
    """Return a time with a zone in UTC."""
    # Its JSON is that of the writer's time zone, so two writers would give one row two keys. The zone stays the
    # writer's, because conditions mean it. By its text, because the type may be another one by now.
    return f"pg_catalog.timezone('UTC', nullif(pg_catalog.concat({value}), '')::timestamptz)"


def veiled(json: str) -> str:
    r"""Return *json* with its escapes written out, so that PostgreSQL reads any json that it has stored.

    It takes apart no object in which there is an escape that it cannot show as text: ``\u0000``, half of a
    surrogate pair. ``\\`` goes first, as an escape too, so that whatever follows a backslash is one.
    """
    return "pg_catalog.replace(pg_catalog.replace(" + json + r"::text, '\\', '\u005c'), '\u', '\\u')::json"


def unveiled(json: str) -> str:
    r"""Return what `veiled` hid. ``\\`` comes back for ``\u005c`` as well, which is the same."""
    return "pg_catalog.replace(pg_catalog.replace(" + json + r"::text, '\\u', '\u'), '\u005c', '\\')::json"


def veiled_name(name: str) -> str:
    """Return, as a literal, what the name of a column is in a veiled row."""
    escaped = name.replace("\\", "\\u005c")
    return literal("".join(c if c >= " " or c in "\b\f\n\r\t" else f"\\u{ord(c):04x}" for c in escaped))
