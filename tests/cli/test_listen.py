"""``sqla-pubsub listen`` as an operator sees it."""

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from tests.cli.project import DEADLINE, LISTENERS, Shop
from tests.servers import Server
from tests.waiting import wait_until


def children(pid: int) -> list[int]:
    """Return the worker processes of a supervisor."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        if parent == pid and "spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_two_processes_handle_every_order_once_for_each_listener(shop: Shop) -> None:
    process = shop.listening("--processes", "2", workers=2)
    assert len(children(process.pid)) == 2
    items = [f"item {number:03}" for number in range(300)]
    for start in range(0, 300, 50):
        shop.order(*items[start : start + 50])
    wait_until(shop.settled, DEADLINE, "the outbox to be empty")
    assert shop.effects("ship") == items
    assert shop.effects("count") == items


@pytest.mark.one_driver
def test_events_from_before_the_start_are_handled_without_a_flag(shop: Shop) -> None:
    shop.order("early")
    shop.listening()
    wait_until(shop.settled, DEADLINE, "the early order to be handled")
    assert shop.effects("ship") == ["early"]


@pytest.mark.one_driver
def test_sigterm_finishes_the_event_in_hand_and_exits_0_with_all_children(shop: Shop) -> None:
    process = shop.listening("--processes", "2", "--listener", "ship", workers=2)
    workers = children(process.pid)
    shop.order("slow", "next")
    wait_until(lambda: "slow begun" in shop.log, DEADLINE, "the slow order to be in hand")
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "supervisor.stopping" in shop.log, DEADLINE, "it to wait for the order")
    shop.let_go()
    assert process.wait(DEADLINE) == 0
    assert "slow" in shop.effects("ship")
    assert not any(alive(worker) for worker in workers)


@pytest.mark.one_driver
def test_a_second_signal_rolls_back_at_once(shop: Shop) -> None:
    process = shop.listening("--listener", "ship")
    shop.order("slow")
    wait_until(lambda: "slow begun" in shop.log, DEADLINE, "the slow order to be in hand")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 0
    wait_until(
        lambda: shop.scalar("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == 0,
        DEADLINE, "the server to notice",
    )  # fmt: skip
    assert shop.effects("ship") == []
    assert shop.scalar("SELECT count(*) FROM pubsub_outbox WHERE listener = 'ship'") == 1


@pytest.mark.one_driver
def test_workers_of_a_killed_supervisor_end_by_themselves(shop: Shop) -> None:
    process = shop.listening("--processes", "2", workers=2)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(alive, workers)), DEADLINE, "the orphans to end")


@pytest.mark.one_driver
def test_a_killed_worker_is_replaced_and_its_event_handled_by_another(shop: Shop) -> None:
    process = shop.listening("--processes", "2", workers=2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_until(lambda: shop.log.count("listener.started") == 3, DEADLINE, "a new worker")
    shop.order("after")
    wait_until(shop.settled, DEADLINE, "the order to be handled")
    assert shop.effects("ship") == ["after"]


@pytest.mark.one_driver
def test_an_event_that_kills_its_process_every_time_becomes_a_dead_letter(shop: Shop) -> None:
    shop.listening("--listener", "ship")
    shop.order("fatal", "good")
    wait_until(
        lambda: shop.scalar("SELECT count(*) FROM pubsub_outbox WHERE listener = 'ship'") == 0,
        2 * DEADLINE, "the fatal order to be given up",
    )  # fmt: skip
    assert shop.effects("ship") == ["good"]
    with shop.engine.connect() as connection:
        reason, crashes = connection.execute(text("SELECT reason, crashes FROM pubsub_dead_letter")).one()
    assert "process died" in reason
    assert crashes == 4


@pytest.mark.one_driver
def test_drain_handles_what_is_due_and_says_how_much(shop: Shop) -> None:
    shop.order("one", "two", "bad")
    result = shop.run("listen", "shop.listeners", "--drain", "--processes", "2")
    assert result.returncode == 0
    assert "5 events handled, 0 failed and waiting for a retry, 1 dead letter" in result.stderr
    assert "left in the outbox" not in result.stderr
    assert shop.effects("ship") == ["one", "two"]


@pytest.mark.one_driver
def test_drain_says_what_is_left_of_earlier_runs_too(shop: Shop) -> None:
    shop.order("one", "two")
    later = (
        "UPDATE pubsub_outbox SET due_at = clock_timestamp() + interval '1 hour' WHERE new ->> 'item' = 'one'"
    )
    with shop.engine.begin() as connection:
        connection.execute(text(later))
    result = shop.run("listen", "shop.listeners", "--drain", "--listener", "ship")
    assert "1 event handled, 0 failed" in result.stderr
    assert "\n1 entry left in the outbox: 0 ready, 1 waiting for a retry\n" in result.stderr
    result = shop.run("listen", "shop.listeners", "--drain")
    assert "\n2 entries left in the outbox: 0 ready, 2 waiting for a retry\n" in result.stderr


@pytest.mark.one_driver
def test_drain_shows_its_progress_on_a_terminal(shop: Shop) -> None:
    shop.order("one", "two")
    argv, environment = shop.command("listen", "shop.listeners", "--drain")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv, cwd=shop.folder, env=environment | {"TERM": "xterm"}, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(DEADLINE) == 0
    assert b"handling events" in shown
    assert b"4/4" in shown


@pytest.mark.one_driver
def test_only_the_named_listener_runs(shop: Shop) -> None:
    shop.order("one")
    assert shop.run("listen", "shop.listeners", "--drain", "--listener", "count").returncode == 0
    assert (shop.effects("count"), shop.effects("ship")) == (["one"], [])


LATE = """
    from sqlalchemy.orm import Session
    from shop.listeners import *
    from sqla_pubsub import after_delete

    @after_delete(Order)
    def restock(old: Order, session: Session) -> None:
        session.add(Effect(listener="restock", item=old.item, process=0))
"""


@pytest.mark.one_driver
def test_listen_refuses_when_none_of_its_listeners_has_a_capture(shop: Shop) -> None:
    shop.write("late.py", LATE)
    result = shop.run("listen", "late", "--drain", "--listener", "restock")
    assert result.returncode == 2
    assert "'restock' is not installed" in result.stderr
    assert "alembic revision --autogenerate" in result.stderr
    # A listener that is captured may run, and what else differs is a warning.
    result = shop.run("listen", "late", "--drain", "--listener", "ship")
    assert result.returncode == 0
    assert "WARNING" in result.stderr
    assert "ERROR" not in result.stderr
    assert shop.run("listen", "late", "--drain", "--no-check").returncode == 0


@pytest.mark.one_driver
def test_a_listener_without_capture_does_not_take_the_others_with_it(shop: Shop) -> None:
    shop.write("late.py", LATE)
    shop.order("one")
    result = shop.run("listen", "late", "--drain")
    assert result.returncode == 0
    [line] = [line for line in result.stderr.splitlines() if "ERROR" in line]
    assert "capture.missing: trigger for listener 'restock' is not installed" in line
    assert (shop.effects("ship"), shop.effects("count")) == (["one"], ["one"])


@pytest.mark.one_driver
def test_a_missing_capture_is_picked_up_when_the_migration_is_there(shop: Shop) -> None:
    shop.write("late.py", LATE)
    process = shop.start("listen", "late")
    wait_until(lambda: "listener.started" in shop.log, DEADLINE, "the worker to start")
    assert "capture.missing" in shop.log
    shop.order("one")
    wait_until(lambda: shop.effects("ship") == ["one"], DEADLINE, "the others to work")
    shop.install("late")
    with shop.engine.begin() as connection:
        connection.execute(text('DELETE FROM "order"'))
    wait_until(lambda: shop.effects("restock") == ["one"], DEADLINE, "the missing one to work")
    wait_until(lambda: "capture.installed" in shop.log, DEADLINE, "the log to say so")
    process.terminate()
    assert process.wait(DEADLINE) == 0


@pytest.mark.one_driver
def test_a_worker_may_wait_for_its_migration(bare_shop: Shop) -> None:
    """That of the outbox too; nothing is handled before."""
    bare_shop.write("late.py", LATE)
    process = bare_shop.start("listen", "late", "--wait-for-migration")
    wait_until(lambda: "pubsub_outbox' does not exist" in bare_shop.log, DEADLINE, "the worker to wait")
    bare_shop.install()
    bare_shop.order("one")
    wait_until(lambda: bare_shop.log.count("capture.waiting") > 1, DEADLINE, "it to say what is missing yet")
    assert "listener.started" not in bare_shop.log
    bare_shop.install("late")
    wait_until(lambda: bare_shop.effects("ship") == ["one"], DEADLINE, "the worker to work")
    process.terminate()
    assert process.wait(DEADLINE) == 0


@pytest.mark.one_driver
def test_a_worker_that_waits_for_its_migration_can_be_stopped(bare_shop: Shop) -> None:
    process = bare_shop.start("listen", "shop.listeners", "--wait-for-migration")
    wait_until(lambda: "capture.waiting" in bare_shop.log, DEADLINE, "the worker to wait")
    process.terminate()
    assert process.wait(DEADLINE) == 0


@pytest.mark.one_driver
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("listen", "nowhere"), "there is no module 'nowhere'"),
        (("listen", "empty"), "no listener is declared in empty"),
        (("listen", "shop.listeners", "--listener", "shop"), "listener 'shop' is not declared"),
        (("listen",), "no listener module is given"),
        (("listen", "shop.listeners", "--drain"), "table 'pubsub_outbox' does not exist"),
        (("listen", "shop.listeners", "--url", "sqlite://"), "Give a postgresql:// URL"),
        (("listen", "shop.listeners", "--url", "nonsense"), "the database URL cannot be read"),
    ],
)
def test_bad_input_gets_one_clear_sentence_and_exit_code_2(
    bare_shop: Shop, arguments: tuple[str, ...], sentence: str
) -> None:
    result = bare_shop.run(*arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.one_driver
def test_drain_refuses_an_unreachable_server_without_naming_the_password(shop: Shop) -> None:
    away = make_url(shop.url).set(port=1, password="s3cret").render_as_string(hide_password=False)
    result = shop.run("listen", "shop.listeners", "--drain", url=away)
    assert result.returncode == 1
    assert "cannot be reached" in result.stderr
    assert "s3cret" not in result.stdout + result.stderr


@pytest.mark.one_driver
def test_the_daemon_waits_for_the_server_says_so_and_stops_when_told(shop: Shop) -> None:
    away = make_url(shop.url).set(port=1, password="s3cret").render_as_string(hide_password=False)
    process = shop.start("listen", "shop.listeners", url=away)
    wait_until(lambda: shop.log.count("connection.waiting") > 1, DEADLINE, "two attempts to be logged")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert "s3cret" not in shop.log


@pytest.mark.one_driver
def test_a_daemon_that_waited_for_the_server_says_that_it_is_back(shop: Shop, server: Server) -> None:
    server.stop()
    process = shop.start("listen", "shop.listeners")
    wait_until(lambda: "connection.waiting" in shop.log, DEADLINE, "an attempt to be logged")
    server.start()
    wait_until(lambda: "listener.started" in shop.log, DEADLINE, "the worker to start")
    assert shop.log.count("connection.restored: after") == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0


@pytest.mark.one_driver
def test_no_process_shows_the_password_in_its_command_line(shop: Shop) -> None:
    shop.url = make_url(shop.url).set(password="s3cret").render_as_string(hide_password=False)
    process = shop.listening("--processes", "2", workers=2)
    for pid in (process.pid, *children(process.pid)):
        assert "s3cret" not in Path(f"/proc/{pid}/cmdline").read_text()
    assert "s3cret" not in shop.log


@pytest.mark.one_driver
def test_a_bare_url_means_an_installed_driver(shop: Shop) -> None:
    shop.order("one")
    bare = make_url(shop.url).set(drivername="postgresql").render_as_string(hide_password=False)
    assert shop.run("listen", "shop.listeners", "--drain", "--url", bare, url=None).returncode == 0
    assert shop.effects("ship") == ["one"]


@pytest.mark.one_driver
def test_url_and_modules_come_from_pyproject_or_alembic_ini(shop: Shop) -> None:
    shop.order("one")
    url = make_url(shop.url).render_as_string(hide_password=False)
    shop.write("alembic.ini", f"[alembic]\nsqlalchemy.url = {url}\nsqla_pubsub.listeners = shop.listeners\n")
    assert shop.run("listen", "--drain", url=None).returncode == 0
    assert shop.effects("ship") == ["one"]
    shop.write("pyproject.toml", '[tool.sqla-pubsub]\nurl = "nonsense"\nlisteners = ["shop.listeners"]\n')
    result = shop.run("listen", "--drain", url=None)
    assert result.returncode == 2
    assert "URL cannot be read" in result.stderr


@pytest.mark.one_driver
@pytest.mark.parametrize("options", [(), ("--drain",)], ids=["run", "drain"])
@pytest.mark.parametrize("previous", ["", "previous_names=['formerly'], "], ids=["new", "renamed"])
def test_what_only_a_worker_can_see_is_refused_with_code_2_too(
    bare_shop: Shop, options: tuple[str, ...], previous: str
) -> None:
    bare_shop.write("shop/listeners.py", LISTENERS.replace("(Order, retry", f"(Order, {previous}retry"))
    result = bare_shop.run("listen", "shop.listeners", "--no-check", *options)
    assert result.returncode == 2
    assert result.stderr.count("worker.refused: outbox table 'pubsub_outbox' does not exist") == 1
    assert "Run: alembic upgrade head" in result.stderr
    assert "connection.lost" not in result.stderr
    assert "worker.died" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.one_driver
def test_a_daemon_whose_outbox_is_dropped_ends_with_code_2_and_says_why(shop: Shop) -> None:
    process = shop.listening()
    with shop.engine.begin() as connection:
        connection.execute(text("DROP TABLE pubsub_outbox"))
    assert process.wait(DEADLINE) == 2
    assert "worker.refused: outbox table 'pubsub_outbox' does not exist" in shop.log
    assert "worker.died" not in shop.log


@pytest.mark.one_driver
@pytest.mark.parametrize("options", [(), ("--drain",)], ids=["run", "drain"])
def test_a_direct_url_with_an_unknown_option_is_refused_by_the_worker(
    shop: Shop, options: tuple[str, ...]
) -> None:
    url = make_url(shop.url).update_query_dict({"nonsense": "1"}).render_as_string(hide_password=False)
    shop.write("pyproject.toml", f'[tool.sqla-pubsub.listen]\ndirect_url = "{url}"\n')
    shop.write("shop/listeners.py", LISTENERS.replace("(Order, retry", "(Order, transactional=False, retry"))
    result = shop.run("listen", "shop.listeners", *options)
    assert result.returncode == 2
    assert 'invalid connection option "nonsense"' in result.stderr
