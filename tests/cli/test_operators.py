"""``pause``, ``resume``, ``workers``, ``why`` and ``status`` beside real workers, as an operator uses them."""

import json
import os
import pty
import re
import select
import signal
import subprocess

import pytest

from tests.cli.project import DEADLINE, Shop
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

WORKERS = "SELECT count(*) FROM pubsub_worker"


def test_a_listener_is_paused_for_all_workers_and_stays_so_when_they_start_anew(shop: Shop) -> None:
    """Two supervisors, one of them with two processes."""
    shop.listening("--processes", "2")
    second = shop.start("listen", "shop.listeners")
    wait_until(lambda: shop.scalar(WORKERS) == 2, DEADLINE, "two supervisors")
    paused = shop.run("pause", "ship", "shop.listeners", "--note", "no trucks")
    assert (paused.returncode, paused.stdout) == (
        0,
        "listener 'ship' is paused, until: sqla-pubsub resume ship\n",
    )
    again = shop.run("pause", "ship", "shop.listeners")
    assert re.fullmatch(r"listener 'ship' was already paused since \S+ by \S+: no trucks\n", again.stdout)
    shop.order("a", "b")
    wait_until(lambda: shop.effects("count") == ["a", "b"], DEADLINE, "the other listener to go on")
    second.send_signal(signal.SIGTERM)
    assert second.wait(DEADLINE) == 0
    assert shop.scalar(WORKERS) == 1
    shop.start("listen", "shop.listeners")
    wait_until(
        lambda: "listener.paused: listener 'ship' is paused since" in shop.log, DEADLINE, "it to say so"
    )
    wait_until(lambda: shop.scalar(WORKERS) == 2, DEADLINE, "two supervisors again")
    shop.order("c")
    wait_until(lambda: shop.effects("count") == ["a", "b", "c"], DEADLINE, "the other listener")
    assert shop.effects("ship") == []
    [count, ship] = json.loads(shop.run("status", "shop.listeners", "--json").stdout)
    assert (ship["paused"]["note"], ship["ready"], ship["workers"], ship["slots"]) == ("no trucks", 3, 2, 3)
    assert (count["paused"], count["problems"]) == (None, [])
    health = shop.run("health", "shop.listeners", "--max-age", "0s")
    assert health.returncode == 0
    assert "listener 'ship' is paused since" in health.stdout
    resumed = shop.run("resume", "ship", "shop.listeners")
    assert (resumed.returncode, resumed.stdout) == (0, "listener 'ship' is resumed\n")
    wait_until(lambda: shop.effects("ship") == ["a", "b", "c"], DEADLINE, "the paused one to go on")
    assert shop.run("resume", "ship", "shop.listeners").stdout == "listener 'ship' was not paused\n"


def test_a_drain_says_whose_entries_it_left(shop: Shop) -> None:
    shop.order("a")
    shop.run("pause", "ship", "shop.listeners")
    done = shop.run("listen", "shop.listeners", "--drain")
    assert done.returncode == 0
    assert "1 entry left in the outbox: 1 ready, 0 waiting for a retry\n" in done.stderr
    assert re.search(
        r"^listener 'ship' is paused since \S+ by \S+; its entries are left$", done.stderr, re.MULTILINE
    )
    assert shop.effects("count") == ["a"]


def test_pausing_what_is_not_declared_is_refused_with_the_names(shop: Shop) -> None:
    for act in ("pause", "resume"):
        result = shop.run(act, "shop", "shop.listeners")
        assert result.returncode == 2
        assert "listener 'shop' is not declared. Declared are: count, ship.\n" in result.stderr


def test_workers_are_listed_with_what_they_have_in_hand(shop: Shop) -> None:
    assert shop.run("workers", "shop.listeners").stdout == "No worker is known.\n"
    process = shop.listening("--listener", "ship")
    wait_until(lambda: shop.scalar(WORKERS), DEADLINE, "the supervisor to tell of itself")
    [row] = json.loads(shop.run("workers", "shop.listeners", "--json").stdout)
    assert (row["pid"], row["listeners"], row["processes"]) == (process.pid, ["ship"], 1)
    table = shop.run("workers", "shop.listeners").stdout
    assert table.splitlines()[0].split()[:3] == ["host", "pid", "version"]
    assert str(process.pid) in table
    [count, ship] = json.loads(shop.run("status", "shop.listeners", "--json").stdout)
    assert (count["problems"], ship["problems"]) == (["no worker runs it"], [])
    purposes = "SELECT count(DISTINCT application_name) FROM pg_stat_activity WHERE application_name IN ({})"
    names = "'sqla-pubsub work', 'sqla-pubsub listen', 'sqla-pubsub heartbeat'"
    assert shop.scalar(purposes.format(names)) == 3


def test_why_says_in_words_and_as_json_what_an_entry_waits_for(shop: Shop) -> None:
    shop.order("a")
    shop.run("pause", "ship", "shop.listeners")
    entry = shop.scalar("SELECT id FROM pubsub_outbox WHERE listener = 'ship'")
    said = shop.run("why", str(entry), "--module", "shop.listeners")
    assert said.returncode == 0
    first, *others = said.stdout.splitlines()
    assert first == f"entry {entry} of listener 'ship': paused"
    assert others[0].startswith("  its listener is paused since ")
    assert others[1] == "  no worker runs its listener 'ship'"
    found = json.loads(shop.run("why", str(entry), "--json", "--module", "shop.listeners").stdout)
    assert (found["reason"], found["listener"]) == ("paused", "ship")
    assert "there is no such entry" in shop.run("why", "999", "--module", "shop.listeners").stdout


def test_an_installation_without_the_new_tables_goes_on_and_check_says_what_is_missing(shop: Shop) -> None:
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE pubsub_listener, pubsub_worker, pubsub_history")
    shop.order("a", "bad")
    done = shop.run("listen", "shop.listeners", "--drain")
    assert (done.returncode, shop.effects("ship")) == (0, ["a"])
    assert "capture.differs" not in done.stderr
    check = shop.run("check", "shop.listeners")
    assert check.returncode == 1
    assert check.stdout.startswith(
        "'pubsub_listener' and 'pubsub_worker' and 'pubsub_history' do not exist: events are"
    )
    assert "Run: alembic revision --autogenerate, then alembic upgrade head" in check.stdout
    assert shop.run("status", "shop.listeners").returncode == 0
    assert shop.run("dead", "retry", "--all", "--yes", "--module", "shop.listeners").returncode == 0
    refused = shop.run("pause", "ship", "shop.listeners")
    assert (refused.returncode, "no listener can be paused: table 'pubsub_listener'" in refused.stderr) == (
        2,
        True,
    )


def test_watching_is_for_a_terminal(shop: Shop) -> None:
    result = shop.run("status", "shop.listeners", "--watch")
    assert result.returncode == 2
    assert "--watch draws on a terminal, and the output goes elsewhere" in result.stderr


def test_status_is_drawn_again_and_again_until_it_is_interrupted(shop: Shop) -> None:
    shop.order("a")
    argv, environment = shop.command("status", "shop.listeners", "--watch")
    parent, child = pty.openpty()
    process = subprocess.Popen(
        argv, cwd=shop.folder, env=environment | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"},
        stdin=child, stdout=child, stderr=child, start_new_session=True,
    )  # fmt: skip
    os.close(child)
    seen = ""
    for expected in ("no worker runs it, and 1 wait", "paused since"):
        seen += _read_until(parent, expected)
        if expected.startswith("no"):
            shop.run("pause", "ship", "shop.listeners")
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 0
    os.close(parent)
    assert "Traceback" not in seen


def _read_until(terminal: int, expected: str) -> str:
    seen = ""

    def read() -> bool:
        nonlocal seen
        while select.select([terminal], [], [], 0)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
        return expected in seen

    wait_until(read, DEADLINE, f"{expected!r} on the screen")
    return seen
