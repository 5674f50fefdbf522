"""Procrastinate: one job per comment, deferred in the comment's own transaction."""

from __future__ import annotations

from benchmarks.harness.adapter import PeerBase

CONCURRENCY = 2
BATCH_DEFER = 5000
PRODUCER_DRIVER = "psycopg"


def make_app(connector):
    import procrastinate

    from benchmarks.harness import context as contexts
    from benchmarks.harness import handled as h

    context = contexts.load()
    h.configure(context.handled_folder)
    handled = h.handled
    app = procrastinate.App(connector=connector)

    if context.workload.writes:

        @app.task(name="on_comment", queue="comments")
        async def on_comment(comment_id):
            await app.connector.execute_query_async(
                "INSERT INTO result (comment_id, note) VALUES (%(cid)s, %(note)s)",
                cid=comment_id,
                note="done",
            )
            handled(comment_id)

    else:

        @app.task(name="on_comment", queue="comments")
        async def on_comment(comment_id):
            handled(comment_id)

    return app, on_comment


class Peer(PeerBase):
    by_trigger = False
    name = "procrastinate"
    environment = "procrastinate"
    packages = ("procrastinate", "psycopg", "psycopg-pool", "SQLAlchemy", "uvloop")
    delivery = "at least once on retry of stalled jobs (by hand); job stored in the same transaction"
    settings = {
        "defer": "SQLAlchemy/psycopg session, SyncPsycopgConnector on its connection",
        "batch_defer": BATCH_DEFER,
        "worker concurrency": CONCURRENCY,
        "delete_jobs": "always",
        "tasks": "async",
        "loop": "uvloop",
        "logging": "WARNING",
    }
    rows = {"drain": 8000, "drain_db": 8000, "drain_statement": 8000}

    def setup(self, context):
        import procrastinate

        app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=context.dsn()))
        with app.open():
            app.schema_manager.apply_schema()

    def producer(self, context):
        import procrastinate

        from benchmarks.harness.producers import SqlaProducer

        driver = context.option("producer_driver", PRODUCER_DRIVER)
        if driver == "psycopg2":
            from procrastinate.contrib.sqlalchemy import SQLAlchemyPsycopg2Connector

            app, task = make_app(SQLAlchemyPsycopg2Connector(dsn=context.url(driver)))

            def raw(s):
                return s.connection()
        else:
            app, task = make_app(
                procrastinate.SyncPsycopgConnector(conninfo=context.dsn(), min_size=1, max_size=1)
            )

            def raw(s):
                return s.connection().connection.driver_connection

        app.open()

        def enqueue(s, cid):
            task.configure(connection=raw(s)).defer(comment_id=cid)

        def enqueue_many(s, ids):
            deferrer = task.configure(connection=raw(s))
            b = context.option("batch_defer", BATCH_DEFER)
            for k in range(0, len(ids), b):
                deferrer.batch_defer(*({"comment_id": i} for i in ids[k : k + b]))

        return SqlaProducer(context, driver, enqueue, enqueue_many)

    def consume(self, context):
        import asyncio
        import logging

        import procrastinate
        import uvloop

        logging.basicConfig(level=logging.WARNING)
        c = context.option("concurrency", CONCURRENCY)
        app, _ = make_app(procrastinate.PsycopgConnector(conninfo=context.dsn(), min_size=c, max_size=2 * c))

        async def main():
            async with app.open_async():
                await app.run_worker_async(
                    queues=["comments"], concurrency=c, delete_jobs=context.option("delete", "always")
                )

        (uvloop if context.option("loop", "uvloop") == "uvloop" else asyncio).run(main())

    def pending(self, context, cursor):
        cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')")
        return cursor.fetchone()[0]
