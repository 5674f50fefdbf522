"""A project whose handlers can be held and killed, judged by its table of effects."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from tests.cli.project import Shop
from tests.servers import Driver, Server

HOLDING = """
    import os
    import signal
    import threading
    from pathlib import Path

    def hold():
        before = signal.getsignal(signal.SIGTERM)

        def told(number, frame):
            before(number, frame)
            print("told to stop", flush=True)

        signal.signal(signal.SIGTERM, told)
        print("holding in", os.getpid(), flush=True)
        while not Path("go").exists():
            threading.Event().wait(0.01)
        signal.signal(signal.SIGTERM, before)
"""
LISTENERS = """
    import os
    import signal
    from datetime import timedelta
    from pathlib import Path
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqla_pubsub import RetryPolicy, after_insert
    from shop.holding import hold
    from shop.models import Effect, Order

    soon = RetryPolicy(max_attempts=50, initial=timedelta(milliseconds=50), max_delay=timedelta(milliseconds=200))

    def die_once(when):
        wanted = Path(f"die {when}")
        try:
            wanted.rename("died")
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    @event.listens_for(Engine, "after_cursor_execute")
    def executed(connection, cursor, statement, parameters, context, executemany):
        if "FOR UPDATE" in statement.upper() and cursor.rowcount > 0:
            die_once("claimed")
        elif "DELETE FROM" in statement.upper() and "pubsub_outbox" in statement:
            die_once("settled")

    @after_insert(Order, retry=soon)
    def ship(new, session):
        session.add(Effect(listener="ship", item=new.item, process=os.getpid()))
        session.flush()
        die_once("handling")
        if new.item == "held":
            hold()

    @after_insert(Order, retry=soon)
    def count(new, session):
        session.add(Effect(listener="count", item=new.item, process=os.getpid()))
"""


@pytest.fixture
def bare_shop(tmp_path: Path, engine: Engine, url: str) -> Iterator[Shop]:
    """A project whose database is empty."""
    shop = _shop(tmp_path, engine, url)
    yield shop
    shop.close()


@pytest.fixture
def shop(bare_shop: Shop) -> Shop:
    """A project with tables and triggers installed."""
    bare_shop.install()
    return bare_shop


@pytest.fixture
def another_shop(tmp_path: Path, server: Server, driver: Driver) -> Iterator[Shop]:
    """A second project, with an empty database of its own on the same server."""
    database = server.clone()
    url = server.url(database, driver)
    engine = create_engine(url)
    shop = _shop(tmp_path / "another", engine, url)
    yield shop
    shop.close()
    engine.dispose()
    server.drop(database)


def _shop(folder: Path, engine: Engine, url: str) -> Shop:
    shop = Shop(folder, engine, url)
    shop.write("shop/holding.py", HOLDING)
    shop.write("shop/listeners.py", LISTENERS)
    return shop
