"""A project whose handlers can be held and killed, judged by its table of effects."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.cli.project import Shop

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run them with ``make test-all``: they measure times, which a busy machine stretches."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


LISTENERS = """
    import os
    import signal
    import threading
    from datetime import timedelta
    from pathlib import Path
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqla_pubsub import RetryPolicy, after_insert
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
            print("holding in", os.getpid(), flush=True)
            while not Path("go").exists():
                threading.Event().wait(0.01)

    @after_insert(Order, retry=soon)
    def count(new, session):
        session.add(Effect(listener="count", item=new.item, process=os.getpid()))
"""


@pytest.fixture
def bare_shop(tmp_path: Path, engine: Engine, url: str) -> Iterator[Shop]:
    """A project whose database is empty."""
    shop = Shop(tmp_path, engine, url)
    shop.write("shop/listeners.py", LISTENERS)
    yield shop
    shop.close()


@pytest.fixture
def shop(bare_shop: Shop) -> Shop:
    """A project with tables and triggers installed."""
    bare_shop.install()
    return bare_shop
