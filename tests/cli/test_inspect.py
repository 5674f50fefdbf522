"""``check``, ``status``, ``health`` and ``dead`` as an operator and a script see them."""

import json

import pytest
from sqlalchemy import text

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
    assert "'ship' is behind" in result.stdout


def test_a_dead_letter_is_listed_shown_and_retried_as_the_same_event(shop: Shop) -> None:
    shop.order("bad")
    shop.run("listen", "shop.listeners", "--drain")
    letters = json.loads(shop.run("dead", "list", "--module", "shop.listeners", "--json").stdout)
    assert [(letter["listener"], letter["reason"]) for letter in letters] == [
        ("ship", "ValueError: out of stock")
    ]
    number = str(letters[0]["id"])
    shown = json.loads(shop.run("dead", "show", number, "--module", "shop.listeners").stdout)[0]
    assert shown["new"]["item"] == "bad"
    assert "ValueError" in shown["traceback"]
    assert "1 dead letter back" in shop.run("dead", "retry", number, "--module", "shop.listeners").stdout
    assert shop.scalar("SELECT id FROM pubsub_outbox") == int(number)


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
