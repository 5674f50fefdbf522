"""``[tool.sqla-pubsub.listen]``: the settings of the listener process."""

import pytest
from sqlalchemy import make_url

from tests.cli.project import DEADLINE, Shop
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver


def test_a_listener_that_is_told_to_poll_handles_events_without_listening(shop: Shop) -> None:
    shop.write(
        "pyproject.toml", '[tool.sqla-pubsub.listen]\nnotify = "off"\npoll_interval = 0.05\ngrace = 5\n'
    )
    shop.listening()
    shop.order("one")
    wait_until(shop.settled, DEADLINE, "the order to be handled")
    assert shop.scalar("SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen %'") == 0
    assert shop.scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("comit_every = 1", "unknown setting 'comit_every'"),
        ("commit_every = '1 s'", "give a number of seconds"),
        ("claim_size = 2.5", "give a value of type int"),
        ("synchronous_commit = 1", "give a value of type bool"),
        ("claim_size = 0", "give 1 to 500"),
        ("grace = 0.01", "Give commit_every <= grace"),
        ("grace = 0", "where durations are seconds: ListenerConfig(grace=0 s)"),
        ("grace = nan", "give a number of seconds that a clock can count"),
        ("commit_every = 1e300", "give a number of seconds that a clock can count"),
        ("direct_url = 'nonsense'", "the database URL cannot be read"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(shop: Shop, setting: str, sentence: str) -> None:
    shop.write("pyproject.toml", f"[tool.sqla-pubsub.listen]\n{setting}\n")
    result = shop.run("listen", "shop.listeners", "--drain")
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_notifications_may_take_a_direct_url(shop: Shop) -> None:
    direct = (
        make_url(shop.url)
        .update_query_dict({"application_name": "past"})
        .render_as_string(hide_password=False)
    )
    shop.write("pyproject.toml", f'[tool.sqla-pubsub.listen]\ndirect_url = "{direct}"\n')
    shop.listening()
    shop.order("one")
    wait_until(shop.settled, DEADLINE, "the order to be handled")
    assert shop.scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'past'") == 1
