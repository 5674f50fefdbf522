"""``around``, ``lifespan`` and ``session_class`` of the settings: what the application puts around its handlers."""

import pytest

from tests.cli.project import Shop

pytestmark = pytest.mark.one_driver

SETTINGS = """
    [tool.sqla-pubsub.listen]
    around = ["surroundings:container", "surroundings:awaited"]
    lifespan = ["surroundings:life"]
    session_class = "surroundings:AppSession"
    async_session_class = "surroundings:AppAsyncSession"
"""

SURROUNDINGS = """
    import sys
    from contextlib import asynccontextmanager, contextmanager
    from contextvars import ContextVar
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    held = ContextVar("held", default="nothing")
    began = []

    class AppSession(Session):
        kind = "AppSession"

    class AppAsyncSession(AsyncSession):
        kind = "AppAsyncSession"
        sync_session_class = AppSession

    @contextmanager
    def life():
        began.append("life")
        yield
        print("life is over", file=sys.stderr)

    @contextmanager
    def container(event):
        token = held.set(f"container of {event.listener}")
        yield
        held.reset(token)

    @asynccontextmanager
    async def awaited(event):
        token = held.set(held.get() + ", awaited")
        yield
        held.reset(token)
"""

LISTENERS = """
    import threading
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order
    import surroundings

    two = threading.Barrier(2)

    def note(session, listener):
        place = f"{surroundings.held.get()} in {session.kind} after {surroundings.began}"
        session.add(Effect(listener=listener, item=place, process=threading.get_ident() % 2**31))

    @after_insert(Order)
    def count(session):
        note(session, "count")

    @after_insert(Order, transactional=False)
    def mail(session):
        # Passed only by two threads that each have an order in hand.
        two.wait(10)
        note(session, "mail")

    @after_insert(Order)
    async def await_it(session):
        note(session, "await_it")
"""


def test_they_are_entered_in_every_thread_and_on_the_loop(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write("surroundings.py", SURROUNDINGS)
    shop.write("pyproject.toml", SETTINGS)
    shop.write("shop/listeners.py", LISTENERS)
    shop.install()
    shop.order("one", "two")
    url = shop.engine.url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    result = shop.run("listen", "shop.listeners", "--drain", "--concurrency", "2", url=url)
    assert result.returncode == 0, result.stderr
    assert shop.effects("count") == ["container of count in AppSession after ['life']"] * 2
    assert shop.effects("mail") == ["container of mail in AppSession after ['life']"] * 2
    assert shop.scalar("SELECT count(DISTINCT process) FROM effect WHERE listener = 'mail'") == 2
    assert (
        shop.effects("await_it") == ["container of await_it, awaited in AppAsyncSession after ['life']"] * 2
    )
    assert result.stderr.count("life is over") == 1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ('around = "surroundings"', "around 'surroundings' of the settings is no name. Give a module"),
        ('around = "surroundings:lost"', "around 'surroundings:lost' of the settings: 'surroundings' has no 'lost'"),
        ('lifespan = ["surroundings:began"]', "gives an object of type list. Name a function without parameters"),
        ('lifespan = ["surroundings:alive"]', "no async def listener. Give one that 'with' can enter"),
        ('session_class = "surroundings:began"', "give a subclass of sqlalchemy.orm.Session, or a sessionmaker"),
        ("session_class = 5", "session_class = 5: give a name such as 'myapp.wsgi:in_context'"),
        ("around = [1]", "around = [1]: give a name such as 'myapp.wsgi:in_context', or a list of such"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(shop: Shop, setting: str, sentence: str) -> None:
    shop.write(
        "surroundings.py",
        SURROUNDINGS + "\n    @asynccontextmanager\n    async def alive():\n        yield\n",
    )
    shop.write("pyproject.toml", f"[tool.sqla-pubsub.listen]\n{setting}\n")
    result = shop.run("listen", "shop.listeners", "--drain")
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_lifespan_that_fails_ends_with_1_and_says_so(shop: Shop) -> None:
    shop.write("broken.py", "def life():\n    raise OSError('no cache')\n")
    shop.write("pyproject.toml", '[tool.sqla-pubsub.listen]\nlifespan = "broken:life"\n')
    result = shop.run("listen", "shop.listeners", "--drain")
    assert result.returncode == 1
    assert "worker.failed: OSError: no cache" in result.stderr
