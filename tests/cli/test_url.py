"""Where the database is: --url, then SQLA_PUBSUB_URL, then pyproject.toml, then alembic.ini."""

import pytest
from sqlalchemy import create_engine, make_url, text

from sqla_pubsub.cli.project import with_driver
from sqla_pubsub.deliver.io.reconnect import make_engine
from tests.cli.project import Shop

pytestmark = pytest.mark.one_driver

WRONG = "postgresql://nobody:s3cret@127.0.0.1:1/nothing"


def right(shop: Shop) -> str:
    return make_url(shop.url).render_as_string(hide_password=False)


def test_the_option_comes_before_the_variable(shop: Shop) -> None:
    assert shop.run("check", "shop.listeners", "--url", right(shop), url=WRONG).returncode == 0


def test_the_variable_comes_before_the_files(shop: Shop) -> None:
    shop.write("pyproject.toml", f'[tool.sqla-pubsub]\nurl = "{WRONG}"\nlisteners = ["shop.listeners"]\n')
    assert shop.run("check").returncode == 0


def test_pyproject_comes_before_alembic_ini(shop: Shop) -> None:
    shop.write(
        "alembic.ini", f"[alembic]\nsqlalchemy.url = {WRONG}\nsqla_pubsub.listeners = shop.listeners\n"
    )
    shop.write("pyproject.toml", f'[tool.sqla-pubsub]\nurl = "{right(shop)}"\n')
    assert shop.run("check", url=None).returncode == 0


def test_without_a_url_the_places_are_named(shop: Shop) -> None:
    result = shop.run("check", "shop.listeners", url=None)
    assert result.returncode == 2
    assert "no database URL is given. Use --url, SQLA_PUBSUB_URL" in result.stderr


COMMANDS = [
    ("status", "shop.listeners"),
    ("health", "shop.listeners"),
    ("check", "shop.listeners"),
    ("dead", "list", "--module", "shop.listeners"),
    ("dead", "retry", "--all", "--module", "shop.listeners"),
    ("grants", "shop.listeners", "--listener-role", "worker"),
    ("backfill", "ship", "--module", "shop.listeners"),
    ("listen", "shop.listeners", "--drain"),
    ("listen", "shop.listeners", "--exit-on-error"),
]
each_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


@each_command
def test_an_unreachable_server_is_one_sentence_without_the_password_and_exit_code_1(
    shop: Shop, command: tuple[str, ...]
) -> None:
    """Trying again may help, so what restarts on 1 and not on 2 does."""
    result = shop.run(*command, url=WRONG)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "nobody:***@127.0.0.1:1/nothing cannot be reached" in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


@each_command
def test_an_option_that_libpq_does_not_know_is_refused_with_exit_code_2(
    shop: Shop, command: tuple[str, ...]
) -> None:
    result = shop.run(*command, url=f"{WRONG}?nonsense=1")
    assert result.returncode == 2
    assert "the database URL cannot be used: " in result.stderr
    assert 'invalid connection option "nonsense"' in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


def test_a_password_behind_the_question_mark_is_not_shown_either(shop: Shop) -> None:
    result = shop.run(
        "status", "shop.listeners", url="postgresql://nobody@127.0.0.1:1/nothing?password=s3cret"
    )
    assert "cannot be reached" in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nonsense", "the database URL cannot be read. Give one such as postgresql+psycopg2://"),
        ("postgresql://nobody:s3cret@localhost:port/nothing", "the database URL cannot be read. Give one such"),
        ("postgresql://nobody:s3cret@/nothing?host=a:x&host=b", "the database URL cannot be used: ArgumentError: Rec"),
        ("postgresql://nobody:s3cret@localhost/x?plugin=y", "the database URL cannot be used: NoSuchModuleError"),
        ("postgresql+pg8000://nobody:s3cret@localhost/x", "driver 'pg8000' is not supported. Use psycopg2 or psy"),
        ("postgresql+psycopg_async://localhost/x", "driver 'psycopg_async' is not supported. Use psycopg2 or ps"),
        ("mysql://nobody:s3cret@localhost/x", "the database URL is one of 'mysql'. Give a postgresql:// URL."),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_one_sentence_that_says_which_can(
    shop: Shop, given: str, sentence: str
) -> None:
    result = shop.run("status", "shop.listeners", url=given)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"sqla-pubsub: {sentence}" in result.stderr
    assert "s3cret" not in result.stderr
    # The same of the setting, by its name.
    shop.write("pyproject.toml", f'[tool.sqla-pubsub.listen]\ndirect_url = "{given}"\n')
    result = shop.run("status", "shop.listeners")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"sqla-pubsub: [tool.sqla-pubsub.listen] direct_url: {sentence}" in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("raise ModuleNotFoundError(\"No module named 'psycopg'\", name='psycopg')", "cannot be imported: No mod"),
        ("raise ImportError('no pq wrapper available')", "cannot be imported: no pq wrapper available"),
    ],
)  # fmt: skip
def test_a_driver_that_cannot_be_imported_is_named_with_its_remedy(
    shop: Shop, content: str, found: str
) -> None:
    shop.write("psycopg.py", content)
    result = shop.run_program("status", "shop.listeners", url="postgresql+psycopg://nobody@localhost/nothing")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"driver 'psycopg' {found}" in result.stderr
    assert "Run: pip install 'sqla-pubsub[psycopg]'" in result.stderr


def test_a_driver_that_is_not_installed_is_named_with_its_remedy(shop: Shop) -> None:
    # As the import system says it where a module is not there.
    shop.write("without.py", "import sys\nsys.modules['psycopg'] = None\nfrom shop.listeners import *\n")
    result = shop.run("status", "without", url="postgresql+psycopg://nobody@localhost/nothing")
    assert (result.returncode, result.stderr) == (
        2,
        "sqla-pubsub: driver 'psycopg' is not installed. Run: pip install 'sqla-pubsub[psycopg]'\n",
    )


def test_the_old_name_of_the_scheme_gets_a_driver_too() -> None:
    assert create_engine(with_driver("postgres://nobody@localhost/nothing")).driver == "psycopg2"
    assert create_engine(with_driver("postgres+psycopg://nobody@localhost/nothing")).driver == "psycopg"


@pytest.mark.one_driver
@pytest.mark.parametrize(
    "query", ["", "?ssl=disable", "?ssl=prefer&prepared_statement_cache_size=0&timeout=9"]
)
def test_a_url_of_asyncpg_serves_every_command(shop: Shop, query: str) -> None:
    url = (
        make_url(shop.url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False) + query
    )
    shop.order("a")
    for arguments in (
        ["check", "shop.listeners"],
        ["listen", "shop.listeners", "--drain"],
        ["status", "shop.listeners"],
    ):
        done = shop.run(*arguments, url=url)
        assert done.returncode == 0, done.stderr
    assert shop.effects("ship") == ["a"]


def test_a_name_that_the_url_gives_to_connections_is_kept(url: str) -> None:
    """Of libpq, a fallback goes before what stands in its options."""
    named = make_url(url).update_query_dict({"options": "-c application_name=shop"})
    for place, name in ((named, "shop"), (make_url(url), "sqla-pubsub status")):
        engine = make_engine(place.render_as_string(hide_password=False), "sqla-pubsub status")
        with engine.connect() as connection:
            assert connection.scalar(text("SHOW application_name")) == name
