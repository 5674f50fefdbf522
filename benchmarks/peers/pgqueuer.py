"""PgQueuer: one job per comment, enqueued in the comment's own transaction."""

from __future__ import annotations

from contextlib import asynccontextmanager

from benchmarks.harness.adapter import PeerBase

BATCH = 500
DRIVER = "asyncpg_pool"  # or asyncpg, psycopg; a pool is shared with the handler
HANDLER_POOL = 10


@asynccontextmanager
async def worker():
    """Factory of "pgq run benchmarks.peers.pgqueuer:worker"."""
    import asyncpg
    from pgqueuer import PgQueuer

    from benchmarks.harness import context as contexts
    from benchmarks.harness import handled as h

    context = contexts.load()
    h.configure(context.handled_folder)
    handled = h.handled
    kw = {"host": context.host, "port": context.port, "user": context.user, "database": context.database}

    pool = conn = None
    driver = context.option("driver", DRIVER)
    if driver == "asyncpg":
        conn = await asyncpg.connect(**kw)
        pgq = PgQueuer.from_asyncpg_connection(conn)
    elif driver == "asyncpg_pool":
        pool = await asyncpg.create_pool(min_size=4, max_size=10, **kw)
        pgq = PgQueuer.from_asyncpg_pool(pool)
    else:
        import psycopg

        conn = await psycopg.AsyncConnection.connect(context.dsn(), autocommit=True)
        pgq = PgQueuer.from_psycopg_connection(conn)

    if context.workload.writes:
        size = context.option("handler_pool", HANDLER_POOL)
        pool = pool or await asyncpg.create_pool(min_size=size, max_size=size, **kw)

        @pgq.entrypoint("on_comment")
        async def on_comment(job):
            cid = int(job.payload)
            await pool.execute("INSERT INTO result (comment_id, note) VALUES ($1, $2)", cid, "done")
            handled(cid)

    else:

        @pgq.entrypoint("on_comment")
        async def on_comment(job):
            handled(int(job.payload))

    try:
        yield pgq
    finally:
        if pool:
            await pool.close()
        if conn:
            await conn.close()


class Peer(PeerBase):
    by_trigger = False
    name = "pgqueuer"
    environment = "pgqueuer"
    packages = ("pgqueuer", "asyncpg", "psycopg", "SQLAlchemy", "uvloop")
    delivery = "at least once (heartbeat); job stored in the same transaction"
    settings = {
        "enqueue": "SQLAlchemy/psycopg session, SyncQueries on its connection",
        "worker driver": DRIVER,
        "batch_size": BATCH,
        "durability": "durable",
        "autovac": "pgq autovac applied",
        "loop": "uvloop",
        "worker": "pgq run, P processes",
    }
    rows = {"drain": 150000, "drain_db": 40000, "drain_statement": 40000}

    def setup(self, context):
        import asyncio

        import asyncpg
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        async def main():
            conn = await asyncpg.connect(
                host=context.host, port=context.port, user=context.user, database=context.database
            )
            q = Queries(AsyncpgDriver(conn))
            await q.install()
            await q.optimize_autovacuum()
            await conn.close()

        asyncio.run(main())

    def producer(self, context):
        from pgqueuer.queries import SyncQueries
        from psycopg import RawCursor
        from psycopg.rows import dict_row

        from benchmarks.harness.producers import SqlaProducer

        class SessionDriver:
            """A driver on the session's own connection: the shipped one insists on autocommit."""

            conn = None

            def fetch(self, query, *args):
                cur = RawCursor(self.conn, row_factory=dict_row)
                cur.execute(query, args or None)
                return cur.fetchall()

        driver = SessionDriver()
        queries = SyncQueries(driver)

        def enqueue(s, cid):
            driver.conn = s.connection().connection.driver_connection
            queries.enqueue("on_comment", b"%d" % cid)

        def enqueue_many(s, ids):
            driver.conn = s.connection().connection.driver_connection
            queries.enqueue(["on_comment"] * len(ids), [b"%d" % i for i in ids], [0] * len(ids))

        return SqlaProducer(context, "psycopg", enqueue, enqueue_many)

    def consumers(self, context, programs):
        argv = [
            str(programs / "pgq"),
            "run",
            "benchmarks.peers.pgqueuer:worker",
            "--batch-size",
            str(context.option("batch", BATCH)),
            "--log-level",
            "WARNING",
        ]
        return [(argv, {})] * context.processes

    def pending(self, context, cursor):
        cursor.execute("SELECT count(*) FROM pgqueuer")
        return cursor.fetchone()[0]
