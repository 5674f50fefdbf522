"""Comments whose authors are mailed by a task of Celery: the listener, a real worker and a real broker."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.orm import Session

from examples.celery.models import Article, Comment, Mail
from tests.examples.programs import Programs
from tests.outlets.engines.celery import PROGRAM, CeleryEngine
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.one_driver,
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
]


@pytest.fixture
def broker() -> Iterator[CeleryEngine]:
    engine = CeleryEngine()
    engine.start()
    yield engine
    engine.stop()


def test_a_mail_is_sent_for_each_comment_that_is_committed_though_the_broker_was_away_and_for_no_other(
    url: str, engine: Engine, broker: CeleryEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SQLA_PUBSUB_CELERY_URL", broker.url)
    programs = Programs("celery", url)
    programs.run("alembic", "upgrade", "head")
    assert "No new upgrade operations" in programs.run("alembic", "check")
    broker.kill()
    with Session(engine) as session:
        session.add(Article(id=1, author="ann@example.com"))
        session.flush()
        session.add(Comment(article_id=1, content="first"))
        session.commit()
        session.add(Comment(article_id=1, content="never"))
        session.flush()
        session.rollback()
        session.execute(insert(Comment), [{"article_id": 1, "content": f"{number}"} for number in range(20)])
        session.execute(text("INSERT INTO comment (article_id, content) VALUES (1, 'by hand')"))
        session.commit()
    wanted = ["first", *map(str, range(20)), "by hand"]
    log = tmp_path / "listen"
    listen = ["sqla_pubsub", "listen", "--processes", "1"]
    work = ["celery", "-A", "examples.celery.tasks", "worker", "--pool", "solo", "--without-mingle"]
    with running(programs, listen, log):
        wait_until(lambda: "outlet.away" in log.read_text(encoding="utf-8"), 60, "the outage to be said")
        with Session(engine) as session:
            waiting = session.execute(text("SELECT count(*), max(attempt) FROM pubsub_outbox")).one()
        assert waiting == (len(wanted), 0)
        broker.start()
        with running(programs, work, tmp_path / "worker"):

            def mails() -> Sequence[str]:
                with Session(engine) as session:
                    found = session.scalars(select(Mail.content)).all()
                return found if len(found) >= len(wanted) else ()

            assert sorted(wait_until(mails, 120, "the mails to be sent")) == sorted(wanted)
    with Session(engine) as session:
        assert set(session.scalars(select(Mail.recipient))) == {"ann@example.com"}
        assert session.scalar(text("SELECT count(*) FROM pubsub_outbox")) == 0
    assert broker.tasks() == []


@contextmanager
def running(programs: Programs, command: Sequence[str], log: Path) -> Iterator[None]:
    """Run a program in the folder of the example, and end it afterwards."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=programs.folder, env=programs.environment, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield
    except BaseException as error:
        error.add_note(log.read_text(encoding="utf-8"))
        raise
    finally:
        process.terminate()
        process.wait(30)
