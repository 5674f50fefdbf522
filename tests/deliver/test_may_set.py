"""Which statements may change settings, by their text. Needs no server."""

import pytest

from sqla_pubsub.deliver.io.may_set import may_set

HARMLESS = [
    "SELECT note.id, note.content FROM note WHERE note.id IN (1, 2) AND (note.a = 1 OR NOT (note.b))",
    "SELECT setting FROM pg_settings WHERE name = 'search_path'",
    "INSERT INTO note (content) VALUES (%(content)s) RETURNING note.id",
    "INSERT INTO note (content) VALUES (%s), (%s);\n",
    'INSERT INTO "my note"."n" ("a b") VALUES (1) ON CONFLICT (id) DO UPDATE SET content = excluded.content',
    "INSERT INTO note (content, plain) SELECT p0::VARCHAR, p1 FROM (VALUES (%(c)s, 0)) AS imp_sen(p0, p1)",
    "UPDATE note SET content = CAST(%s AS VARCHAR(10)), a = coalesce(a, 1) WHERE EXISTS (SELECT 1 FROM b)",
    "DELETE FROM note USING (SELECT 1 AS one) AS x WHERE note.id = 1",
    "SELECT a FROM t GROUP BY (a), b ORDER BY (a) UNION (SELECT 1)",
    "INSERT INTO t (price) VALUES ($1::NUMERIC(10, 2), $2::VARCHAR)",
    "SAVEPOINT sa_savepoint_1",
    "RELEASE SAVEPOINT sa_savepoint_1",
    "ROLLBACK TO SAVEPOINT sa_savepoint_1",
]
MAY = [
    "SET LOCAL search_path TO other",
    "RESET ALL",
    "SELECT set_config('role', 'other', true)",
    "SELECT pg_catalog.set_config('role', 'other', true)",
    "SELECT set_config /**/ ('role', 'other', true)",
    "SELECT set_config -- now\n('role', 'other', true)",
    'SELECT "any"(1)',
    "SELECT s.any(1)",
    'SELECT s."values" (1)',
    'SELECT "wander!"()',
    "SELECT my$()",
    "SELECT by(1)",
    "SELECT over(1)",
    "SELECT filter(1)",
    "SELECT a.id FROM a JOIN b ON conflict(a.id)",
    "SELECT s. any(1)",
    "SELECT s . values(1)",
    "SELECT wander\u20ac()",
    "SELECT any\u00a0(1)",
    'SELECT "x AS set_config"(1)',
    'UPDATE U&"pg\\005fsettings" SET setting = 1',
    "SELECT 1 WHERE (wander()) IS NULL",
    "SELECT id FROM note WHERE id IN (wander(), 2)",
    "INSERT INTO note (content) VALUES (wander())",
    "INSERT INTO note (content) VALUES ('a'); SET ROLE other",
    "SELECT 1; SET search_path TO other",
    "ROLLBACK TO SAVEPOINT a; SET ROLE other",
    "RELEASE SAVEPOINT a; SET ROLE other",
    "UPDATE pg_settings SET setting = 'other' WHERE name = 'search_path'",
    "UPDATE pg_catalog.\"pg_settings\" SET setting = 'other'",
    "UPDATE note SET content = wander()",
    "WITH w AS (SELECT 1) SELECT * FROM w",
    "/* SELECT */ SET ROLE other",
    "DO $$ BEGIN PERFORM wander(); END $$",
    "CALL wander()",
    "EXECUTE prepared",
    "VALUES (wander())",
    "SELECT " + "1, " * 10_000 + "1",
]


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_reads_and_writes_rows_sets_nothing(statement: str) -> None:
    assert not may_set(statement)


@pytest.mark.parametrize("statement", MAY, ids=lambda statement: statement[:60])
def test_what_calls_a_function_or_is_no_single_plain_statement_may_set(statement: str) -> None:
    assert may_set(statement)
