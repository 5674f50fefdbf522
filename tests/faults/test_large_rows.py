"""Row 34: a backlog of large rows, and one row that is larger than the memory of the worker."""

import pytest
from sqlalchemy import text

from tests.cli.project import Shop
from tests.cli.test_listen import children
from tests.faults.test_backlog import execute, peak_megabytes
from tests.lengths import length
from tests.waiting import wait_until

DEADLINE = 300.0
MOST_MEMORY = 150
"""Megabytes."""
REPEATED = "repeat('x', {size})"
RANDOM = (
    "(SELECT string_agg(encode(sha512((random()::text || row::text || i)::bytea), 'hex'), '')"
    " FROM generate_series(1, {size} / 128) AS i)"
)

RECORDING = """
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order, {options})
    def ship({parameter}, session):
        for order in {orders}:
            session.add(Effect(listener="ship", item=str(order.id), process=len(order.item)))
        {flush}
"""
LIMITED = """
    import os
    import resource
    from datetime import timedelta
    from sqla_pubsub import RetryPolicy, after_insert
    from shop.models import Effect, Order

    if "LIMITED" in os.environ:
        resource.setrlimit(resource.RLIMIT_AS, (900_000_000, 900_000_000))

    soon = RetryPolicy(max_attempts=2, initial=timedelta(milliseconds=100))

    @after_insert(Order, retry=soon, {options})
    def ship({parameter}):
        print("shipped", *[order.id for order in {orders}], flush=True)

    @after_insert(Order)
    def count(context, session):
        session.add(Effect(listener="count", item="counted", process=0))
"""
ONE_BY_ONE = {"options": "", "parameter": "new", "orders": "[new]", "flush": ""}
KINDS = [
    pytest.param(ONE_BY_ONE, id="grouped"),
    pytest.param({**ONE_BY_ONE, "options": "ordered=True"}, id="ordered"),
    pytest.param(
        {"options": "batch=100", "parameter": "events", "orders": "[e.new for e in events]", "flush": ""},
        id="batch",
    ),
    pytest.param({**ONE_BY_ONE, "options": "transactional=False", "flush": "session.commit()"}, id="outside"),
]


@pytest.mark.one_driver
@pytest.mark.in_turn("made")
@pytest.mark.parametrize("made", [REPEATED, RANDOM], ids=["compressible", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_backlog_of_large_rows_costs_little_memory(
    bare_shop: Shop, kind: dict[str, str], made: str
) -> None:
    """More than a gigabyte of them, in full length."""
    shop = bare_shop
    shop.write("shop/listeners.py", RECORDING.format(**kind))
    shop.install()
    largest, large = length(short=2, full=52), length(short=10, full=500)
    for rows, size in ((largest, 22_000_000), (large, 2_200_000)):
        content = made.format(size=size)
        execute(shop, f'INSERT INTO "order" (item) SELECT {content} FROM generate_series(1, {rows}) AS row')
    process = shop.listening()
    pids = [process.pid, *children(process.pid)]
    wait_until(shop.settled, DEADLINE, "the backlog to be handled")
    with shop.engine.connect() as connection:
        handled = connection.execute(text("SELECT item, process FROM effect ORDER BY id")).all()
    sizes = largest * [22_000_000] + large * [2_200_000]
    assert [tuple(each) for each in handled] == [
        (str(number), size // 128 * 128 if made is RANDOM else size) for number, size in enumerate(sizes, 1)
    ]
    assert max(map(peak_megabytes, pids)) < MOST_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS[:1], *KINDS[2:]])
def test_a_row_that_no_worker_has_memory_for_becomes_a_dead_letter(
    bare_shop: Shop, kind: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, as an attempt or as a crash; the entries behind it and the other listener go on."""
    shop = bare_shop
    shop.write("shop/listeners.py", LIMITED.format(**kind))
    shop.install()
    shop.order("first")
    execute(shop, "INSERT INTO \"order\" (item) VALUES (repeat('x', 256000000))")
    for _ in range(5):
        shop.order("another")
    monkeypatch.setenv("LIMITED", "yes")
    shop.start("listen", "shop.listeners")
    wait_until(shop.settled, DEADLINE, "all that can be handled to be handled")
    assert shop.effects("count") == 7 * ["counted"]
    shipped = [
        int(n) for line in shop.log.splitlines() if line.startswith("shipped") for n in line.split()[1:]
    ]
    assert sorted(shipped) == [1, 3, 4, 5, 6, 7]
    with shop.engine.connect() as connection:
        dead = connection.execute(text("SELECT listener, attempt, crashes FROM pubsub_dead_letter")).all()
    assert [listener for listener, *_ in dead] == ["ship"]
    assert dead[0].attempt + dead[0].crashes > 0
