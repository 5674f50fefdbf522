"""The pytest plugin, in the suites of users: fixtures, marker, and what does not happen by its being installed."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from sqla_pubsub.testing.databases import Databases
from tests.servers import Driver, Server
from tests.testing.suite import (
    AWAITED_CONFTEST,
    AWAITED_LISTENERS,
    CONFTEST,
    SHARED_SERVER,
    Suite,
)

pytestmark = pytest.mark.one_driver

TEST = """
import listeners
from models import Article, Comment, Revision
from sqlalchemy import func, select

from sqla_pubsub.testing import assert_published_once, drain


@pytest.mark.parametrize("number", range({number}))
def test_an_edited_comment_keeps_its_history(session, number):
    listeners.mails.clear()
    comment = Comment(content=f"first {{number}}", article=Article(title="Sets"))
    session.add(comment)
    session.commit()
    drain(session)
    assert listeners.mails == [("Sets", f"first {{number}}")]
    comment.content = "second"
    session.commit()
    assert drain(session).acknowledged == 1
    assert session.scalars(select(Revision.content)).all() == [f"first {{number}}"]
    assert_published_once(session, Comment, op="update", changed="content")
    assert session.scalar(select(func.count()).select_from(Comment)) == 1
"""

STATEMENTS = 70
"""What one of these tests may send to the server, savepoints among them; it sends 63."""
COUNTING = """

import time

from sqlalchemy import event


class Costs:
    def __init__(self):
        self.of_tests = []
        self.statements = 0
        self.connections = 0
        self.begun = time.process_time()

    def processor_time(self):
        return time.process_time() - self.begun


@pytest.fixture(scope="session")
def costs(engine):
    costs = Costs()

    def statement(*_):
        costs.statements += 1

    def connection(*_):
        costs.connections += 1

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "connect", connection)
    return costs


@pytest.fixture(autouse=True)
def counted(costs, request):
    before = costs.statements
    yield
    if "session" in request.fixturenames:
        costs.of_tests.append(costs.statements - before)
"""


@pytest.fixture
def suite(tmp_path: Path, server: Server, driver: Driver) -> Suite:
    return Suite(tmp_path, server.url("postgres", driver))


def left(server: Server) -> set[str]:
    """The databases of suites that are still there."""
    engine = create_engine(server.url("postgres"))
    with engine.connect() as connection:
        names = set(
            connection.scalars(text("SELECT datname FROM pg_database WHERE datname ~ '^pubsub_(main|gw)'"))
        )
    engine.dispose()
    return names


def test_a_hundred_tests_in_transactions_that_are_rolled_back_leave_nothing_behind(
    suite: Suite, server: Server
) -> None:
    suite.write("conftest.py", SHARED_SERVER + CONFTEST + COUNTING)
    suite.write("test_comments.py", "import pytest\n" + TEST.format(number=100))
    suite.write(
        "test_zz_at_the_end.py",
        f"STATEMENTS = {STATEMENTS}\n"
        """
from sqlalchemy import text


def test_no_test_costs_more_than_the_one_before(costs):
    assert len(costs.of_tests) == 100
    [each] = set(costs.of_tests)
    assert each <= STATEMENTS
    assert costs.connections == 1
    assert costs.processor_time() < 10


def test_nothing_is_there(engine):
    with engine.connect() as connection:
        for table in ("comment", "revision", "article", "pubsub_outbox", "pubsub_dead_letter"):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0
        temporary = "SELECT count(*) FROM pg_class WHERE relpersistence = 't'"
        assert connection.scalar(text(temporary)) == 0
        assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
""",
    )
    said = suite.run()
    assert "102 passed" in said, said
    assert left(server) == set()


@pytest.mark.parametrize("loop_driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("runner", ["pytest-asyncio", "anyio"])
def test_coroutines_are_tested_with_whatever_runs_them(
    tmp_path: Path, server: Server, runner: str, loop_driver: str
) -> None:
    suite = Suite(tmp_path, server.url("postgres", "psycopg2"))
    header, mark, options = {
        "pytest-asyncio": (
            "import pytest_asyncio\n\n\n@pytest_asyncio.fixture",
            "asyncio",
            ("-p no:anyio", "asyncio_default_fixture_loop_scope = function"),
        ),
        "anyio": (
            'import pytest\n\n\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n\n\n@pytest.fixture',
            "anyio",
            ("-p no:asyncio", ""),
        ),
    }[runner]
    suite.write("listeners.py", AWAITED_LISTENERS)
    suite.write("conftest.py", SHARED_SERVER + AWAITED_CONFTEST.format(header=header, driver=loop_driver))
    suite.write(
        "test_comments.py",
        f"""
import pytest
import listeners
from models import Article, Comment, Revision
from sqlalchemy import select

from sqla_pubsub.testing import (
    advance,
    assert_not_published,
    assert_published,
    assert_published_once,
    assert_settled,
    deliver_twice,
    drain,
    fail_commit,
    in_any_order,
    inline,
    make_event,
    published,
    retries,
    spy,
)

pytestmark = pytest.mark.{mark}


@pytest.mark.parametrize("number", range(3))
async def test_an_edited_comment_keeps_its_history(session, number):
    listeners.mails.clear()
    comment = Comment(content="first", article=Article(title="Sets"))
    session.add(comment)
    await drain(session)
    assert listeners.mails == [("Sets", "first")]
    comment.content = "second"
    await drain(session)
    assert (await session.scalars(select(Revision.content))).all() == ["first"]
    await assert_published_once(session, Comment, op="update", changed="content")
    with inline(session) as inlined:
        comment.content = "third"
        await session.commit()
    assert inlined.drained.acknowledged == 1
    await assert_settled(session)


async def test_time_crashes_and_order_are_awaited_too(session):
    listeners.mails.clear()
    article = Article(title="Sets")
    comment = Comment(content="offline", article=article)
    session.add(comment)
    await assert_published(session, Comment, op="insert", content="offline")
    with pytest.raises(ConnectionError):
        await drain(session)
    [retry] = await retries(session, "mail")
    assert retry.attempt == 1
    await advance(session, minutes=1)
    assert (await drain(session)).acknowledged == 1
    session.add(Comment(content="twice", article=article))
    [event] = await published(session, Comment, content="twice")
    await deliver_twice(session, event)
    session.add_all([Comment(content=content, article=article) for content in "abc"])
    with in_any_order(seed=1):
        assert (await drain(session)).acknowledged == 3
    session.add(Comment(content="again", article=article))
    with fail_commit():
        assert (await drain(session)).acknowledged == 1
    mails = [content for _, content in listeners.mails]
    assert mails[:3] == ["offline", "twice", "twice"]
    assert sorted(mails[3:6]) == ["a", "b", "c"]
    assert mails[6:] == ["again", "again"]
    await assert_not_published(session, Comment, op="delete")
    await spy(session, Comment, op="delete")
    await session.delete(comment)
    await assert_published_once(session, Comment, op="delete", content="offline")
    made = await make_event(Comment(id=1, article_id=1, content="made"), session=session)
    assert made.new.content == "made"
    await assert_settled(session)
""",
    )
    suite.configure(*options)
    said = suite.run()
    assert "4 passed" in said, said


def test_a_test_that_commits_has_a_database_of_its_own(suite: Suite, server: Server) -> None:
    suite.write("conftest.py", SHARED_SERVER + CONFTEST)
    suite.write(
        "test_commits.py",
        """
import pytest
from models import Article, Comment
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from sqla_pubsub import Listener
from sqla_pubsub.testing import drain


@pytest.mark.parametrize("number", range(2))
@pytest.mark.pubsub_settled
def test_a_listener_of_its_own(pubsub_database, number):
    engine = create_engine(pubsub_database)
    with Session(engine) as session:
        session.add(Comment(content="a", article=Article(title="Sets")))
        session.commit()
        assert session.scalar(select(func.count()).select_from(Comment)) == 1
    assert Listener(engine, Comment.metadata).drain() == 1
    engine.dispose()


@pytest.mark.pubsub_settled
def test_that_forgets_to_drain(pubsub_database):
    engine = create_engine(pubsub_database)
    with Session(engine) as session:
        session.add(Comment(content="a", article=Article(title="Sets")))
        session.commit()
    engine.dispose()


@pytest.mark.pubsub_settled
def test_that_forgets_it_in_its_transaction(session):
    session.add(Comment(content="a", article=Article(title="Sets")))


@pytest.mark.pubsub_settled
def test_that_fails_by_itself(session):
    session.add(Comment(content="a", article=Article(title="Sets")))
    assert not "its own error"
""",
    )
    said = suite.run()
    assert "3 failed, 2 passed" in said, said
    assert said.count("AssertionError: the test leaves behind, in the outbox:") >= 2
    assert "1 of INSERT comment for 'mail'" in said
    assert "its own error" in said
    assert left(server) == set()


@pytest.mark.parametrize("shared", [True, False])
def test_a_suite_is_run_by_two_workers_of_xdist(suite: Suite, server: Server, shared: bool) -> None:
    suite.write("conftest.py", (SHARED_SERVER if shared else "") + CONFTEST)
    suite.write("test_comments.py", "import pytest\n" + TEST.format(number=8))
    suite.write(
        "test_commits.py",
        """
import pytest
from models import Article, Comment
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from sqla_pubsub import Listener


@pytest.mark.parametrize("number", range(4))
@pytest.mark.pubsub_settled
def test_a_database_of_its_own(pubsub_database, number):
    engine = create_engine(pubsub_database)
    with Session(engine) as session, session.begin():
        session.add(Comment(content="a", article=Article(title="Sets")))
    assert Listener(engine, Comment.metadata).drain() == 1
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Comment)) == 1
    engine.dispose()
""",
    )
    said = suite.run_anew("-n", "2", "-vv", "-p", "no:pytest_alembic")
    assert "12 passed" in said, said
    assert "[gw0]" in said
    assert "[gw1]" in said
    assert left(server) == set()


def test_workers_of_xdist_do_not_meet_on_one_server(
    server: Server, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        workers.append(Databases(server.url("postgres", driver), lambda _: None))
    urls = [each.clone() for each in workers for _ in range(2)]
    assert len(set(urls)) == 4
    assert len(left(server)) == 6
    workers[0].drop(urls[0])
    assert len(left(server)) == 5
    for each in workers:
        each.close()
    assert left(server) == set()


def test_a_migration_that_fails_leaves_no_database(server: Server, driver: Driver) -> None:
    def fail(_: str) -> None:
        raise ValueError("no such revision")

    with pytest.raises(ValueError, match="no such revision"):
        Databases(server.url("postgres", driver), fail)
    assert left(server) == set()


def test_a_server_is_started_where_none_is_given(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "none")
    suite.write("conftest.py", CONFTEST)
    suite.write("test_comments.py", "import pytest\n" + TEST.format(number=1))
    assert "1 passed" in (said := suite.run()), said


def test_without_models_it_says_what_to_import(suite: Suite) -> None:
    suite.write("conftest.py", SHARED_SERVER)
    suite.write("test_nothing.py", "def test_nothing(pubsub_database): ...\n")
    assert "Import the models and listeners there, or override the fixture pubsub_migrate" in suite.run()


def test_how_tables_are_made_can_be_told(suite: Suite) -> None:
    suite.write(
        "conftest.py",
        SHARED_SERVER
        + CONFTEST
        + """
@pytest.fixture(scope="session")
def pubsub_migrate():
    def migrate(url):
        engine = create_engine(url)
        with engine.begin() as connection:
            listeners.Comment.metadata.create_all(connection)
            connection.exec_driver_sql("INSERT INTO article (title) VALUES ('seeded')")
        engine.dispose()

    return migrate
""",
    )
    suite.write(
        "test_seeded.py",
        """
from models import Article
from sqlalchemy import select


def test_the_article_is_there(session):
    assert session.scalars(select(Article.title)).all() == ["seeded"]
""",
    )
    assert "1 passed" in (said := suite.run()), said


def test_nothing_is_imported_and_nothing_happens_until_a_fixture_is_asked_for(suite: Suite) -> None:
    suite.write(
        "test_other.py",
        """
import sys


def test_of_a_project_that_does_not_use_it(request):
    assert "sqla_pubsub.testing.plugin" in sys.modules
    ours = {name for name in sys.modules if name.startswith("sqla_pubsub.")}
    assert ours == {"sqla_pubsub.testing", "sqla_pubsub.testing.plugin"}
    assert not {"sqlalchemy", "alembic"} & set(sys.modules)
    assert not [name for name in request.fixturenames if name.startswith("pubsub_")]
""",
    )
    assert "1 passed" in (said := suite.run_anew("-p", "no:pytest_alembic")), said
