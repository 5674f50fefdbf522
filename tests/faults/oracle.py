"""The judge of every fault: each committed order has one effect per listener, and nothing is left."""

import re

from sqlalchemy import text

from tests.cli.project import Shop
from tests.waiting import wait_until

DEADLINE = 30.0


def check_exactly_once(shop: Shop, *listeners: str) -> None:
    """Wait until everything is settled and compare the effects with what the table holds."""
    wait_until(shop.settled, DEADLINE, "the outbox to be empty")
    with shop.engine.connect() as connection:
        committed = sorted(connection.scalars(text('SELECT item FROM "order"')))
    for listener in listeners or ("ship", "count"):
        assert sorted(shop.effects(listener)) == committed
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 0


def holder(shop: Shop) -> int:
    """Return the process that holds the order called "held", once one does."""
    found = wait_until(lambda: re.findall(r"holding in (\d+)", shop.log), DEADLINE, "an order to be in hand")
    return int(found[-1])


def release(shop: Shop) -> None:
    """Let the held order go on."""
    shop.write("go", "")


def doorman_asleep(shop: Shop) -> bool:
    """Whether everything is drained and a worker waits for notifications."""
    return (
        shop.scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'")
        > 0
    )


def terminate(shop: Shop, condition: str) -> int:
    """End server processes of this database, and return how many."""
    return shop.scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND pid <> pg_backend_pid() AND {condition}"
    )
