"""``entries``, ``discard-entries`` and what all commands that look have in common."""

import json
import os
import pty
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import datetime

import click
import pytest
from sqlalchemy import text

from sqla_pubsub.cli import cli
from tests.cli.project import DEADLINE, LISTENERS, Shop
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

LONG = "send_the_confirmation_of_the_order_to_the_customer"
# A retry that nobody waits for: with one that is due in seconds, a slow drain comes to it.
TWICE = (
    LISTENERS.replace("max_attempts=1", "max_attempts=2, initial=timedelta(hours=1), jitter=False")
    .replace("(Order)", f"(Order, name='{LONG}')")
    .replace("import os", "import os\n    from datetime import timedelta", 1)
)
MODULE = ("--module", "shop.listeners")


@pytest.fixture
def failed(bare_shop: Shop) -> Shop:
    """A shop with an order whose first try failed, and one that nobody has tried."""
    bare_shop.write("shop/listeners.py", TWICE)
    bare_shop.install()
    bare_shop.order("bad")
    bare_shop.run("listen", "shop.listeners", "--drain", "--listener", "ship")
    bare_shop.order("untried")
    return bare_shop


def listed(shop: Shop, *options: str) -> list[tuple[str, str]]:
    rows = json.loads(shop.run("entries", *options, "--json", *MODULE).stdout)
    return [(row["listener"], row["state"]) for row in rows]


def test_entries_are_listed_by_listener_and_state(failed: Shop) -> None:
    ready = [(LONG, "ready"), ("ship", "ready"), (LONG, "ready")]
    assert sorted(listed(failed)) == sorted([("ship", "waiting"), *ready])
    assert listed(failed, "--listener", "ship") == [("ship", "waiting"), ("ship", "ready")]
    assert (
        listed(failed, "--state", "waiting") == listed(failed, "--state", "failed") == [("ship", "waiting")]
    )
    assert sorted(listed(failed, "--state", "ready")) == sorted(ready)
    assert "1 of 4; see more with --limit." in failed.run("entries", "--limit", "1", *MODULE).stdout
    assert failed.run("entries", "--listener", "nobody", *MODULE).stdout == "No entries.\n"


def test_a_list_in_a_pipe_is_plain_columns_in_which_nothing_is_cut(failed: Shop) -> None:
    output = failed.run("entries", *MODULE).stdout
    [head, *rows] = output.splitlines()
    assert head.split("  ")[0] == "id"
    assert len(rows) == 4
    assert sum(LONG in row for row in rows) == 2
    [waiting] = [row for row in rows if "waiting until" in row]
    assert waiting.endswith("  ValueError: out of stock")
    times = re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+", waiting)
    assert all(datetime.fromisoformat(time).utcoffset() is not None for time in times)
    assert len(times) == 2
    assert "\x1b" not in output


def test_the_list_does_not_hold_what_entries_carry_and_an_entry_alone_does(failed: Shop) -> None:
    [row] = json.loads(failed.run("entries", "--state", "failed", "--json", *MODULE).stdout)
    assert "new" not in row
    shown = failed.run("entries", "show", str(row["id"]), *MODULE).stdout
    lines = shown.splitlines()
    assert lines[0] == f"entry {row['id']}"
    assert '      "item": "bad"' in lines
    assert lines[-1] == "    ValueError: out of stock"
    assert re.search(r'shop/listeners\.py", line \d+, in ship$', lines[-3])
    [whole] = json.loads(failed.run("entries", "show", str(row["id"]), "--json", *MODULE).stdout)
    assert (whole["new"]["item"], whole["attempt"], whole["holder"]) == ("bad", 1, None)
    gone = failed.run("entries", "show", "4711", *MODULE)
    assert (gone.returncode, "there is no entry 4711 in the outbox: it was handled" in gone.stderr) == (
        2,
        True,
    )


def test_an_entry_says_which_server_process_has_it_in_hand(bare_shop: Shop) -> None:
    shop = bare_shop
    shop.write("shop/listeners.py", LISTENERS.replace("(Order, retry", "(Order, transactional=False, retry"))
    shop.install()
    shop.listening("--listener", "ship")
    shop.order("slow")
    wait_until(lambda: "slow begun" in shop.log, DEADLINE, "the order to be in hand")
    [row] = json.loads(shop.run("entries", "--listener", "ship", "--json", *MODULE).stdout)
    assert re.match(r"server process \d+ of role ", row["holder"])
    assert row["last_error"] is None


def test_a_dead_letter_is_shown_for_a_reader_with_the_frames_of_the_program(shop: Shop) -> None:
    shop.order("bad")
    shop.run("listen", "shop.listeners", "--drain")
    number = str(shop.scalar("SELECT id FROM pubsub_dead_letter"))
    lines = shop.run("dead", "show", number, *MODULE).stdout.splitlines()
    assert lines[0] == f"dead letter {number}"
    assert "  reason       ValueError: out of stock" in lines
    assert lines[-1] == "    ValueError: out of stock"
    assert re.search(r'shop/listeners\.py", line \d+, in ship$', lines[-3])
    assert shop.run("dead", *MODULE).stdout == shop.run("dead", "list", *MODULE).stdout


def test_entries_of_a_listener_that_nobody_declares_are_named_and_discarded(shop: Shop) -> None:
    shop.order("one", "two")
    with shop.engine.begin() as connection:
        connection.execute(text("UPDATE pubsub_outbox SET listener = 'gone' WHERE listener = 'ship'"))
    health = shop.run("health", *MODULE)
    assert health.returncode == 0
    assert "listener 'gone' is not declared, but 2 entries and 0 dead letters are its own" in health.stdout
    refused = shop.run("discard-entries", "ship", "--yes", *MODULE)
    assert (refused.returncode, "listener 'ship' is declared in shop.listeners" in refused.stderr) == (
        2,
        True,
    )
    unknown = shop.run("discard-entries", "goen", "--yes", *MODULE)
    assert unknown.returncode == 2
    assert "no entry for a listener 'goen'. Such entries have: gone." in unknown.stderr
    asked = shop.run("discard-entries", "gone", *MODULE)
    assert (asked.returncode, "Delete 2 entries of 'gone'?" in asked.stderr) == (1, True)
    with shop.engine.begin() as connection:
        connection.execute(text("SELECT 1 FROM pubsub_outbox WHERE listener = 'gone' LIMIT 1 FOR UPDATE"))
        done = shop.run("discard-entries", "gone", "--yes", *MODULE).stdout
    assert done == "1 entry discarded.\n1 entry left, which a worker has in hand.\n"
    assert shop.run("discard-entries", "gone", "--yes", *MODULE).stdout == "1 entry discarded.\n"
    assert shop.scalar("SELECT count(*) FROM pubsub_outbox WHERE listener = 'count'") == 2
    assert (
        shop.run("discard-entries", "count", "--declared", "--yes", *MODULE).stdout
        == "2 entries discarded.\n"
    )
    assert shop.settled()


def test_health_names_dead_letters_and_fails_from_so_many_on(shop: Shop) -> None:
    shop.order("bad", "bad")
    shop.run("listen", "shop.listeners", "--drain")
    for options, code in (((), 0), (("--max-dead", "2"), 0), (("--max-dead", "1"), 1)):
        result = shop.run("health", *options, *MODULE)
        assert result.returncode == code
        assert (
            "listener 'ship' has 2 dead letters: see sqla-pubsub dead list --listener ship" in result.stdout
        )
        assert ("healthy" in result.stdout) == (code == 0)


def test_a_dead_letter_whose_id_is_taken_is_named_and_the_others_are_retried(shop: Shop) -> None:
    shop.order("bad", "bad", "bad")
    shop.run("listen", "shop.listeners", "--drain")
    taken = shop.scalar("SELECT id FROM pubsub_dead_letter ORDER BY id OFFSET 1 LIMIT 1")
    with shop.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO pubsub_outbox (id, listener, operation, source) OVERRIDING SYSTEM VALUE"
                " VALUES (:id, 'younger', 'INSERT', 'note')"
            ),
            {"id": taken},
        )
    done = shop.run("dead", "retry", "--all", "--yes", *MODULE)
    assert (done.returncode, done.stdout) == (2, "2 dead letters back in the outbox.\n")
    assert f"dead letter {taken} stays where it is: an entry of the outbox has the same id" in done.stderr
    again = shop.run("dead", "retry", str(taken), *MODULE)
    assert (again.returncode, again.stdout) == (2, "0 dead letters back in the outbox.\n")
    assert shop.run("dead", "discard", str(taken), *MODULE).returncode == 0


def test_modules_are_arguments_or_an_option_and_not_both(shop: Shop) -> None:
    for command in ("check", "status", "health"):
        assert shop.run(command, *MODULE).stdout == shop.run(command, "shop.listeners").stdout
    assert shop.run("listen", "--drain", "-m", "shop.listeners").returncode == 0
    both = shop.run("status", "shop.listeners", *MODULE)
    assert both.returncode == 2
    assert "modules are given twice: shop.listeners, and --module shop.listeners" in both.stderr


def shown_on_terminal(shop: Shop, columns: int, *arguments: str, **more: str) -> str:
    argv, environment = shop.command(*arguments)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv,
        cwd=shop.folder,
        env=environment | {"TERM": "xterm", "COLUMNS": str(columns)} | more,
        stdout=theirs,
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
    return shown.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_names_are_whole_and_trouble_has_a_colour_unless_nobody_wants_that(
    failed: Shop, columns: int
) -> None:
    shown = shown_on_terminal(failed, columns, "entries", *MODULE)
    assert shown.count(LONG) == 2
    assert "\x1b[33m1 " in shown.replace("\x1b[33m2 ", "\x1b[33m1 ")
    plain = shown_on_terminal(failed, columns, "entries", *MODULE, NO_COLOR="1")
    assert "\x1b" not in plain
    assert plain.count(LONG) == 2


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield " ".join([*path, name]), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


COMMANDS = dict(commands(cli))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_can_be_given(name: str) -> None:
    examples = re.findall(r"^  sqla-pubsub (.*)$", COMMANDS[name].epilog or "", re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" | ")[0])
        assert words[: len(name.split())] == name.split()
        context: click.Context = cli.make_context("sqla-pubsub", words[:])
        for part in name.split():
            found = context.command
            assert isinstance(found, click.Group)
            words = words[1:]
            context = found.commands[part].make_context(part, words[:])


@pytest.mark.parametrize(
    "group", [cli, *(each for each in COMMANDS.values() if isinstance(each, click.Group))]
)
def test_the_list_of_commands_cuts_no_sentence_at_80_columns(group: click.Group) -> None:
    context = click.Context(group, info_name="sqla-pubsub", terminal_width=80)
    assert "..." not in group.get_help(context).replace("[ARGS]...", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_of_this_name_means_the_same_in_every_command(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if "--listener" in parameter.opts:
            assert parameter.metavar == "NAME"
        if "--module" in parameter.opts:
            assert ("-m" in parameter.opts, parameter.metavar) == (True, "MODULE")
    if name not in ("demo", "dead", "entries"):
        assert any("--module" in parameter.opts for parameter in COMMANDS[name].params)
