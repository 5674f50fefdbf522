"""Mass actions: in steps, with progress, by themselves, and safe where two people start the same."""

import logging
import re
from datetime import datetime
from functools import partial
from threading import Barrier, Event, Thread

import pytest
from sqlalchemy import Engine, create_engine, text

from sqla_pubsub import Admin
from sqla_pubsub.operate.dead_letters import STEP, Letters
from sqla_pubsub.web import dashboard
from sqla_pubsub.web.filters import Filter
from sqla_pubsub.web.jobs import Jobs
from tests.waiting import wait_until
from tests.web.client import Client
from tests.web.conftest import by_header, client_of
from tests.web.shop import Base, seed

pytestmark = pytest.mark.one_driver

COUNT = 3 * STEP + 7


@pytest.fixture
def many(engine: Engine) -> Engine:
    """A database with some steps of dead letters."""
    Base.metadata.create_all(engine)
    seed(engine, letters=COUNT, ready=0)
    return engine


@pytest.fixture
def client(many: Engine) -> Client:
    return client_of(dashboard(many, Base.metadata, authorize=by_header))


def dead(engine: Engine) -> int:
    return Admin(engine, Base.metadata).count_dead(Letters(listener="mail"))


def clock(admin: Admin) -> datetime:
    """The time of the database."""
    return admin.system().now


def finished(client: Client, place: str) -> str:
    """The page of a job when that has ended."""
    return wait_until(
        lambda: page if "badge" in (page := client.get(place).text) and ">running<" not in page else "",
        30, "the job to end",
    )  # fmt: skip


def test_all_that_match_are_retried_in_steps_that_go_on_by_themselves(
    many: Engine, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqla_pubsub.web")
    asked = client.get("/retry?listener=mail&all=1").text
    assert f"Retry {COUNT:,} dead letters?" in asked
    begun = client.post("/retry", data={"listener": "mail", "all": "1"})
    assert begun.status_code == 303
    place = "/" + begun.headers["location"]
    assert re.match(r"/job\?listener=mail&id=\w+$", place)
    page = finished(client, place)
    assert ">done<" in page
    assert f"{COUNT:,}" in page
    assert dead(many) == 0
    assert Admin(many, Base.metadata).count_dead() == 1

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "sqla_pubsub.web.jobs"]

    # The page shows it a moment earlier.
    wait_until(lambda: any("retry done" in line for line in told()), 30, "its end to be told")
    said = told()
    assert said[0] == "dashboard.job: retry begun by ada: listener 'mail'"
    assert (
        said[-1]
        == f"dashboard.job: retry done, begun by ada: {COUNT:,} of {COUNT:,} dead letters retried; listener 'mail'"
    )


def test_what_dies_again_after_the_beginning_is_not_retried_without_end(many: Engine) -> None:
    """Letters that fail again come back as fast as they are moved."""
    admin, rounds = Admin(many, Base.metadata), []

    def and_fail_again(letters: Letters, *, limit: int) -> int:
        moved = admin.retry(letters, limit=limit)
        rounds.append(moved)
        with many.begin() as connection:
            connection.execute(
                text(
                    """
                    WITH again AS (DELETE FROM pubsub_outbox WHERE listener = 'mail' AND operation = 'INSERT' RETURNING *)
                    INSERT INTO pubsub_dead_letter (id, listener, operation, source, key, new, attempt, reason)
                    SELECT id, listener, operation, source, key, new, 1, 'again' FROM again
                    """
                )
            )
        return moved

    jobs = Jobs(
        {"retry": and_fail_again, "discard": admin.discard}, count=admin.count_dead, now=partial(clock, admin)
    )
    job = jobs.start("retry", Filter(listener="mail"), "ada")
    wait_until(lambda: job.state != "running", 30, "the job to end")
    assert (job.state, job.moved) == ("done", COUNT)
    assert rounds == [STEP, STEP, STEP, 7, 0]
    assert dead(many) == COUNT


def test_what_two_people_start_is_one_job(many: Engine) -> None:
    admin, first, go_on = Admin(many, Base.metadata), Event(), Event()

    def step(letters: Letters, *, limit: int) -> int:
        first.set()
        assert go_on.wait(30)
        return admin.retry(letters, limit=limit)

    jobs = Jobs({"retry": step, "discard": admin.discard}, count=admin.count_dead, now=partial(clock, admin))
    job = jobs.start("retry", Filter(listener="mail"), "ada")
    assert first.wait(30)
    assert jobs.start("retry", Filter(listener="mail"), "bob") is job
    assert jobs.start("discard", Filter(listener="nobody"), "bob") is not job
    go_on.set()
    wait_until(lambda: not jobs.running(), 30, "both to end")
    assert (job.state, job.moved, job.who) == ("done", COUNT, "ada")
    again = jobs.start("retry", Filter(listener="mail"), "bob")
    assert again is not job
    wait_until(lambda: again.state == "done", 30, "the empty one")
    assert again.moved == 0


def test_two_processes_that_do_the_same_share_the_letters(many: Engine, url: str) -> None:
    """Two dashboards stand for two processes: each has jobs and connections of its own."""
    barrier, pairs = Barrier(2), []
    for _ in range(2):
        engine = create_engine(url)
        admin = Admin(engine, Base.metadata)

        def count(letters: Letters, admin: Admin = admin) -> int:
            barrier.wait(30)
            return admin.count_dead(letters)

        jobs = Jobs({"retry": admin.retry, "discard": admin.discard}, count=count, now=partial(clock, admin))
        pairs.append((engine, jobs.start("retry", Filter(listener="mail"), "ada")))
    for engine, job in pairs:
        wait_until(lambda job=job: job.state == "done", 30, "the job to end")  # type: ignore[misc]
        engine.dispose()
    assert sum(job.moved for _, job in pairs) == COUNT
    with many.connect() as connection:
        copies = "SELECT count(*), count(DISTINCT id) FROM pubsub_outbox WHERE listener = 'mail' AND operation = 'INSERT'"
        assert connection.execute(text(copies)).one() == (COUNT, COUNT)


def test_a_job_that_is_stopped_says_how_far_it_came_and_leaves_the_rest(
    many: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqla_pubsub.web")
    admin, one_step, go_on = Admin(many, Base.metadata), Event(), Event()

    def step(letters: Letters, *, limit: int) -> int:
        moved = admin.discard(letters, limit=limit)
        one_step.set()
        assert go_on.wait(30)
        return moved

    jobs = Jobs({"retry": admin.retry, "discard": step}, count=admin.count_dead, now=partial(clock, admin))
    job = jobs.start("discard", Filter(listener="mail"), "ada")
    assert one_step.wait(30)
    # As the end of the process does.
    closing = Thread(target=jobs.close)
    closing.start()
    wait_until(job.stop.is_set, 30, "it to be told")
    go_on.set()
    closing.join(30)
    assert (job.state, job.moved) == ("stopped", STEP)
    assert dead(many) == COUNT - STEP
    said = f"dashboard.job: discard stopped, begun by ada: {STEP} of {COUNT:,} dead letters discarded; listener 'mail'"
    assert caplog.records[-1].getMessage() == said
    assert caplog.records[-1].levelno == logging.WARNING


def test_a_job_that_fails_says_why_and_what_it_has_done(many: Engine, client: Client) -> None:
    with many.begin() as connection:
        connection.execute(
            text(
                """
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN IF OLD.id % 1000 = 999 THEN RAISE ''not this one''; END IF; RETURN OLD; END';
                CREATE TRIGGER refuse BEFORE DELETE ON pubsub_dead_letter FOR EACH ROW EXECUTE FUNCTION refuse()
                """
            )
        )
    begun = client.post("/discard", data={"all": "1"})
    page = finished(client, "/" + begun.headers["location"])
    assert ">failed<" in page
    assert "not this one" in page
    assert "the rest is where it was" in page


def test_a_job_of_another_process_is_a_page_that_says_what_is_left(client: Client) -> None:
    answer = client.get("/job?listener=mail&id=0123456789abcdef")
    assert answer.status_code == 404
    assert "Another process of the application runs it" in answer.text
    assert f"{COUNT:,} letters match now" in answer.text


def test_the_page_of_a_running_job_renews_itself_without_a_script(many: Engine, client: Client) -> None:
    with many.begin() as lock:
        lock.execute(text("LOCK TABLE pubsub_outbox IN EXCLUSIVE MODE"))
        begun = client.post("/retry", data={"listener": "mail", "all": "1"})
        place = "/" + begun.headers["location"]
        page = client.get(place).text
        assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in page
        assert ">running<" in page
        assert "begun by ada" in client.get("/letters").text
        assert client.post("/stop-job", data={"id": place.partition("id=")[2]}).status_code == 303
    page = finished(client, place)
    assert ">stopped<" in page
    assert "http-equiv" not in page


@pytest.mark.parametrize("deed", ["retry", "discard"])
def test_one_and_a_page_of_letters(many: Engine, client: Client, deed: str) -> None:
    with many.connect() as connection:
        ids = connection.scalars(
            text("SELECT id FROM pubsub_dead_letter WHERE listener = 'mail' ORDER BY id DESC LIMIT 51")
        ).all()
    answer = client.post(f"/{deed}", data={"id": ids[0]})
    word = {"retry": "retried", "discard": "discarded"}[deed]
    assert answer.headers["location"] == f"letters?done={word}&count=1"
    assert f"1 dead letter {word}" in client.get("/" + answer.headers["location"]).text
    answer = client.post(f"/{deed}", data={"id": list(map(str, ids)), "listener": "mail"})
    assert answer.headers["location"] == f"letters?listener=mail&done={word}&count=50"
    assert dead(many) == COUNT - 51
    again = client.post(f"/{deed}", data={"id": ids[0]})
    assert "Somebody else was quicker" in client.get("/" + again.headers["location"]).text


def test_letters_that_the_outbox_does_not_take_are_named_by_the_page_and_by_the_job(
    many: Engine, client: Client
) -> None:
    with many.begin() as connection:
        ids = connection.scalars(
            text("SELECT id FROM pubsub_dead_letter WHERE listener = 'mail' ORDER BY id LIMIT 3")
        ).all()
        connection.execute(
            text(
                "INSERT INTO pubsub_outbox (id, listener, operation, source) OVERRIDING SYSTEM VALUE"
                " VALUES (:id, 'younger', 'INSERT', 'note')"
            ),
            {"id": ids[1]},
        )
    answer = client.post("/retry", data={"id": list(map(str, ids))})
    assert f"2 of 3 dead letters retried; dead letter {ids[1]} stays where it is: an entry" in answer.text
    alone = client.post("/retry", data={"id": str(ids[1])})
    assert f"dead letter {ids[1]} stays where it is" in alone.text
    begun = client.post("/retry", data={"listener": "mail", "all": "1"})
    page = finished(client, "/" + begun.headers["location"])
    assert ">failed<" in page
    assert f"dead letter {ids[1]} stays where it is" in page
    assert dead(many) == 1
