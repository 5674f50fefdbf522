"""Rows that are read without a statement: what PostgreSQL and the driver would make of them, or nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    Boolean,
    Date,
    DateTime,
    Dialect,
    Engine,
    Float,
    Integer,
    String,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    type_coerce,
    types,
)
from sqlalchemy.dialects import postgresql as pg

from sqla_pubsub.deliver.handle.plain_rows import PlainRows, plain_rows
from sqla_pubsub.deliver.handle.reading import read_as

DIALECT: Dialect = pg.dialect()  # type: ignore[no-untyped-call]
KINDS: dict[str, types.TypeEngine[Any]] = {
    "i": Integer(), "t": String(5), "b": Boolean(), "d": Date(), "at": DateTime(),
}  # fmt: skip
READ = {name: read_as(kind, DIALECT) for name, kind in KINDS.items()}
FORMS = {
    "i": ["0", "-0", "7", "7.0", "7.5", "1e2", '"7"', "true", "[7]", str(2**63 - 1), str(-(2**63)), str(2**63), str(10**40)],
    "t": [
        '"x"', '""', '" x  "', '"longer than five"', '"null"', "5", "true", "{}", r'"\u0000"', r'"\\u0000"',
        r'"\ud83d\ude42"', r'"\ud83d"', r'"\u00e9\n\"\\\/"', '"é漢🙂\u2028"',
    ],
    "b": ["true", "false", '"t"', "1", '"true"', '"yes"'],
    "d": [
        '"2026-12-01"', '"0001-01-01"', '"9999-12-31"', '"infinity"', '"0044-03-15 BC"', '"today"', '"20261201"', "20261201",
        '"2026-12-01T10:00:00"', '"2026-02-30"',
    ],
    "at": [
        '"2026-03-29T02:30:00"', '"2026-03-29T02:30:00.000001"', '"2026-03-29T02:30:00.1"',
        '"2026-03-29 02:30:00"', '"9999-12-31T23:59:59.999999"',
        '"2026-03-29T02:30:00Z"', '"2026-03-29T02:30:00+02"', '"2026-03-29T02:30:00+02:00"', '"2026-03-29T24:00:00"',
        '"2026-03-29T23:59:60"',
        '"infinity"', '"2026-03-29"', '"2026-03-29t02:30:00"',
        '"0044-03-15T00:00:00 BC"', '"2026-03-29T02:30:00.12345678"',
    ],
}  # fmt: skip
WHOLE = [
    "{}", "[]", "null", "7", '{"i": null}', '{"i": 1, "i": 2}', '{"I": 1}', '{"i": 1, "other": {"i": [2]}}',
    '{"other": ' + "[" * 3000 + "]" * 3000 + "}",
]  # fmt: skip
PAYLOADS = [*(f'{{"{name}": {form}}}' for name, forms in FORMS.items() for form in forms), *WHOLE]


def rows_of(kinds: dict[str, Any]) -> PlainRows | None:
    return plain_rows(tuple(kinds), tuple(kinds.values()))


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda each: each[:40])
def test_what_is_read_here_is_what_postgresql_makes_of_it(engine: Engine, payload: str) -> None:
    rows = rows_of(READ)
    assert rows is not None
    read = rows.read(f"[{payload}]")
    if read is None:
        return
    sent = cast(bindparam("sent", f"[{payload}]", Text), pg.JSON)
    stored = func.json_to_recordset(sent).table_valued(*(column(name, kind) for name, kind in READ.items()))
    statement = select(
        *(type_coerce(each, types.NullType()) for each in stored.render_derived(with_types=True).c)
    )
    with engine.connect() as connection:
        result: Any = connection.execute(statement)
        assert rows.codes == tuple(described[1] for described in result.cursor.description)
        found = [tuple(row) for row in result]
    assert read == found
    assert [list(map(type, row)) for row in read] == [list(map(type, row)) for row in found]


@pytest.mark.parametrize(
    "payload",
    [
        '{"i": 7, "t": "é", "b": true, "d": "2026-12-01", "at": "2026-03-29T02:30:00.000001"}',
        '{"i": null, "t": null, "b": null, "d": null, "at": null}', "{}", r'{"t": "\\ \" \n"}',
    ],
)  # fmt: skip
def test_what_postgresql_writes_is_read_here(payload: str) -> None:
    rows = rows_of(READ)
    assert rows is not None
    assert rows.read(f"[{payload}]") is not None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3))
def test_nothing_is_read_as_another_type(value: Any) -> None:
    """Each column takes its own type and no other: 7 is no text, and true is no number."""
    rows = rows_of({"i": READ["i"], "t": READ["t"], "b": READ["b"]})
    assert rows is not None
    for place, kind in enumerate((int, str, bool)):
        read = rows.read(f'[{{"{"itb"[place]}": {json.dumps(value)}}}]')
        fits = value is None or type(value) is kind
        if kind is int and fits and value is not None:
            fits = -(2**63) <= value < 2**63
        if not fits:
            assert read is None
        elif read is not None:
            assert read[0][place] == value


@pytest.mark.parametrize(
    "kind", [Float(), DateTime(timezone=True), types.Numeric(), types.JSON(), types.LargeBinary(), pg.ARRAY(Text)], ids=repr
)  # fmt: skip
def test_other_types_are_left_to_postgresql(kind: types.TypeEngine[Any]) -> None:
    assert rows_of({**READ, "other": read_as(kind, DIALECT)}) is None
    assert rows_of({**READ, "unknown": None}) is None


@pytest.mark.parametrize("name", ['we"ird', "back\\slash", "line\nfeed"])
def test_a_name_that_json_writes_otherwise_is_left_to_postgresql(name: str) -> None:
    assert rows_of({name: READ["i"]}) is None
    other = rows_of({"Ünusual name, %(x)s": READ["i"]})
    assert other is not None
    assert other.read('[{"Ünusual name, %(x)s": 7}]') == [(7,)]
