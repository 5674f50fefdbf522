"""The command line works with the engine of the application, where the settings name it."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.application import application_async_engine, application_engine
from tests.cli.project import Shop

pytestmark = pytest.mark.one_driver

WRONG = "postgresql://nobody:s3cret@127.0.0.1:1/nothing"
LISTENERS = """
    from sqlalchemy import text
    from sqlalchemy.orm import Session
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order)
    def ship(new: Order, session: Session) -> None:
        name = session.scalar(text("SELECT current_setting('application_name') || current_setting('my.option')"))
        session.add(Effect(listener="ship", item=name, process=0))
"""


def application(shop: Shop, source: str) -> None:
    shop.write("shop/listeners.py", LISTENERS)
    options = """connect_args={"options": "-c application_name=ours -c my.option=1"}"""
    shop.write("shop/db.py", source.replace("URL", repr(shop.url)).replace("OPTIONS", options))
    shop.install()


def test_workers_and_commands_use_the_engine_of_the_application(bare_shop: Shop) -> None:
    shop = bare_shop
    application(shop, "from sqlalchemy import create_engine\nengine = create_engine(URL, OPTIONS)\n")
    shop.write(
        "pyproject.toml", '[tool.sqla-pubsub]\nengine = "shop.db:engine"\nlisteners = ["shop.listeners"]\n'
    )
    shop.order("a")
    done = shop.run("listen", "--drain", url=None)
    assert done.returncode == 0, done.stderr
    assert shop.effects("ship") == ["ours1"]
    # What is given for one call goes before what the file says.
    done = shop.run("check", url=WRONG)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr


ASYNCHRONOUS = """
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session
    from sqla_pubsub import after_insert
    from shop.models import Effect, Order

    @after_insert(Order)
    def plain(new: Order, session: Session) -> None:
        session.add(Effect(listener="plain", item=new.item, process=0))

    @after_insert(Order)
    async def awaited(new: Order, session: AsyncSession) -> None:
        name = await session.scalar(text("SELECT current_setting('my.option')"))
        session.add(Effect(listener="awaited", item=name, process=0))

    @after_insert(Order, transactional=False)
    async def outside(new: Order, session: AsyncSession) -> None:
        name = await session.scalar(text("SELECT current_setting('my.option')"))
        session.add(Effect(listener="outside", item=name, process=0))
"""


def test_every_command_works_with_the_async_engine_of_the_application(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write("shop/listeners.py", ASYNCHRONOUS)
    url = make_url(shop.url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    shop.write(
        "shop/db.py",
        f"""
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine({url!r}, connect_args={{"options": "-c my.option=1"}})
        """,
    )
    shop.install()
    shop.write(
        "pyproject.toml", '[tool.sqla-pubsub]\nengine = "shop.db:engine"\nlisteners = ["shop.listeners"]\n'
    )
    shop.order("a")
    done = shop.run("listen", "--drain", "--concurrency", "3", url=None)
    assert done.returncode == 0, done.stderr
    assert (shop.effects("plain"), shop.effects("awaited"), shop.effects("outside")) == (["a"], ["1"], ["1"])
    for command in (["check"], ["status"], ["health"], ["dead", "list"]):
        done = shop.run(*command, url=None)
        assert done.returncode == 0, done.stderr


def test_alembic_ini_names_a_function_that_makes_one(bare_shop: Shop) -> None:
    shop = bare_shop
    application(
        shop,
        "from sqlalchemy import create_engine\n\ndef make():\n    return create_engine(URL, OPTIONS)\n",
    )
    shop.write(
        "alembic.ini",
        f"[alembic]\nsqlalchemy.url = {WRONG}\nsqla_pubsub.engine = shop.db:make\n"
        "sqla_pubsub.listeners = shop.listeners\n",
    )
    done = shop.run("check", url=None)
    assert done.returncode == 0, done.stderr


def test_an_engine_that_cannot_work_is_a_sentence_and_exit_code_2(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write("shop/db.py", "engine = None\n")
    shop.write(
        "pyproject.toml", '[tool.sqla-pubsub]\nengine = "shop.db:engine"\nlisteners = ["shop.listeners"]\n'
    )
    done = shop.run("status", url=None)
    assert done.returncode == 2
    assert "engine 'shop.db:engine' of the settings gives None" in done.stderr
    assert "Traceback" not in done.stderr


MODULE = """
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import sessionmaker

engine = create_engine("postgresql+psycopg2://u@h/d", connect_args={"connect_timeout": 77})
class settings:
    engine = engine
asynchronous = create_async_engine("postgresql+asyncpg://u@h/d?ssl=require&prepared_statement_cache_size=0")
@event.listens_for(asynchronous.sync_engine, "do_connect")
def token(dialect, record, arguments, parameters):
    parameters.update(password="fresh", ssl=False)
below = asynchronous.sync_engine
psycopg = create_async_engine("postgresql+psycopg://u@h/d", execution_options={"isolation_level": "AUTOCOMMIT"})
def make_asynchronous(): return psycopg
class lite_asynchronous:
    sync_engine = create_engine("sqlite://")
lite = create_engine("sqlite://")
factory = sessionmaker(engine)
text = "postgresql://u@h/d"
def make(): return engine
def needs(one): return engine
def fails(): raise KeyError("DATABASE_URL")
async def later(): return engine
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"app_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("name", ["engine", "make", "settings.engine"])
def test_an_engine_is_found_by_its_name_or_made_by_a_function_once(module: str, name: str) -> None:
    engine = application_engine(f"{module}:{name}")
    assert isinstance(engine, Engine)
    assert application_engine(f"{module}:{name}") is engine
    parameters = {"connect_timeout": 77}
    engine.dialect.dispatch.do_connect(engine.dialect, None, [], parameters)
    assert parameters["connect_timeout"] == 77
    assert parameters["keepalives"] == 1


@pytest.mark.parametrize("name", ["psycopg", "make_asynchronous", "asynchronous", "below"])
def test_an_async_engine_has_a_twin_for_commands_and_is_itself_for_coroutines(module: str, name: str) -> None:
    twin = application_engine(f"{module}:{name}")
    assert isinstance(twin, Engine)
    assert not twin.dialect.is_async
    assert twin.driver == "psycopg"
    assert application_engine(f"{module}:{name}") is twin
    own = application_async_engine(f"{module}:{name}", "index", 1)
    assert isinstance(own, AsyncEngine)
    parameters: dict[str, Any] = {"password": "old"}
    twin.dialect.dispatch.do_connect(twin.dialect, None, [], parameters)
    assert parameters["keepalives"] == 1
    if name in ("asynchronous", "below"):
        assert own.driver == "asyncpg"
        assert dict(twin.url.query) == {"sslmode": "require"}
        # A hook of another driver may say who connects, and nothing that this one does not know.
        assert (parameters["password"], "ssl" in parameters) == ("fresh", False)
    else:
        assert own.driver == "psycopg"
        assert twin.get_execution_options()["isolation_level"] == "AUTOCOMMIT"


def test_coroutines_with_an_engine_that_cannot_be_awaited_are_refused(module: str) -> None:
    with pytest.raises(
        ConfigurationError, match="listener 'index' is async def, and driver 'psycopg2' cannot"
    ):
        application_async_engine(f"{module}:engine", "index", 1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("lite_asynchronous", "is an AsyncEngine of 'sqlite' with driver 'pysqlite'"),
        ("lite", "is one of 'sqlite' with driver 'pysqlite'"),
        ("factory", "gives an object of type Session"),
        ("text", "gives an object of type str"),
        ("needs", "the call failed with TypeError"),
        ("fails", "the call failed with KeyError: 'DATABASE_URL'"),
        ("later", "is an async function"),
        ("missing", "has no 'missing'"),
        ("settings.missing", "'settings' has no 'missing'"),
    ],
)
def test_what_is_no_engine_for_listeners_is_refused(module: str, name: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        application_engine(f"{module}:{name}")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("myapp.db", "is no name"),
        (":engine", "is no name"),
        ("myapp.db:", "is no name"),
        ("no_such_module:engine", "there is no module 'no_such_module'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        application_engine(name)
