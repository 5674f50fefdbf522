"""The worker of peers/oban.py, in a module of its own: Oban finds a job's class by import."""

from __future__ import annotations

from oban import worker
from psycopg_pool import AsyncConnectionPool

from benchmarks.harness import context as contexts
from benchmarks.harness import handled as h

QUEUE = "comments"
HANDLER_POOL = 20
INSERT = "INSERT INTO result (comment_id, note) VALUES (%s, %s)"

context = contexts.load()
h.configure(context.handled_folder)
handled = h.handled

if context.workload.writes:
    _size = context.option("handler_pool", HANDLER_POOL)
    pool = AsyncConnectionPool(
        context.dsn(), min_size=_size, max_size=_size, open=False, kwargs={"autocommit": True}
    )

    @worker(queue=QUEUE)
    class OnComment:
        async def process(self, job):
            if pool.closed:  # the CLI has no start-up hook
                await pool.open()
            async with pool.connection() as conn:
                await conn.execute(INSERT, (job.args["id"], "done"))
            handled(job.args["id"])

else:

    @worker(queue=QUEUE)
    class OnComment:
        async def process(self, job):
            handled(job.args["id"])
