"""Floor of latency: a row-level trigger with ``pg_notify(id)``, and LISTEN by psycopg2. Stores nothing."""

from __future__ import annotations

import select

import psycopg2

from benchmarks.harness.adapter import PeerBase, Producer
from benchmarks.harness.context import Context
from benchmarks.harness.handled import handled
from benchmarks.harness.producers import SqlaProducer

TRIGGER = """
CREATE FUNCTION raw_listen_fn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('raw_listen', NEW.id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER raw_listen AFTER INSERT ON comment
    FOR EACH ROW EXECUTE FUNCTION raw_listen_fn();
"""


class Peer(PeerBase):
    """NOTIFY by hand."""

    name = "raw_listen"
    packages = ("psycopg2-binary", "SQLAlchemy")
    delivery = "at most once, lost when nobody listens; every process gets every event"
    settings = {"trigger": "row level, pg_notify(id)", "consumer": "psycopg2 LISTEN, select()"}
    stores = False
    broadcast = True

    def setup(self, context: Context) -> None:
        with psycopg2.connect(context.dsn()) as connection, connection.cursor() as cursor:
            cursor.execute(TRIGGER)

    def producer(self, context: Context) -> Producer:
        return SqlaProducer(context)

    def consume(self, context: Context) -> None:
        connection = psycopg2.connect(context.dsn())
        connection.autocommit = True
        connection.cursor().execute("LISTEN raw_listen")
        while True:
            select.select([connection], [], [], 5)
            connection.poll()
            notifications, connection.notifies = connection.notifies, []
            for notification in notifications:
                handled(int(notification.payload))
