"""Roles that have no more than ``sqla-pubsub grants`` prints do their work, and nothing else.

They connect as themselves, to a server that checks every statement they run.
"""

import itertools
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, MetaData, create_engine, text
from sqlalchemy.exc import DBAPIError

from sqla_pubsub import Admin, configure
from sqla_pubsub.registry import registry_of
from tests.cli.project import DEADLINE, Shop
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

MODELS = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from sqla_pubsub import Message, PubSub, configure

    class Base(DeclarativeBase): ...

    configure(Base.metadata, schema="pubsub")

    class Order(PubSub, Base):
        __tablename__ = "order"
        __table_args__ = {"schema": "app"}
        id: Mapped[int] = mapped_column(primary_key=True)
        item: Mapped[str]

    class Effect(Base):
        __tablename__ = "effect"
        id: Mapped[int] = mapped_column(primary_key=True)
        listener: Mapped[str]
        item: Mapped[str]

    class Viewed(Message, metadata=Base.metadata, name="viewed"):
        item: str
"""
LISTENERS = """
    import os
    from datetime import timedelta
    from sqlalchemy.orm import Session
    from sqla_pubsub import RetryPolicy, after_insert, on_message
    from shop.models import Effect, Order, Viewed

    def note(listener, item, session):
        if item == listener:
            raise ValueError("as asked")
        if item == "fatal" and listener == "fails":
            os._exit(7)
        session.add(Effect(listener=listener, item=item))

    @after_insert(Order, retry=RetryPolicy(max_attempts=1))
    def fails(new: Order, session: Session) -> None:
        note("fails", new.item, session)

    @after_insert(Order, retry=RetryPolicy(initial=timedelta(hours=1), jitter=False))
    def retries(new: Order, session: Session) -> None:
        note("retries", new.item, session)

    @after_insert(Order, ordered=True, timeout=timedelta(seconds=9), previous_names=["formerly"])
    def ordered(new: Order, session: Session) -> None:
        note("ordered", new.item, session)

    @after_insert(Order, transactional=False)
    def outside(new: Order, session: Session) -> None:
        note("outside", new.item, session)

    @after_insert(Order, batch=10)
    def batch(events: list, session: Session) -> None:
        for event in events:
            note("batch", event.new.item, session)

    @on_message(Viewed)
    def viewed(new: Viewed, session: Session) -> None:
        note("viewed", new.item, session)
"""
_numbers = itertools.count(1)
HOUR = timedelta(hours=1)
OF_OPERATORS = tuple(f"TABLE pubsub.pubsub_{name}" for name in ("listener", "worker", "history"))


class Roles:
    """A shop with its outbox in a schema of its own, and one role for each duty."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        shop.write("shop/models.py", MODELS)
        shop.write("shop/listeners.py", LISTENERS)
        self.execute("CREATE SCHEMA app", "CREATE SCHEMA pubsub")
        shop.install()
        number = next(_numbers)
        self.names = {duty: f"The {duty} {number}" for duty in ("listener", "operator", "monitor", "writer")}
        for name in self.names.values():
            self.execute(f'CREATE ROLE "{name}" LOGIN')
        self.execute(
            f'GRANT USAGE ON SCHEMA app TO "{self.names["writer"]}"',
            f'GRANT INSERT ON app."order" TO "{self.names["writer"]}"',
            f'GRANT USAGE ON SEQUENCE app.order_id_seq TO "{self.names["writer"]}"',
            f'GRANT INSERT, SELECT ON effect TO "{self.names["listener"]}"',
            f'GRANT USAGE ON SEQUENCE effect_id_seq TO "{self.names["listener"]}"',
        )

    def execute(self, *statements: str) -> None:
        """Run statements as the owner."""
        with self.shop.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def printed(self, *duties: str) -> list[str]:
        """Return what ``grants`` prints for the roles of these duties."""
        options = [part for duty in duties for part in (f"--{duty}-role", self.names[duty])]
        result = self.shop.run("grants", "shop.listeners", *options)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.splitlines()

    def grant(self, *duties: str) -> None:
        """Execute what ``grants`` prints."""
        self.execute(*(line for line in self.printed(*duties) if not line.startswith("--")))

    def rights(self, duty: str) -> list[tuple[str, str]]:
        """Return each single right that ``grants`` prints, as it stands before and after ON."""
        found = []
        for line in self.printed(duty):
            if match := re.fullmatch(r"GRANT (.*) ON (.*) TO .*;", line):
                for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]*)\))?", match[1]):
                    found += [
                        (f"{privilege} ({column})" if column else privilege, match[2])
                        for column in columns.split(", ")
                    ]
        # This one has everybody.
        return [right for right in found if right != ("USAGE", "SCHEMA public")]

    @contextmanager
    def without(self, duty: str, right: tuple[str, str]) -> Iterator[None]:
        """Take one right away from a role for a while."""
        self.execute(f'REVOKE {right[0]} ON {right[1]} FROM "{self.names[duty]}"')
        yield
        self.execute(f'GRANT {right[0]} ON {right[1]} TO "{self.names[duty]}"')

    def url(self, duty: str) -> str:
        """Return the URL of a role."""
        return self.shop.engine.url.set(username=self.names[duty]).render_as_string(hide_password=False)

    def run(self, duty: str, *arguments: str) -> tuple[int, str]:
        """Run a command as a role; return its exit code and what it printed."""
        result = self.shop.run(*arguments, url=self.url(duty))
        return result.returncode, result.stdout + result.stderr

    def denied(self, duty: str, *statements: str) -> None:
        """Try each statement as a role, to be refused."""
        engine = create_engine(self.url(duty))
        for statement in statements:
            with pytest.raises(DBAPIError, match="permission denied"), engine.begin() as connection:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def write(self, *items: str) -> None:
        """Insert orders and publish a message for each, as the writer."""
        engine: Engine = create_engine(self.url("writer"))
        with engine.begin() as connection:
            for item in items:
                connection.execute(text('INSERT INTO app."order" (item) VALUES (:item)'), {"item": item})
                payload = text(
                    "SELECT pubsub.pubsub_publish('viewed', json_build_object('item', CAST(:item AS text)))"
                )
                connection.execute(payload, {"item": item})
        engine.dispose()

    def left(self) -> int:
        """Return how many entries are in the outbox."""
        return self.shop.scalar("SELECT count(*) FROM pubsub.pubsub_outbox")


@pytest.fixture
def roles(bare_shop: Shop) -> Iterator[Roles]:
    roles = Roles(bare_shop)
    yield roles
    for name in roles.names.values():
        roles.execute(f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')


UNDER_AN_EARLIER_NAME = (
    "INSERT INTO app.\"order\" (item) VALUES ('old')",
    "UPDATE pubsub.pubsub_outbox SET listener = 'formerly' WHERE listener = 'ordered' AND new ->> 'item' = 'old'",
)
APP = ("USAGE", "SCHEMA app")
FORGED = (
    "INSERT INTO pubsub.pubsub_outbox (listener, operation, source) VALUES ('fails', 'INSERT', 'app.order')"
)


def test_every_role_does_its_work_with_what_is_printed_and_nothing_else(roles: Roles) -> None:
    roles.grant("listener", "operator", "monitor", "writer")
    roles.write("a", "fails", "retries")
    roles.execute("UPDATE pubsub.pubsub_outbox SET listener = 'formerly' WHERE listener = 'ordered'")
    checked = roles.run("monitor", "check", "shop.listeners")
    assert checked[0] == 0, checked[1]
    code, output = roles.run("listener", "listen", "shop.listeners", "--drain")
    assert (code, "1 failed and waiting for a retry, 1 dead letter" in output) == (0, True), output
    assert roles.left() == 1, roles.run("monitor", "status", "shop.listeners", "--json")
    assert [len(roles.shop.effects(name)) for name in ("ordered", "outside", "batch", "viewed")] == [3] * 4
    assert roles.run("monitor", "status", "shop.listeners", "--json")[0] == 0
    health, said = roles.run("monitor", "health", "shop.listeners")
    assert (health, said.splitlines()[0]) == (0, "healthy")
    module = ("--module", "shop.listeners")
    assert roles.run("operator", "dead", "list", *module)[0] == 0
    assert (
        roles.run("operator", "dead", "retry", "--all", "--yes", *module)[1]
        == "1 dead letter back in the outbox.\n"
    )
    assert roles.run("listener", "listen", "shop.listeners", "--drain")[0] == 0
    assert "1 dead letter discarded" in roles.run("operator", "dead", "discard", "--all", "--yes", *module)[1]
    roles.denied("writer", "SELECT id FROM pubsub.pubsub_outbox", "DELETE FROM pubsub.pubsub_outbox", FORGED)
    roles.denied(
        "monitor", "SELECT new FROM pubsub.pubsub_outbox", "DELETE FROM pubsub.pubsub_outbox", FORGED
    )
    roles.denied("operator", "SELECT new FROM pubsub.pubsub_outbox", "DELETE FROM pubsub.pubsub_outbox")
    roles.denied(
        "listener",
        FORGED,
        "UPDATE pubsub.pubsub_outbox SET new = '{}'",
        "DELETE FROM pubsub.pubsub_dead_letter",
    )


def test_a_running_listener_is_woken_and_stopped_with_what_is_printed(roles: Roles) -> None:
    roles.grant("listener", "writer")
    process = roles.shop.start("listen", "shop.listeners", url=roles.url("listener"))
    wait_until(lambda: "listener.started" in roles.shop.log, DEADLINE, "the worker to start")
    roles.write("a")
    wait_until(lambda: roles.left() == 0, DEADLINE, "the events to be handled")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0, roles.shop.log


def test_a_running_worker_says_which_right_it_lost_and_goes_on_when_it_is_given_back(roles: Roles) -> None:
    """And no right is printed that it would not miss."""
    roles.grant("listener", "writer")
    rights = [right for right in roles.rights("listener") if right[1] not in OF_OPERATORS]
    # The comparison of triggers at the start looks there.
    rights.remove(APP)
    assert len(rights) == 12
    with roles.without("listener", APP):
        roles.denied("listener", "SELECT to_regclass('app.order')")
        refused(roles.run("listener", "listen", "shop.listeners", "--drain"), APP)
    roles.shop.start("listen", "shop.listeners", url=roles.url("listener"))
    # One that has not worked yet, and may not, ends with what it lacks.
    wait_until(lambda: "supervisor.ready" in roles.shop.log, DEADLINE, "the worker to be at work")
    for right in rights:
        # The supervisor, which counts crashes, goes on by itself.
        crashes = right[0] == "UPDATE (crashes)"
        said = "crash.uncounted" if crashes else "right.missing"
        before = len(roles.shop.log)
        with roles.without("listener", right):
            roles.write(*(["fatal"] if crashes else ["a", "fails", "retries"]))
            roles.execute(*UNDER_AN_EARLIER_NAME)

            def told(start: int = before, said: str = said) -> bool:
                return said in roles.shop.log[start:]

            wait_until(told, DEADLINE, f"the loss of {right}")
        wait_until(
            lambda: roles.shop.scalar("SELECT count(*) FROM pubsub.pubsub_outbox WHERE due_at IS NULL") == 0,
            # The fatal event ends a worker four times, and each start of another takes its time.
            DEADLINE * (4 if crashes else 1), f"the events to be handled after the loss of {right}",
        )  # fmt: skip
        log = roles.shop.log[before:]
        assert crashes or re.search(rf"ERROR \d+ right.missing: role .* {lacks(right)}", log), (right, log)
    # But for those of the handlers that fail as asked.
    assert "/sqla_pubsub/" not in roles.shop.log
    written = 4 * (len(rights) - 1) + 2
    assert len(roles.shop.effects("batch")) == written
    assert roles.shop.scalar("SELECT count(*) FROM pubsub.pubsub_dead_letter") == len(rights)


def test_a_right_lost_while_draining_ends_it_with_a_sentence_and_counts_nothing(roles: Roles) -> None:
    roles.grant("listener", "writer")
    roles.write("a")
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        f" AND usename = '{roles.names['listener']}'"
    )
    with roles.shop.engine.begin() as blocker:
        blocker.execute(text("LOCK TABLE effect"))
        process = roles.shop.start("listen", "shop.listeners", "--drain", url=roles.url("listener"))
        wait_until(lambda: roles.shop.scalar(waiting) == 1, DEADLINE, "a handler to wait")
        roles.execute(f'REVOKE DELETE ON pubsub.pubsub_outbox FROM "{roles.names["listener"]}"')
    assert process.wait(DEADLINE) == 2, roles.shop.log
    assert f"role {roles.names['listener']!r} lacks DELETE on TABLE pubsub.pubsub_outbox" in roles.shop.log
    assert "Traceback" not in roles.shop.log
    assert "connection.lost" not in roles.shop.log
    assert roles.shop.scalar("SELECT sum(attempt) FROM pubsub.pubsub_outbox") == 0


def test_no_right_is_printed_for_an_operator_that_it_does_not_need(roles: Roles) -> None:
    roles.grant("operator", "listener", "writer")
    roles.write("fails")
    assert roles.run("listener", "listen", "shop.listeners", "--drain")[0] == 0
    retry = ("dead", "retry", "--all", "--yes", "--module", "shop.listeners")
    for right in roles.rights("operator"):
        with roles.without("operator", right):
            if right == ("SELECT", OF_OPERATORS[0]):
                code, said = roles.run("operator", "pause", "batch", "shop.listeners")
                assert (code, "this role may not read it" in said) == (2, True)
            elif right[1] in OF_OPERATORS:
                act = "pause" if right[0] == "INSERT" else "resume"
                refused(roles.run("operator", act, "batch", "shop.listeners"), right)
            else:
                refused(roles.run("operator", *retry), right)
    for act in ("pause", "resume"):
        assert roles.run("operator", act, "batch", "shop.listeners")[0] == 0
    assert roles.run("operator", *retry) == (0, "1 dead letter back in the outbox.\n")


def test_no_right_is_printed_for_a_monitor_that_it_does_not_need(roles: Roles) -> None:
    roles.grant("monitor")
    roles.execute(
        "INSERT INTO pubsub.pubsub_outbox (listener, operation, source, attempt, due_at)"
        " VALUES ('batch', 'INSERT', 'app.order', 1, now())",
        "INSERT INTO pubsub.pubsub_dead_letter (id, listener, operation, source, reason)"
        " VALUES (2, 'batch', 'INSERT', 'app.order', 'x')",
    )
    for right in roles.rights("monitor"):
        with roles.without("monitor", right):
            if right not in COUNTED:
                assert not sees_all(roles), right
            elif right == APP:
                # Only the comparison of triggers looks there, and asks for its rights before it does.
                roles.denied("monitor", "SELECT to_regclass('app.order')")
                assert roles.run("monitor", "status", "shop.listeners")[0] == 0
                refused(roles.run("monitor", "check", "shop.listeners"), right)
            else:
                refused(roles.run("monitor", "status", "--exact", "shop.listeners"), right)
    assert sees_all(roles)


COUNTED = [
    ("USAGE", "SCHEMA app"), ("USAGE", "SCHEMA pubsub"), ("SELECT (listener)", "TABLE pubsub.pubsub_dead_letter"),
    *((f"SELECT ({column})", "TABLE pubsub.pubsub_outbox") for column in ("listener", "operation", "occurred_at", "due_at")),
]  # fmt: skip
"""What a monitor needs; of the rest he only sees less without it."""


def sees_all(roles: Roles) -> bool:
    """Whether a monitor reads all that is no payload; it says so or fails where it may not."""
    engine = create_engine(roles.url("monitor"))
    metadata = MetaData()
    configure(metadata, schema="pubsub")
    assert registry_of(metadata).outbox.history is not None
    admin = Admin(engine, metadata)
    try:
        seen = (
            admin.status(), admin.workers(), admin.rates(HOUR), admin.entries(), admin.errors("batch"),
            admin.dead_letters(), admin.dead_groups(), admin.why(1), admin.why(2), admin.paused(),
        )  # fmt: skip
        return bool(seen) and admin.system().missing == ()
    except DBAPIError as error:
        if "permission denied" not in str(error):
            raise
        return False
    finally:
        engine.dispose()


def test_no_right_is_printed_for_a_writer_that_it_does_not_need(roles: Roles) -> None:
    roles.grant("writer")
    for right in roles.rights("writer"):
        with roles.without("writer", right):
            roles.denied("writer", "SELECT pubsub.pubsub_publish('viewed', '{\"item\": \"a\"}')")
    roles.write("a")


@pytest.mark.parametrize("duty", ["nobody", "listener", "operator", "monitor", "writer"])
def test_a_backfill_is_for_the_role_that_runs_the_migrations(duty: str, roles: Roles) -> None:
    roles.execute("INSERT INTO app.\"order\" (item) VALUES ('a')", "TRUNCATE pubsub.pubsub_outbox")
    if duty == "nobody":
        duty = "listener"
    else:
        roles.grant(duty)
    backfill = ("backfill", "batch", "--module", "shop.listeners", "--yes", "--include-changed")
    code, output = roles.run(duty, *backfill)
    assert (code, "Traceback" in output) == (2, False), output
    assert "Backfill 'batch' as the role that runs the migrations" in output
    assert roles.left() == 0
    assert "1 event written" in roles.shop.run(*backfill).stdout


def refused(answer: tuple[int, str], right: tuple[str, str]) -> None:
    """See that a command named the right that it lacked."""
    code, output = answer
    assert (code, "Traceback" in output) == (2, False), (right, output)
    assert re.search(lacks(right), output), (right, output)


def lacks(right: tuple[str, str]) -> str:
    """Return the pattern of the sentence about a right."""
    return rf"lacks .*\b{right[0].partition(' ')[0]}\b.* on {re.escape(right[1])}[ ,]"


COMMANDS = {
    "listener": ("listen", "shop.listeners", "--drain"),
    "monitor": ("status", "shop.listeners"),
    "operator": ("dead", "list", "--module", "shop.listeners"),
}


@pytest.mark.parametrize("duty", COMMANDS)
def test_a_role_without_its_rights_is_refused_with_their_names_and_the_command(
    duty: str, roles: Roles
) -> None:
    code, output = roles.run(duty, *COMMANDS[duty])
    assert code == 2, output
    assert f"role {roles.names[duty]!r} lacks USAGE on SCHEMA " in output
    assert "on TABLE pubsub.pubsub_outbox" in output
    assert f"sqla-pubsub grants --{duty}-role {roles.names[duty]}" in output
    assert "Traceback" not in output


def test_without_a_role_there_is_nothing_to_print(roles: Roles) -> None:
    result = roles.shop.run("grants", "shop.listeners")
    assert (result.returncode, "no role is given" in result.stderr) == (2, True)


def test_without_the_outbox_there_is_nothing_to_grant(bare_shop: Shop) -> None:
    result = bare_shop.run("grants", "shop.listeners", "--monitor-role", "me")
    assert (result.returncode, "Run: alembic upgrade head" in result.stderr) == (2, True)


def test_what_is_printed_is_what_the_guide_shows(roles: Roles) -> None:
    """The shop differs by its schemas, and by a listener with an earlier name."""
    guide = (Path(__file__).parents[2] / "docs/privileges.md").read_text()
    for duty, role in zip(roles.names, ("myapp_worker", "myapp_admin", "probe", "myapp"), strict=True):
        printed = "\n".join(line for line in roles.printed(duty) if "SCHEMA app " not in line)
        for ours, shown in (
            (f'"{roles.names[duty]}"', role),
            (" pubsub.", " public."),
            ("SCHEMA pubsub ", "SCHEMA public "),
            ("_error, listener)", "_error)"),
            ("INSERT, SELECT (id, listener), UPDATE (listener)", "INSERT"),
        ):
            printed = printed.replace(ours, shown)
        for line in printed.splitlines():
            assert f"    {line}\n" in guide


def test_grants_and_check_name_a_schema_in_which_others_may_create(shop: Shop) -> None:
    roles = Roles(shop)
    roles.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    warning = "everybody may CREATE in schema public, which is on the search path of captures"
    remedy = "Run: REVOKE CREATE ON SCHEMA public FROM PUBLIC;"
    lines = roles.printed("monitor")
    assert lines[0].startswith(f"-- {warning}")
    assert lines[1] == f"-- {remedy}"
    result = shop.run("check", "shop.listeners")
    assert result.returncode == 1
    assert warning in result.stdout
    assert remedy in result.stdout
    roles.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    assert not any(warning in line for line in roles.printed("monitor"))
    assert shop.run("check", "shop.listeners").returncode == 0
