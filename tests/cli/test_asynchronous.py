"""``sqla-pubsub listen`` with ``async def`` listeners, alone and beside plain ones."""

import os
import signal

import pytest
from sqlalchemy import make_url

from tests.cli.project import DEADLINE, Shop
from tests.cli.test_listen import children
from tests.waiting import wait_until

pytestmark = [pytest.mark.one_driver("psycopg"), pytest.mark.in_turn("loop_shop")]

LISTENERS = """
    import asyncio
    import os
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session
    from sqla_pubsub import RetryPolicy, after_insert
    from shop.models import Effect, Order

    def effect(listener, item):
        return Effect(listener=listener, item=item, process=os.getpid())

    @after_insert(Order)
    def plain(new: Order, session: Session) -> None:
        session.add(effect("plain", new.item))

    @after_insert(Order, retry=RetryPolicy(max_attempts=1))
    async def inside(new: Order, session: AsyncSession) -> None:
        session.add(effect("inside", new.item))
        await session.flush()

    @after_insert(Order, transactional=False, retry=RetryPolicy(max_attempts=1))
    async def outside(new: Order, session: AsyncSession) -> None:
        if new.item == "fatal":
            os._exit(7)
        await asyncio.sleep(0.01)
        session.add(effect("outside", new.item))
"""


HOLDING = """
    import asyncio
    import os
    from pathlib import Path
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqla_pubsub import RetryPolicy, after_insert
    from shop.models import Effect, Order

    async def hold(new, session, listener):
        print("holding", new.item, flush=True)
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        session.add(Effect(listener=listener, item=new.item, process=os.getpid()))

    @after_insert(Order, retry=RetryPolicy(max_attempts=1))
    async def inside(new: Order, session: AsyncSession) -> None:
        await hold(new, session, "inside")

    @after_insert(Order, transactional=False, retry=RetryPolicy(max_attempts=1))
    async def outside(new: Order, session: AsyncSession) -> None:
        await hold(new, session, "outside")
"""
ITEMS = list("abcd")


@pytest.fixture(params=["psycopg", "asyncpg"])
def loop_shop(bare_shop: Shop, request: pytest.FixtureRequest) -> Shop:
    """A project with listeners of both kinds, and the URL of each driver that can be awaited."""
    place = make_url(bare_shop.url).set(drivername=f"postgresql+{request.param}")
    bare_shop.url = place.render_as_string(hide_password=False)
    bare_shop.write("shop/listeners.py", LISTENERS)
    bare_shop.install()
    return bare_shop


def test_listeners_of_both_kinds_are_drained_together(loop_shop: Shop) -> None:
    loop_shop.order("a", "b")
    done = loop_shop.run("listen", "shop.listeners", "--drain", "--concurrency", "5")
    assert done.returncode == 0, done.stderr
    for name in ("plain", "inside", "outside"):
        assert loop_shop.effects(name) == ["a", "b"]
    assert loop_shop.settled()


@pytest.mark.parametrize("names", [("inside",), ("plain", "inside", "outside")])
def test_a_worker_with_awaited_listeners_works_until_it_is_told_to_stop(
    loop_shop: Shop, names: tuple[str, ...]
) -> None:
    chosen = [word for name in names for word in ("--listener", name)]
    process = loop_shop.start("listen", "shop.listeners", "--concurrency", "3", *chosen)
    loop_shop.order("a", "b")
    wait_until(
        lambda: all(len(loop_shop.effects(name)) == 2 for name in names), DEADLINE, "all to be handled"
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert loop_shop.effects("inside") == ["a", "b"]


def test_what_was_in_hand_beside_an_event_that_kills_its_process_is_never_given_up(loop_shop: Shop) -> None:
    items = [*map(str, range(20)), "fatal", *map(str, range(20, 40))]
    loop_shop.order(*items)
    process = loop_shop.start(
        "listen", "shop.listeners", "--concurrency", "8", "--listener", "outside", "--processes", "2"
    )
    left = "SELECT count(*) FROM pubsub_outbox WHERE listener = 'outside'"
    wait_until(
        lambda: loop_shop.scalar(left) == 0 or process.poll() is not None, 4 * DEADLINE, "all to be settled"
    )
    assert process.poll() is None, loop_shop.log
    assert set(loop_shop.effects("outside")) == {*items} - {"fatal"}
    query = "SELECT count(*) FROM pubsub_dead_letter WHERE new::json ->> 'item' = 'fatal'"
    assert loop_shop.scalar(query) == loop_shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 1


@pytest.mark.parametrize("name", ["inside", "outside"])
def test_what_is_in_hand_when_a_worker_is_told_to_stop_is_finished(loop_shop: Shop, name: str) -> None:
    loop_shop.write("shop/listeners.py", HOLDING)
    loop_shop.order(*ITEMS)
    process = loop_shop.start("listen", "shop.listeners", "--concurrency", "4", "--listener", name)
    wait_until(lambda: loop_shop.log.count("holding") == len(ITEMS), DEADLINE, "all to be in hand")
    process.send_signal(signal.SIGTERM)
    loop_shop.write("go", "")
    assert process.wait(DEADLINE) == 0, loop_shop.log
    assert loop_shop.effects(name) == ITEMS
    assert loop_shop.scalar(f"SELECT count(*) FROM pubsub_outbox WHERE listener = '{name}'") == 0


@pytest.mark.in_turn("name", "loop_shop")
@pytest.mark.parametrize("name", ["inside", "outside"])
def test_what_was_in_hand_of_a_worker_that_was_killed_is_handled_by_the_next(
    loop_shop: Shop, name: str
) -> None:
    """None of it is to blame, and none is given up."""
    loop_shop.write("shop/listeners.py", HOLDING)
    loop_shop.order(*ITEMS)
    process = loop_shop.start("listen", "shop.listeners", "--concurrency", "4", "--listener", name)
    wait_until(lambda: loop_shop.log.count("holding") == len(ITEMS), DEADLINE, "all to be in hand")
    (worker,) = children(process.pid)
    loop_shop.write("go", "")
    os.kill(worker, signal.SIGKILL)
    left = f"SELECT count(*) FROM pubsub_outbox WHERE listener = '{name}'"
    wait_until(lambda: loop_shop.scalar(left) == 0, 4 * DEADLINE, "all to be settled")
    effects = loop_shop.effects(name)
    assert effects == ITEMS if name == "inside" else set(effects) == set(ITEMS)
    assert loop_shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 0


@pytest.mark.in_turn("query")
@pytest.mark.parametrize("query", ["", "?ssl=disable", "?prepared_statement_cache_size=0&timeout=9"])
def test_each_kind_of_handler_has_the_driver_that_serves_it(bare_shop: Shop, query: str) -> None:
    """Those of a loop that of the application, and the others one of libpq."""
    bare_shop.write(
        "shop/listeners.py",
        """
        from sqlalchemy.ext.asyncio import AsyncSession
        from sqlalchemy.orm import Session
        from sqla_pubsub import after_insert
        from shop.models import Effect, Order

        @after_insert(Order)
        def plain(new: Order, session: Session) -> None:
            driver = session.connection().dialect.driver
            session.add(Effect(listener="plain", item=driver, process=0))

        @after_insert(Order)
        async def inside(new: Order, session: AsyncSession) -> None:
            driver = (await session.connection()).dialect.driver
            session.add(Effect(listener="inside", item=driver, process=0))

        @after_insert(Order, transactional=False)
        async def outside(new: Order, session: AsyncSession) -> None:
            driver = (await session.connection()).dialect.driver
            session.add(Effect(listener="outside", item=driver, process=0))
        """,
    )
    bare_shop.install()
    bare_shop.order("a")
    place = make_url(bare_shop.url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    bare_shop.write(
        "pyproject.toml",
        f'[tool.sqla-pubsub]\nurl = "{place}{query}"\n[tool.sqla-pubsub.listen]\ndirect_url = "{place}{query}"\n',
    )
    done = bare_shop.run("listen", "shop.listeners", "--drain", url=None)
    assert done.returncode == 0, done.stderr
    assert bare_shop.effects("plain") == ["psycopg"]
    assert bare_shop.effects("inside") == ["asyncpg"]
    assert bare_shop.effects("outside") == ["asyncpg"]


def test_a_driver_that_cannot_be_awaited_is_refused_with_the_remedy(loop_shop: Shop) -> None:
    url = make_url(loop_shop.url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
    done = loop_shop.run("listen", "shop.listeners", "--drain", url=url)
    assert done.returncode == 2
    assert "listener 'inside' is async def, and driver 'psycopg2' cannot be awaited" in done.stderr
