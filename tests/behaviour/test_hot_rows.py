"""Several workers that write the same few rows."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.cli.project import DEADLINE, Shop
from tests.waiting import wait_until

COUNTERS = """
    from sqlalchemy import update
    from sqla_pubsub import after_insert
    from shop.models import Counter, Order

    @after_insert(Order)
    def count(new, session):
        session.execute(update(Counter).where(Counter.item == new.item).values(n=Counter.n + 1))
"""
MODEL = """
    class Counter(Base):
        __tablename__ = "counter"
        item: Mapped[str] = mapped_column(primary_key=True)
        n: Mapped[int]
"""


@pytest.mark.one_driver
def test_workers_that_count_on_the_same_rows_get_out_of_each_others_way(
    tmp_path: Path, engine: Engine, url: str
) -> None:
    """A deadlock costs a second each; after one, its victim takes one event at a time."""
    shop = Shop(tmp_path, engine, url)
    try:
        shop.write("shop/models.py", (tmp_path / "shop/models.py").read_text() + _dedented(MODEL))
        shop.write("shop/listeners.py", COUNTERS)
        shop.install()
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO counter SELECT 'item ' || g, 0 FROM generate_series(0, 3) AS g")
            )
        shop.listening("--processes", "2", workers=2)
        # In an order of its own for each stretch, as it is in life.
        shop.order(*(f"item {(number * 7919 // 13) % 4}" for number in range(1500)))
        wait_until(shop.settled, 3 * DEADLINE, "all orders to be counted")
        assert shop.scalar("SELECT sum(n) FROM counter") == 1500
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert shop.scalar(deadlocks) <= 4
    finally:
        shop.close()


def _dedented(source: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in source.splitlines())
