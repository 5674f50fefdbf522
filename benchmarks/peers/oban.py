"""Oban for Python: one job per comment, enqueued in the comment's own transaction."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.adapter import PeerBase

LIMIT = 200  # jobs a process runs at once; it takes and acknowledges as many together
DEBOUNCE = 0.005
STAGE = 1.0
WORKER = "embedded"  # or cli: "oban start"
PRODUCER = "session"  # or async_session


class OnConnection:
    """The async face of a plain session's connection, so that the job is in its transaction.

    Oban takes "any object with an execute() method".
    """

    def __init__(self, conn):
        self.cur = conn.cursor()

    async def execute(self, query, args):
        self.cur.execute(query, args)
        return self

    async def fetchone(self):
        return self.cur.fetchone()


def now(coro):
    """Result of a coroutine that never waits."""
    try:
        coro.send(None)
    except StopIteration as e:
        return e.value
    raise RuntimeError("it waits")


class Peer(PeerBase):
    by_trigger = False
    name = "oban"
    environment = "oban"
    packages = ("oban", "psycopg", "psycopg-pool", "SQLAlchemy", "uvloop")
    delivery = (
        "at least once (all that is 'executing' for 300 s is run again, after a crash or not; "
        "20 attempts); job stored in the same transaction"
    )
    settings = {
        "enqueue": "on the SQLAlchemy/psycopg session's connection; enqueue_many sends "
        "one INSERT per job (bulk insert is in Oban Pro only)",
        "queue limit": LIMIT,
        "debounce_interval": DEBOUNCE,
        "stager interval": STAGE,
        "notifier": "postgres (LISTEN)",
        "loop": "uvloop",
        "worker": WORKER,
        "finished jobs": "kept (pruner's default: one day)",
        "handler": "psycopg pool, 20 connections, autocommit",
        "logging": "WARNING",
    }
    rows = {"drain": 40000, "drain_db": 20000, "drain_statement": 20000}

    def config(self, context):
        return {
            "queues": {
                "comments": {
                    "limit": context.option("limit", LIMIT),
                    "debounce_interval": context.option("debounce", DEBOUNCE),
                }
            },
            "stager": {"interval": context.option("stage", STAGE)},
        }

    def setup(self, context):
        import psycopg
        from oban.schema import install_sql

        with psycopg.connect(context.dsn()) as conn:
            conn.execute(install_sql())

    def producer(self, context):
        from oban import Oban
        from psycopg_pool import AsyncConnectionPool

        from benchmarks.harness.producers import SqlaProducer
        from benchmarks.peers._async_session import AsyncSqlaProducer
        from benchmarks.peers._oban_worker import OnComment

        # Oban insists on a pool; with conn= it takes nothing from it, so it stays closed
        oban = Oban(pool=AsyncConnectionPool(context.dsn(), open=False))
        new = OnComment.new

        if context.option("producer", PRODUCER) == "async_session":

            async def enqueue_async(s, cid):
                await oban.enqueue(new({"id": cid}), conn=s)

            async def enqueue_many_async(s, ids):
                await oban.enqueue_many([new({"id": i}) for i in ids], conn=s)

            return AsyncSqlaProducer(
                context,
                "psycopg",
                enqueue_async,
                enqueue_many_async,
                context.option("producer_loop", "uvloop"),
            )

        def raw(s):
            return OnConnection(s.connection().connection.driver_connection)

        def enqueue(s, cid):
            now(oban.enqueue(new({"id": cid}), conn=raw(s)))

        def enqueue_many(s, ids):
            now(oban.enqueue_many([new({"id": i}) for i in ids], conn=raw(s)))

        return SqlaProducer(context, "psycopg", enqueue, enqueue_many)

    def consumers(self, context, programs):
        if context.option("worker", WORKER) != "cli":
            return super().consumers(context, programs)
        path = Path(context.folder, "oban.toml")
        config = self.config(context)
        lines = [f'dsn = "{context.dsn()}"']
        for section, values in {
            "queues.comments": config["queues"]["comments"],
            "stager": config["stager"],
        }.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
        path.write_text("\n".join(lines), encoding="utf-8")
        argv = [
            str(programs / "oban"),
            "start",
            "--config",
            str(path),
            "--log-level",
            "WARNING",
            "--cron-modules",
            "benchmarks.peers._oban_worker",
        ]
        return [(argv, {})] * context.processes

    def consume(self, context):
        import asyncio
        import logging

        import orjson
        import uvloop
        from oban import Oban
        from psycopg.types.json import set_json_dumps, set_json_loads

        from benchmarks.peers import _oban_worker  # noqa: F401  (registers OnComment)

        logging.basicConfig(level=logging.WARNING)
        set_json_dumps(orjson.dumps)  # as the CLI does
        set_json_loads(orjson.loads)

        async def main():
            pool = await Oban.create_pool(context.dsn())
            async with Oban(pool=pool, **self.config(context)):
                await asyncio.Event().wait()

        (uvloop if context.option("loop", "uvloop") == "uvloop" else asyncio).run(main())

    def pending(self, context, cursor):
        # "state <> 'completed'" in a form that the index on state serves (the states are ordered)
        cursor.execute("SELECT count(*) FROM oban_jobs WHERE state < 'completed' OR state > 'completed'")
        return cursor.fetchone()[0]
