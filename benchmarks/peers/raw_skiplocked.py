"""Limit of throughput: the SQL of an outbox by hand, in batches of 500.

A statement-level trigger does one INSERT .. SELECT and one NOTIFY; psycopg2 takes each batch in one transaction.
"""

from __future__ import annotations

import select
from typing import Any

import psycopg2

from benchmarks.harness.adapter import Cursor, PeerBase, Producer
from benchmarks.harness.context import Context
from benchmarks.harness.handled import handled
from benchmarks.harness.producers import SqlaProducer

TRIGGER = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION raw_outbox_fn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (channel, payload) SELECT 'comment', to_jsonb(n) FROM new_rows n;
    IF FOUND THEN PERFORM pg_notify('raw_outbox', ''); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER raw_outbox AFTER INSERT ON comment REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION raw_outbox_fn();
"""
TAKE = """
DELETE FROM outbox o USING (
    SELECT id FROM outbox ORDER BY id FOR UPDATE SKIP LOCKED LIMIT %s
) b WHERE o.id = b.id RETURNING o.id, o.payload"""
BATCH = 500


class Peer(PeerBase):
    """An outbox by hand."""

    name = "raw_skiplocked"
    packages = ("psycopg2-binary", "SQLAlchemy")
    delivery = "exactly once per database effect (take, handle and delete in one transaction)"
    settings = {
        "trigger": "statement level, transition table, whole row as jsonb, one NOTIFY",
        "batch": BATCH,
        "consumer": "psycopg2, DELETE..USING..SKIP LOCKED..RETURNING",
    }
    rows = {"drain": 500_000, "drain_db": 150_000, "drain_statement": 150_000, "drain_change": 100_000}
    handlers = ("nothing", "result", "statement", "change")

    def setup(self, context: Context) -> None:
        with psycopg2.connect(context.dsn()) as connection, connection.cursor() as cursor:
            cursor.execute(TRIGGER)

    def producer(self, context: Context) -> Producer:
        return SqlaProducer(context)

    def pending(self, context: Context, cursor: Cursor) -> int:
        cursor.execute("SELECT count(*) FROM outbox")
        return int(cursor.fetchone()[0])

    def consume(self, context: Context) -> None:
        connection = psycopg2.connect(context.dsn())
        cursor = connection.cursor()

        def handle(comment: dict[str, Any]) -> None:
            if context.workload.writes:
                row = (comment["id"], "done")
                cursor.execute("INSERT INTO result (comment_id, note) VALUES (%s, %s)", row)
            elif context.workload.handler == "change":
                cursor.execute(
                    "SELECT id, article_id, author, content FROM comment WHERE id = %s", (comment["id"],)
                )
                cursor.execute(
                    "UPDATE comment SET author = %s WHERE id = %s", ("done", cursor.fetchall()[0][0])
                )
            handled(comment["id"])

        batch = context.option("batch", BATCH)
        cursor.execute("LISTEN raw_outbox")
        connection.commit()
        while True:
            cursor.execute(TAKE, (batch,))
            taken = cursor.fetchall()
            for _, payload in taken:
                handle(payload)
            connection.commit()
            if taken:
                continue
            if not connection.notifies:
                select.select([connection], [], [], 1)
                connection.poll()
            connection.notifies.clear()
