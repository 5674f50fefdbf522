"""Where the database is: --url, then SQLA_PUBSUB_URL, then pyproject.toml, then alembic.ini."""

import pytest
from sqlalchemy import make_url

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


@pytest.mark.parametrize("command", ["status", "health"])
def test_an_unreachable_server_is_one_sentence_without_the_password(shop: Shop, command: str) -> None:
    result = shop.run(command, "shop.listeners", url=WRONG)
    assert result.returncode == (1 if command == "health" else 2)
    assert result.stderr.count("\n") == 1
    assert "nobody:***@127.0.0.1:1/nothing cannot be reached" in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


def test_a_daemon_told_so_does_not_wait_for_the_server(shop: Shop) -> None:
    result = shop.run("listen", "shop.listeners", "--exit-on-error", url=WRONG)
    assert result.returncode == 2
    assert "cannot be reached" in result.stderr
