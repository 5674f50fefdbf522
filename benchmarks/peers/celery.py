"""Celery, Redis broker, prefork.  The task is sent after the commit (no outbox)."""

from __future__ import annotations

import os

from benchmarks.harness.adapter import PeerBase
from benchmarks.harness.redis import ask_redis

PREFETCH = 64


def make_app():
    from celery import Celery

    from benchmarks.harness import context as contexts
    from benchmarks.harness import handled as h

    context = contexts.load()
    h.configure(context.handled_folder)
    app = Celery("bench", broker=context.redis_url())
    app.conf.update(
        task_ignore_result=True,
        worker_prefetch_multiplier=context.option("prefetch", PREFETCH),
        worker_disable_rate_limits=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    handled = h.handled

    if context.workload.writes:
        from sqlalchemy import create_engine, insert

        from benchmarks.harness.producers import Result

        engine = create_engine(context.url("psycopg2"))  # connects lazily, after the fork
        stmt = insert(Result.__table__)

        @app.task(name="on_comment")
        def on_comment(comment_id):
            with engine.begin() as c:
                c.execute(stmt, {"comment_id": comment_id, "note": "done"})
            handled(comment_id)

    else:

        @app.task(name="on_comment")
        def on_comment(comment_id):
            handled(comment_id)

    return app, on_comment


if os.environ.get("BENCH_CELERY_WORKER"):  # celery -A benchmarks.peers.celery worker
    app, _task = make_app()


class Peer(PeerBase):
    by_trigger = False
    name = "celery"
    environment = "celery"
    packages = ("celery", "kombu", "redis", "hiredis", "SQLAlchemy", "psycopg2-binary")
    delivery = (
        "at most once (acks early, Celery's default); a crash between commit and send "
        "loses the event; Redis without persistence"
    )
    settings = {
        "pool": "prefork",
        "prefetch_multiplier": PREFETCH,
        "acks_late": False,
        "ignore_result": True,
        "send": "after commit, one kombu producer reused",
        "worker": "--without-gossip --without-mingle --without-heartbeat",
    }
    needs_redis = True
    rows = {"drain": 10000, "drain_db": 10000, "drain_statement": 10000}

    def setup(self, context):
        pass

    def producer(self, context):
        from benchmarks.harness.producers import SqlaProducer

        app, task = make_app()
        producer = app.amqp.Producer(app.connection_for_write(), auto_declare=False)

        def send(cid):
            task.apply_async((cid,), producer=producer)

        def send_many(ids):
            for cid in ids:
                task.apply_async((cid,), producer=producer)

        return SqlaProducer(context, after_commit=send, after_commit_many=send_many)

    def consumers(self, context, programs):
        return [
            (
                [
                    str(programs / "celery"),
                    "-A",
                    "benchmarks.peers.celery",
                    "worker",
                    "-P",
                    "prefork",
                    "-c",
                    str(context.processes),
                    "-O",
                    context.option("O", "fair"),
                    "--loglevel",
                    "WARNING",
                    "--without-gossip",
                    "--without-mingle",
                    "--without-heartbeat",
                ],
                {"BENCH_CELERY_WORKER": "1", "C_FORCE_ROOT": "1"},
            )
        ]

    def pending(self, context, cursor):
        port = context.redis_port
        return int(ask_redis(port, "LLEN", "celery")) + int(ask_redis(port, "HLEN", "unacked"))
