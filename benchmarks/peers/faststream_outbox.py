"""faststream-outbox: one message per comment, published in the comment's own transaction."""

from __future__ import annotations

from benchmarks.harness.adapter import PeerBase

QUEUE = "comments"
WORKERS = 10  # handlers at once in a process, each with its own connection for acknowledging
FETCH = 1000
FLUSH = 500  # acknowledged by one DELETE
MIN_FETCH, MAX_FETCH = 1.0, 10.0
APPLY_TYPES = 0
HANDLER = "asyncpg"  # a pool beside SQLAlchemy's, as in pgqueuer's adapter; or core


def make_broker(context, engine=None):
    import logging

    from faststream_outbox import OutboxBroker, make_outbox_table
    from sqlalchemy import MetaData

    log = logging.getLogger("outbox-bench")
    log.setLevel(logging.WARNING)
    table = make_outbox_table(MetaData(), table_name="outbox")
    return table, OutboxBroker(
        engine, outbox_table=table, logger=log, apply_types=bool(context.option("apply_types", APPLY_TYPES))
    )


class Peer(PeerBase):
    by_trigger = False
    name = "faststream_outbox"
    environment = "faststream_outbox"
    packages = ("faststream-outbox", "faststream", "asyncpg", "SQLAlchemy", "uvloop")
    delivery = (
        "at least once (60 s lease; on error 10 attempts, then the row is deleted); "
        "message stored in the same transaction"
    )
    settings = {
        "publish": "SQLAlchemy/asyncpg AsyncSession (the library takes no other)",
        "max_workers": WORKERS,
        "fetch_batch_size": FETCH,
        "terminal_flush_batch_size": FLUSH,
        "wake-up": f"LISTEN; poll interval {MIN_FETCH:g}-{MAX_FETCH:g} s (default)",
        "autovacuum": "outbox_autovacuum_ddl applied",
        "loop": "uvloop",
        "apply_types": bool(APPLY_TYPES),
        "handler": f"{HANDLER} pool, {WORKERS} connections",
        "logging": "WARNING",
    }
    rows = {"drain": 100000, "drain_db": 40000, "drain_statement": 40000}

    def setup(self, context):
        import asyncio

        from faststream_outbox import outbox_autovacuum_ddl
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        async def main():
            engine = create_async_engine(context.url("asyncpg"))
            table, _ = make_broker(context)
            async with engine.begin() as c:
                await c.run_sync(table.metadata.create_all)
                await c.execute(text(outbox_autovacuum_ddl("outbox")))
            await engine.dispose()

        asyncio.run(main())

    def producer(self, context):
        from benchmarks.peers._async_session import AsyncSqlaProducer

        _, broker = make_broker(context)  # no engine: everything goes by the caller's session

        async def enqueue(s, cid):
            await broker.publish(cid, queue=QUEUE, session=s)

        async def enqueue_many(s, ids):
            await broker.publish_batch(*ids, queue=QUEUE, session=s)

        return AsyncSqlaProducer(
            context, "asyncpg", enqueue, enqueue_many, context.option("producer_loop", "uvloop")
        )

    def consume(self, context):
        import asyncio
        import logging

        import uvloop
        from faststream import FastStream
        from sqlalchemy import insert
        from sqlalchemy.ext.asyncio import create_async_engine

        from benchmarks.harness.handled import handled
        from benchmarks.harness.producers import Result

        logging.basicConfig(level=logging.WARNING)
        workers = context.option("workers", WORKERS)
        # for each worker one connection of the broker's and one of the handler's, and the fetcher's
        engine = create_async_engine(context.url("asyncpg"), pool_size=2 * workers + 1)
        _, broker = make_broker(context, engine)
        subscriber = broker.subscriber(
            QUEUE,
            max_workers=workers,
            fetch_batch_size=context.option("fetch", FETCH),
            terminal_flush_batch_size=context.option("flush", FLUSH),
            min_fetch_interval=context.option("min_fetch", MIN_FETCH),
            max_fetch_interval=context.option("max_fetch", MAX_FETCH),
        )

        app = FastStream(broker, logger=logging.getLogger("app-bench"))

        if context.workload.writes and context.option("handler", HANDLER) == "asyncpg":
            import asyncpg

            pool = None

            @app.on_startup
            async def connect() -> None:
                nonlocal pool
                pool = await asyncpg.create_pool(
                    min_size=workers,
                    max_size=workers,
                    host=context.host,
                    port=context.port,
                    user=context.user,
                    database=context.database,
                )

            @subscriber
            async def on_comment(comment_id: int) -> None:
                await pool.execute(
                    "INSERT INTO result (comment_id, note) VALUES ($1, $2)", comment_id, "done"
                )
                handled(comment_id)

        elif context.workload.writes:
            auto = engine.execution_options(isolation_level="AUTOCOMMIT")
            stmt = insert(Result.__table__).inline()

            @subscriber
            async def on_comment(comment_id: int) -> None:
                async with auto.connect() as c:
                    await c.execute(stmt, {"comment_id": comment_id, "note": "done"})
                handled(comment_id)

        else:

            @subscriber
            async def on_comment(comment_id: int) -> None:
                handled(comment_id)

        (uvloop if context.option("loop", "uvloop") == "uvloop" else asyncio).run(app.run())

    def pending(self, context, cursor):
        cursor.execute("SELECT count(*) FROM outbox")
        return cursor.fetchone()[0]
