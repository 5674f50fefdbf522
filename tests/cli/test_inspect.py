"""``check``, ``status``, ``health`` and ``dead`` as an operator and a script see them."""

import json

import pytest
from sqlalchemy import make_url, text

from tests.cli.project import LISTENERS, Shop

pytestmark = pytest.mark.one_driver


def test_check_says_what_differs_and_exits_1(shop: Shop) -> None:
    result = shop.run("check", "shop.listeners")
    assert (result.returncode, result.stdout) == (0, "All declared triggers are installed.\n")
    with shop.engine.begin() as connection:
        connection.execute(text('DROP TRIGGER pubsub_insert ON "order"'))
    result = shop.run("check", "shop.listeners")
    assert result.returncode == 1
    assert "trigger for listeners 'count', 'ship' is not installed" in result.stdout


def test_check_of_fewer_modules_asks_for_the_others_before_a_migration(shop: Shop) -> None:
    """Which would drop the captures of their listeners, if it were written without them."""
    shop.write(
        "shop/fewer.py",
        """
        from sqla_pubsub import after_insert
        from shop.models import Order

        @after_insert(Order)
        def count(): ...
        """,
    )
    expected = (
        "Name all modules that declare listeners. Only if 'ship' was removed, run: alembic revision --au"
    )
    result = shop.run("check", "shop.fewer")
    assert result.returncode == 1
    assert f"'ship' is captured but not declared. {expected}" in result.stdout
    result = shop.run("listen", "shop.fewer", "--drain")
    assert result.returncode == 0
    assert expected in result.stderr
    shop.write(
        "shop/fewer.py",
        """
        from sqla_pubsub import after_delete
        from shop.models import Order

        @after_delete(Order)
        def other(): ...
        """,
    )
    result = shop.run("check", "shop.fewer")
    assert result.returncode == 1
    assert "Only if 'count', 'ship' were removed, run: alembic revision" in result.stdout


def test_status_counts_per_listener_as_json_and_as_a_table(shop: Shop) -> None:
    shop.order("bad", "good")
    shop.run("listen", "shop.listeners", "--drain", "--listener", "ship")
    rows = json.loads(shop.run("status", "shop.listeners", "--json").stdout)
    assert [(row["listener"], row["ready"], row["waiting"], row["dead"]) for row in rows] == [
        ("count", 2, 0, 0),
        ("ship", 0, 0, 1),
    ]
    assert rows[0]["oldest"] > 0
    table = shop.run("status", "shop.listeners").stdout
    assert "count" in table
    assert "ready" in table
    assert "note" in table


def test_status_names_listeners_that_nobody_declares(shop: Shop) -> None:
    shop.order("one")
    with shop.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_outbox SET listener = 'gone' WHERE listener = 'ship'"))
    rows = json.loads(shop.run("status", "shop.listeners", "--json").stdout)
    assert {row["listener"]: row["declared"] for row in rows} == {"count": True, "gone": False, "ship": True}


def test_check_names_listeners_that_have_entries_and_are_not_declared_or_taken_over(shop: Shop) -> None:
    shop.order("one", "two")
    with shop.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_outbox SET listener = 'gone' WHERE listener = 'ship'"))
    result = shop.run("check", "shop.listeners")
    assert result.returncode == 1
    assert "listener 'gone' is not declared, but 2 entries and 0 dead letters are its own" in result.stdout
    assert "previous_names=['gone']" in result.stdout
    shop.write(
        "shop/heirs.py", LISTENERS.replace("max_attempts=1)", "max_attempts=1), previous_names=['gone']")
    )
    result = shop.run("check", "shop.heirs")
    assert (result.returncode, result.stdout) == (0, "All declared triggers are installed.\n")


def test_health_fails_when_a_listener_is_behind(shop: Shop) -> None:
    assert shop.run("health", "shop.listeners").returncode == 0
    shop.order("one")
    with shop.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_outbox SET occurred_at = occurred_at - interval '1 hour'"))
    result = shop.run("health", "shop.listeners")
    assert result.returncode == 1
    assert "'ship' is behind: 1 entry ready, the oldest for 1:00:0" in result.stdout
    assert "." not in result.stdout.replace(".\n", "")


def test_a_retry_that_is_overdue_without_a_worker_is_ready_since_it_was_due(shop: Shop) -> None:
    """Else a probe says healthy as long as the workers are away."""
    shop.order("one")
    with shop.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE pubsub_outbox SET occurred_at = occurred_at - interval '1 day',"
                " due_at = clock_timestamp() - interval '1 hour'"
            )
        )
    result = shop.run("health", "shop.listeners", "--max-age", "30m")
    assert result.returncode == 1
    assert "'ship' is behind: 1 entry ready, the oldest for 1:00:0" in result.stdout
    assert shop.run("health", "shop.listeners", "--max-age", "2h").returncode == 0
    rows = json.loads(shop.run("status", "shop.listeners", "--json").stdout)
    assert [(row["ready"], row["waiting"], 3600 <= row["oldest"] < 7200) for row in rows] == [
        (1, 0, True),
        (1, 0, True),
    ]


def test_health_is_well_when_an_old_dead_letter_was_just_put_back(shop: Shop) -> None:
    shop.order("bad")
    shop.run("listen", "shop.listeners", "--drain")
    with shop.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE pubsub_dead_letter SET died_at = died_at - interval '2 days',"
                " occurred_at = occurred_at - interval '2 days'"
            )
        )
    module = ("--module", "shop.listeners")
    assert "1 dead letter back" in shop.run("dead", "retry", "--all", "--yes", *module).stdout
    assert shop.run("health", "shop.listeners", "--max-age", "1m").stdout == "healthy\n"
    assert (
        shop.scalar(
            "SELECT count(*) FROM pubsub_outbox WHERE occurred_at < clock_timestamp() - interval '2 days'"
        )
        == 1
    )


def test_a_dead_letter_is_listed_shown_and_retried_as_the_same_event(shop: Shop) -> None:
    shop.order("bad")
    shop.run("listen", "shop.listeners", "--drain")
    letters = json.loads(shop.run("dead", "list", "--module", "shop.listeners", "--json").stdout)
    assert [(letter["listener"], letter["reason"]) for letter in letters] == [
        ("ship", "ValueError: out of stock")
    ]
    number = str(letters[0]["id"])
    shown = json.loads(shop.run("dead", "show", number, "--json", "--module", "shop.listeners").stdout)[0]
    assert shown["new"]["item"] == "bad"
    assert "ValueError" in shown["traceback"]
    assert "1 dead letter back" in shop.run("dead", "retry", number, "--module", "shop.listeners").stdout
    assert shop.scalar("SELECT id FROM pubsub_outbox") == int(number)


def test_what_looks_like_a_style_is_shown_as_it_is(bare_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error's text, and a listener's name, are no markup."""
    shop = bare_shop
    monkeypatch.setenv("COLUMNS", "200")
    reason = "no file [/tmp/x] in list[int] :warning:"
    shop.write(
        "shop/listeners.py",
        f"""
        from sqla_pubsub import Reject, after_insert
        from shop.models import Order

        @after_insert(Order, name="mail[/x]")
        def mail(): raise Reject({reason!r})
        """,
    )
    shop.install()
    shop.order("one")
    assert shop.run("listen", "shop.listeners", "--drain").returncode == 0
    listed = shop.run("dead", "list", "--module", "shop.listeners")
    assert (listed.returncode, reason in listed.stdout, "mail[/x]" in listed.stdout) == (0, True, True)
    status = shop.run("status", "shop.listeners")
    assert (status.returncode, "mail[/x]" in status.stdout) == (0, True)


def test_an_age_that_no_clock_can_count_is_refused(shop: Shop) -> None:
    for arguments in (
        ("dead", "list", "--older-than", "9999999d", "--module", "shop.listeners"),
        ("health", "--max-age", "99999999999d", "shop.listeners"),
    ):
        result = shop.run(*arguments)
        assert (result.returncode, "is more than 36500 days. Give less." in result.stderr) == (2, True)
        assert "Traceback" not in result.stderr


def test_many_dead_letters_are_discarded_only_after_a_yes(shop: Shop) -> None:
    shop.order("bad", "bad", "bad")
    shop.run("listen", "shop.listeners", "--drain")
    asked = shop.run("dead", "discard", "--all", "--module", "shop.listeners")
    assert asked.returncode == 1
    assert "Discard 3 dead letters?" in asked.stderr
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 3
    young = shop.run("dead", "discard", "--all", "--yes", "--older-than", "1h", "--module", "shop.listeners")
    assert "0 dead letters discarded" in young.stdout
    assert shop.run("dead", "discard", "--all", "--yes", "--module", "shop.listeners").returncode == 0
    assert shop.scalar("SELECT count(*) FROM pubsub_dead_letter") == 0


def test_without_dead_letters_the_list_says_so_and_its_json_is_empty(shop: Shop) -> None:
    assert shop.run("dead", "list", "--module", "shop.listeners").stdout == "No dead letters.\n"
    assert json.loads(shop.run("dead", "list", "--json", "--module", "shop.listeners").stdout) == []


def test_dead_letters_of_an_unknown_listener_are_refused_by_its_name(shop: Shop) -> None:
    shop.order("bad")
    shop.run("listen", "shop.listeners", "--drain")
    with shop.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_dead_letter SET listener = 'gone'"))
    module = ("--module", "shop.listeners")
    for command in (("list",), ("list", "--json"), ("retry", "--all"), ("discard", "--all")):
        result = shop.run("dead", *command, "--listener", "nosuch", *module)
        assert result.returncode == 2
        assert "listener 'nosuch' is not declared and has no dead letters" in result.stderr
        assert "Known are: count, gone, ship." in result.stderr
    assert shop.run("dead", "list", "--listener", "ship", *module).stdout == "No dead letters.\n"
    discarded = shop.run("dead", "discard", "--all", "--listener", "gone", *module)
    assert discarded.stdout == "1 dead letter discarded.\n"


@pytest.mark.parametrize(
    "command",
    [
        ("status", "shop.listeners"),
        ("health", "shop.listeners"),
        ("dead", "list", "--module", "shop.listeners"),
        ("dead", "retry", "--all", "--module", "shop.listeners"),
    ],
    ids=" ".join,
)
def test_a_missing_migration_is_named_and_refused(bare_shop: Shop, command: tuple[str, ...]) -> None:
    result = bare_shop.run(*command)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert (
        "outbox table 'pubsub_outbox' does not exist in this database. Run: alembic upgrade head"
        in result.stderr
    )
    assert "cannot be reached" not in result.stderr


def test_an_outbox_outside_of_the_search_path_is_hinted_at(shop: Shop) -> None:
    url = make_url(shop.url).update_query_dict({"options": "-csearch_path=elsewhere"})
    result = shop.run("status", "shop.listeners", url=url.render_as_string(hide_password=False))
    assert result.returncode == 2
    assert "its schema is not in the search_path of this connection: elsewhere" in result.stderr


def test_an_unknown_dead_letter_is_refused(shop: Shop) -> None:
    result = shop.run("dead", "show", "4711", "--module", "shop.listeners")
    assert result.returncode == 2
    assert "there is no dead letter 4711" in result.stderr


def test_health_is_well_while_an_order_waits_for_its_retry(shop: Shop) -> None:
    """However old it is: a probe that failed for it would restart the listener again and again."""
    shop.order("one")
    with shop.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE pubsub_outbox SET occurred_at = occurred_at - interval '1 day',"
                " due_at = clock_timestamp() + interval '1 hour'"
            )
        )
    assert shop.run("health", "shop.listeners").returncode == 0


def test_check_names_a_condition_that_no_row_changes_and_exits_0(shop: Shop) -> None:
    """It may be a switch that is off."""
    shop.write(
        "shop/listeners.py",
        """
        from sqla_pubsub import after_insert
        from shop.models import Order

        @after_insert(Order, when=lambda: False)
        def ship(): ...

        @after_insert(Order)
        def count(): ...
        """,
    )
    shop.install()
    result = shop.run("check", "shop.listeners")
    assert result.returncode == 0
    assert "when= of listener 'ship' on INSERT of table 'order' is never true." in result.stdout
    assert result.stdout.endswith("All declared triggers are installed.\n")
