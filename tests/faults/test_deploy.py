"""Row 21, the processes: old and new workers, old and new triggers, in both orders and back again."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from tests.alembic_ext.project import Project, restored_logging
from tests.cli.project import Shop
from tests.cli.test_listen import children
from tests.faults.conftest import HOLDING
from tests.faults.oracle import DEADLINE, check_exactly_once, compare_effects, holder, release
from tests.lengths import length
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

OLD = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqla_pubsub import PubSub, after_insert
    from shop.holding import hold

    class Base(DeclarativeBase): ...

    class Order(PubSub, Base):
        __tablename__ = "order"
        id: Mapped[int] = mapped_column(primary_key=True)
        item: Mapped[str]

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
        listener: Mapped[str]
        item: Mapped[str]

    @after_insert(Order)
    def ship(new, session):
        session.add(Effect(listener="ship", item=new.item))

    @after_insert(Order)
    def count(new, session):
        session.add(Effect(listener="count", item=new.item))
        if new.item == "held":
            hold()
"""
NEW = (
    OLD.replace(
        "        item: Mapped[str]\n\n    class Effect",
        '        item: Mapped[str]\n        note: Mapped[str] = mapped_column(server_default="none", default="none")\n\n'
        "    class Effect",
    ).replace(
        "@after_insert(Order)\n    def count", '@after_insert(Order, previous_names=["count"])\n    def tally'
    )
    + """
    @after_insert(Order)
    def audit(new, session):
        session.add(Effect(listener="audit", item=f"{new.item}: {new.note}"))
"""
)
ENOUGH = length(short=30, full=1_000)
"""Orders written between two steps of a deployment."""


@dataclass
class Deployment:
    """Two versions of one program, and the migrations between them."""

    old: Shop
    new: Shop
    migrations: Project
    written: int = 0

    @contextmanager
    def load(self) -> Iterator[None]:
        """Write orders, one transaction each, until the block ends."""
        enough = threading.Event()

        def write() -> None:
            for number in count(1):
                if enough.wait(0.002):
                    return
                self.old.order(f"item {number}")
                self.written = number

        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            enough.set()
            writer.join()

    def go_on(self) -> int:
        """Return how many orders were written, once that are a good deal more."""
        enough = self.written + ENOUGH
        wait_until(lambda: self.written >= enough, DEADLINE, "more orders to be written")
        return enough


@pytest.fixture
def deployment(
    tmp_path: Path, engine: Engine, url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """The old version installed, and the migration to the new one written."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    shops = {name: Shop(tmp_path / name, engine, url) for name in ("old", "new")}
    for name, source in (("old", OLD), ("new", NEW)):
        shops[name].write("shop/listeners.py", source)
        shops[name].write("shop/holding.py", HOLDING)
    with restored_logging():
        (tmp_path / "migrations").mkdir()
        migrations = Project(tmp_path / "migrations", engine)
        migrations.write("holding.py", HOLDING)
        for source in (OLD, NEW):
            migrations.write("models.py", source)
            migrations.revision()
            if source == OLD:
                migrations.upgrade()
        yield Deployment(shops["old"], shops["new"], migrations)
    for shop in shops.values():
        shop.close()


@pytest.mark.in_turn("first")
@pytest.mark.parametrize("first", ["triggers", "workers"])
def test_a_rolling_deploy_under_load_loses_and_doubles_nothing(deployment: Deployment, first: str) -> None:
    old, new = deployment.old, deployment.new
    old_workers = old.listening("--processes", "2", workers=2)
    with deployment.load():
        deployment.go_on()
        # Of new workers before their migration, the listeners that have a capture run, and the others later.
        if first == "triggers":
            deployment.migrations.upgrade()
            migrated = deployment.go_on()
        new_workers = new.listening("--processes", "2", workers=2)
        deployment.go_on()
        if first == "workers":
            deployment.migrations.upgrade()
            migrated = deployment.go_on()
        old_workers.terminate()
        assert old_workers.wait(DEADLINE) == 0
        deployment.go_on()
    check_exactly_once(new)
    check_audited(new, migrated, deployment.written)
    new_workers.terminate()
    assert new_workers.wait(DEADLINE) == 0
    for shop in (old, new):
        assert "Traceback" not in shop.log
        assert "event.failed" not in shop.log


def test_a_downgrade_with_entries_waiting_loses_and_doubles_nothing(deployment: Deployment) -> None:
    old, new = deployment.old, deployment.new
    deployment.migrations.upgrade()
    with deployment.load():
        # Nobody listens: all of this waits, with a column that goes and for listeners that go.
        waiting = deployment.go_on()
        deployment.migrations.downgrade()
        old_workers = old.listening("--processes", "2", workers=2)
        deployment.go_on()
    wait_until(lambda: sum(known(old)) == 0, DEADLINE, "the old workers to handle what they know")
    compare_effects(old, "ship")
    assert len(old.effects("count")) < deployment.written
    old_workers.terminate()
    assert old_workers.wait(DEADLINE) == 0
    deployment.migrations.upgrade()
    new.listening()
    check_exactly_once(new)
    check_audited(new, 1, waiting)
    assert "event.failed" not in old.log + new.log


def test_what_an_old_worker_leaves_is_taken_by_the_listener_of_the_new_name(deployment: Deployment) -> None:
    """A renamed listener: the old worker has an entry in hand when the new one looks for it."""
    old, new = deployment.old, deployment.new
    old_workers = old.listening("--listener", "count")
    old.order("held")
    holder(old)
    deployment.migrations.upgrade()
    new.listening()
    new.order("another")
    wait_until(lambda: "another" in new.effects("count"), DEADLINE, "the new worker to work")
    wait_until(lambda: "held" in new.effects("ship"), DEADLINE, "the new worker to have nothing to do")
    for worker in (*children(old_workers.pid), old_workers.pid):
        os.kill(worker, signal.SIGKILL)
    release(new)
    check_exactly_once(new)


def known(shop: Shop) -> list[int]:
    """Return how many entries wait for each listener of the old version."""
    waiting = "SELECT count(*) FROM pubsub_outbox WHERE listener = '{}'"
    return [shop.scalar(waiting.format(name)) for name in ("ship", "count")]


def check_audited(shop: Shop, first: int, last: int) -> None:
    """Find all orders from *first* to *last* with one effect each, and no order with two."""
    audited = shop.effects("audit")
    assert len(set(audited)) == len(audited)
    assert {f"item {number}: none" for number in range(first, last + 1)} <= set(audited)
    with shop.engine.connect() as connection:
        orders = set(connection.scalars(text("SELECT item || ': none' FROM \"order\"")))
    assert set(audited) <= orders
