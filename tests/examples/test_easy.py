"""The article platform: its stock migrations, its two listeners as programs, and its demo."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console
from sqlalchemy import Engine, inspect

from examples.easy import demo
from examples.easy.demo import Outcome, left, observe, platform
from examples.easy.mailbox import Mailbox
from examples.easy.models import Base
from examples.easy.writing import and_roll_back, by_copy, by_raw_sql, in_bulk, one_by_one, write_articles
from examples.workplace import CommandFailed, wait_until
from sqla_pubsub.cli import cli
from sqla_pubsub.errors import ConfigurationError

EQUAL = Outcome(
    committed=[1, 2], mailed=[2, 1], counted=2, left=0, dead=0, workers={"7": 2}, latencies=[], exit_code=0
)


@pytest.mark.one_driver
def test_the_stock_migrations_publish_comments_and_take_it_back(
    engine: Engine, url: str, tmp_path: Path
) -> None:
    workplace = platform(tmp_path, url, smtp="localhost:1025")
    workplace.run("alembic", "revision", "--autogenerate", "-m", "publish comments")
    upgrade, _, downgrade = workplace.newest_migration().partition("def downgrade()")
    assert "op.create_pubsub_trigger(\n        'comment'," in upgrade
    assert "listeners=['count_comments', 'email_author']" in upgrade
    assert "op.drop_pubsub_trigger(\n        'comment'," in downgrade
    workplace.run("alembic", "upgrade", "head")
    workplace.run("alembic", "downgrade", "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]


@pytest.mark.one_driver("psycopg")
def test_two_processes_mail_and_count_every_comment_once_however_it_was_written(
    engine: Engine, url: str, tmp_path: Path
) -> None:
    Base.metadata.create_all(engine)
    write_articles(engine)
    # Written before anybody listens.
    in_bulk(engine, 40)
    with Mailbox() as mailbox:
        workplace = platform(tmp_path, url, mailbox.address)
        commits: dict[int, float] = {}
        with workplace.listening(processes=2) as listening:
            one_by_one(engine, 10, commits.__setitem__)
            by_raw_sql(engine, 40)
            by_copy(engine, 40)
            and_roll_back(engine, 40)
            assert wait_until(lambda: not left(engine), 30), workplace.log
        outcome = observe(engine, mailbox, commits, listening.returncode)
    assert len(outcome.committed) == 130
    assert outcome.exactly_once, (outcome, workplace.log)
    assert len(outcome.latencies) == 10
    assert sum(outcome.workers.values()) == 130


@pytest.mark.one_driver
def test_a_mail_server_that_is_away_puts_the_mail_off_and_not_the_counter(
    engine: Engine, url: str, tmp_path: Path
) -> None:
    Base.metadata.create_all(engine)
    write_articles(engine)
    by_raw_sql(engine, 1)
    said = platform(tmp_path, url, smtp="127.0.0.1:1").run("sqla_pubsub", "listen", "--drain")
    # Its first retries may be due at once.
    assert re.search(
        r"^1 event handled, \d+ failed and waiting for a retry, 0 dead letters$", said, re.MULTILINE
    )
    assert left(engine) == 1


@pytest.mark.one_driver
def test_a_command_that_fails_says_what_it_said(url: str, tmp_path: Path) -> None:
    workplace = platform(tmp_path, url, smtp="localhost:1025")
    with pytest.raises(CommandFailed, match=r"(?s)exit code 255.*Can't locate revision"):
        workplace.run("alembic", "upgrade", "nowhere")
    refused = r"(?s)did not start:.*table 'pubsub_outbox' does not exist"
    with pytest.raises(CommandFailed, match=refused), workplace.listening(processes=2):
        pass


def test_the_demo_ends_with_equal_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in ("ONE_BY_ONE", "BULK", "RAW", "COPIED", "ROLLED_BACK"):
        monkeypatch.setattr(demo, size, 5)
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == 0, result.output
    assert "all equal" in result.output
    assert "op.create_pubsub_trigger(" in result.output
    assert "No new upgrade operations detected" in result.output


@pytest.mark.parametrize(
    "outcome",
    [
        replace(EQUAL, mailed=[1]),
        replace(EQUAL, mailed=[1, 2, 2]),
        replace(EQUAL, mailed=[1, 1]),
        replace(EQUAL, counted=3),
        replace(EQUAL, left=1),
        replace(EQUAL, dead=1),
        replace(EQUAL, exit_code=1),
    ],
    ids=["not mailed", "mailed twice", "another one mailed", "counted twice", "left", "dead", "not stopped"],
)
def test_the_demo_fails_when_the_numbers_differ(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_run", lambda console: outcome)
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == 1
    assert "NOT equal" in result.output


def test_the_demo_repeats_what_a_failing_command_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(console: Console) -> Outcome:
        raise CommandFailed("alembic upgrade head: exit code 1\nERROR [alembic] no")

    monkeypatch.setattr(demo, "_run", fail)
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == 1
    assert "ERROR [alembic] no" in result.output


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("examples.easy.demo", "is part of the source tree .* run there: make demo"),
        (
            "aiosmtpd.controller",
            r"needs 'aiosmtpd.controller', which is not found. .* pip install -e '.\[dev\]'",
        ),
    ],
)
def test_the_demo_says_what_it_lacks(missing: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "examples.easy.demo")
    monkeypatch.delitem(sys.modules, "examples.easy.mailbox")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=sentence):
        CliRunner().invoke(cli, ["demo"], catch_exceptions=False)
