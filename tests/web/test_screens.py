"""What the screens say of what is there, missing, wrong or away."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.types import ASGIApp

from sqla_pubsub import PubSub, after_insert
from sqla_pubsub.operate.history import Rate
from sqla_pubsub.web import Access, dashboard
from sqla_pubsub.web.curves import curve
from sqla_pubsub.web.overview import curves
from sqla_pubsub.web.reading import reading
from sqla_pubsub.web.shared import KEPT_FOR, MOST_KEPT, Shared
from tests.servers import Server
from tests.web.client import Client
from tests.web.conftest import by_header, client_of
from tests.web.shop import LONG, Base, seed
from tests.web.test_values import visible

pytestmark = pytest.mark.one_driver


def words(page: str) -> str:
    """The text of a page, with single blanks."""
    return re.sub(r"\s+", " ", visible(page.replace("<", " <")))


def test_the_overview_says_of_each_listener_how_it_is(ada: Client) -> None:
    said = words(ada.get("/").text)
    assert re.search(r"forget no worker 0 0 0", said)
    assert re.search(rf"{LONG} paused 190 ", said)
    assert "index : no worker runs it, and 8 wait" in said
    assert f"{LONG} : paused since" in said
    assert "by ada: until the supplier answers" in said


def test_a_listener_is_shown_with_what_it_is_and_what_waits_for_it(ada: Client) -> None:
    said = words(ada.get("/listener?name=mail").text)
    assert "handler tests.web.shop.mail" in said
    assert "INSERT item all" in said
    assert "UPDATE item of name; when <lambda>(old, new)" in said
    assert "ValueError" in said
    assert "in 59 min" in said
    said = words(ada.get("/listener?name=index").text)
    assert "the events of one row one after the other" in said
    assert "smtplib.SMTPServerDisconnected: Connection unexpectedly closed" in said
    assert "SMTPServerDisconnected" in said
    held = said.partition("Rows held back")[2].partition("Next entries")[0]
    assert re.findall(r"\d+ 2 in [\w ]+? (1) ?(?=\d|$| )", held) == ["1", "1", "1"]


def test_an_entry_says_why_it_does_not_move(shop: Engine, ada: Client) -> None:
    with shop.connect() as connection:
        first, behind = connection.scalars(
            text("SELECT id FROM pubsub_outbox WHERE listener = 'index' AND key::text = '[1]' ORDER BY id")
        ).all()
    said = words(ada.get(f"/entry?id={behind}").text)
    assert f"it comes after entry {first} of the same row" in said
    assert f"waits behind entry {first}" in said
    assert "no worker runs its listener" in said
    assert '"renamed 1' in said
    assert "1 of 4 columns changed" in said
    said = words(ada.get(f"/entry?id={first}").text)
    assert "it is tried again at" in said
    assert "2 of 4 columns changed" in said
    assert 'File "/srv/shop/listeners.py", line 12, in mail' in said


def test_an_id_of_a_log_line_leads_to_what_it_is_now(shop: Engine, ada: Client) -> None:
    with shop.connect() as connection:
        entry = connection.scalar(text("SELECT min(id) FROM pubsub_outbox"))
    assert ada.get("/find?id=900000001").headers["location"] == "letter?id=900000001"
    assert ada.get(f"/find?id= {entry} ").headers["location"] == f"entry?id={entry}"
    assert ada.get("/find?id=").headers["location"] == "./"
    assert ada.get("/find?id=x").status_code == 400
    assert "neither an entry nor a dead letter" in ada.get("/entry?id=123456789").text
    assert "a dead letter" in words(ada.get("/entry?id=900000001").text)


def test_dead_letters_are_filtered_by_the_url(shop: Engine, ada: Client) -> None:
    def shown(query: str) -> list[int]:
        return [int(key) for key in re.findall(r'<tr data-key="(\d+)">', ada.get(f"/letters?{query}").text)]

    with shop.connect() as connection:
        stored = connection.execute(
            text(
                "SELECT id, listener, reason, context ->> 'tenant', died_at FROM pubsub_dead_letter ORDER BY id DESC"
            )
        ).all()
    ids = [row.id for row in stored]
    assert shown("") == ids[:50]
    assert shown(f"before={ids[49]}") == ids[50:100]
    assert (
        shown("listener=mail&error=ValueError")
        == [row.id for row in stored if row.listener == "mail" and row.reason.startswith("ValueError")][:50]
    )
    assert (
        shown("listener=mail&error=-")
        == [row.id for row in stored if row.reason.startswith("its process")][:50]
    )
    assert shown("context=tenant%3Dacme") == [row.id for row in stored if row[3] == "acme"][:50]
    hour = datetime.now(UTC) - timedelta(hours=1)
    assert shown("older=1h") == [row.id for row in stored if row.died_at < hour][:50]
    assert shown("newer=1h") == [row.id for row in stored if row.died_at >= hour][:50]
    assert shown("listener=nobody") == []
    page = ada.get("/letters?listener=mail&context=tenant%3Dacme").text
    assert 'value="tenant=acme"' in page
    assert "letters?listener=mail&amp;error=ValueError&amp;context=tenant%3Dacme" in page


@pytest.mark.parametrize(
    "query", ["older=soon", "older=5", "newer=99999w", "context=acme", "before=x", "older=%FF", "older=-1d"]
)
def test_a_filter_that_cannot_be_read_is_a_sentence(ada: Client, query: str) -> None:
    answer = ada.get(f"/letters?{query}")
    assert answer.status_code == 400
    assert re.search(r"Give|is no", answer.text)


def test_the_database_that_is_away_is_a_sentence_and_what_was_seen_before_stays(
    server: Server, database: str, driver: str
) -> None:
    engine = create_engine(server.url(database))
    Base.metadata.create_all(engine)
    seed(engine, letters=3, ready=3)
    app = dashboard(engine, Base.metadata, authorize=by_header)
    ada = client_of(app)
    assert "cannot be read" not in ada.get("/").text
    server.stop("immediate")
    try:
        said = words(ada.get("/letters").text)
        assert "The dead letters cannot be read now. The database cannot be reached." in said
        for path in ("/pause", "/resume", "/retry-now", "/retry-entry", "/retry", "/discard"):
            refused = client_of(app).post(path, data={"listener": "mail", "id": "1"})
            assert refused.status_code == 503, path
            assert "The database cannot be reached." in refused.text
    finally:
        server.start()
        engine.dispose()


def test_what_cannot_be_read_again_is_shown_with_its_age() -> None:
    now, answers = [0.0], iter([1, OSError, 2])
    shared = Shared(clock=lambda: now[0])

    def read() -> int:
        answer = next(answers)
        if isinstance(answer, int):
            return answer
        raise OperationalError("SELECT", {}, OSError("gone"))

    assert shared.see("x", read).value == 1
    now[0] = 0.9
    assert shared.see("x", read).problem is None
    now[0] = 5.0
    seen = shared.see("x", read)
    assert (seen.value, seen.age, seen.problem) == (1, 5.0, "The database cannot be reached.")
    now[0] = 6.0
    assert shared.see("x", read) == type(seen)(value=2, age=0.0)


def test_what_nobody_asks_for_is_forgotten_and_what_somebody_does_is_not() -> None:
    now = [0.0]
    shared = Shared(clock=lambda: now[0])
    for number in range(MOST_KEPT + 5):
        shared.see(number, lambda number=number: number)  # type: ignore[misc]
    assert len(shared._kept) == MOST_KEPT
    now[0] = KEPT_FOR + 1
    assert shared.see("x", lambda: 1).value == 1
    assert list(shared._kept) == ["x"]
    now[0] += KEPT_FOR + 1
    assert shared.see("x", lambda: 2).value == 2


def test_however_many_look_the_database_is_asked_once_a_second(shop: Engine, app: ASGIApp) -> None:
    asked: list[str] = []
    engine = create_engine(shop.url)
    clients = [
        client_of(dashboard(engine, Base.metadata, authorize=by_header), user) for user in ("ada", "bob")
    ]
    same = clients[0]
    same.get("/")
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    for _ in range(10):
        same.get("/")
    assert len([statement for statement in asked if "dead_skip" in statement]) <= 3
    engine.dispose()


def test_a_screen_reads_in_a_transaction_that_cannot_write_and_ends_in_time(shop: Engine) -> None:
    begun: list[str] = []
    engine = create_engine(shop.url)
    event.listen(engine, "before_cursor_execute", lambda *given: begun.append(given[2]))
    client_of(dashboard(engine, Base.metadata, authorize=by_header)).get("/")
    assert begun.count("SET LOCAL statement_timeout = 2000") >= 3
    with reading(engine).connect() as connection:
        assert connection.scalar(text("SHOW transaction_read_only")) == "on"
        assert connection.scalar(text("SHOW statement_timeout")) == "2s"
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW transaction_read_only")) == "off"
        assert connection.scalar(text("SHOW statement_timeout")) == "0"
    engine.dispose()


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_an_engine_of_another_isolation_keeps_it_and_is_bounded_all_the_same(
    shop: Engine, level: str
) -> None:
    engine = create_engine(shop.url, isolation_level=level)
    with reading(engine).connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "2s"
        assert connection.scalar(text("SHOW transaction_read_only")) == "on"
    ada = client_of(dashboard(engine, Base.metadata, authorize=by_header))
    assert "cannot be read" not in ada.get("/").text
    assert ada.post("/pause", data={"listener": "forget"}).status_code == 303
    assert ada.post("/resume", data={"listener": "forget"}).status_code == 303
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.autocommit == (level == "AUTOCOMMIT")
        assert connection.get_isolation_level() == (
            "SERIALIZABLE" if level == "SERIALIZABLE" else "READ COMMITTED"
        )
    engine.dispose()


@pytest.fixture
def bare() -> type[DeclarativeBase]:
    class Own(DeclarativeBase):
        metadata = MetaData()

    class Thing(PubSub, Own):
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)

    @after_insert(Thing)
    def watch(new: Thing) -> None: ...

    return Own


def test_an_empty_outbox_is_screens_with_sentences(engine: Engine, bare: type[DeclarativeBase]) -> None:
    bare.metadata.create_all(engine)
    ada = client_of(dashboard(engine, bare.metadata, authorize=by_header))
    assert "watch" in ada.get("/").text
    assert "There are no dead letters." in ada.get("/letters").text
    assert "No worker runs." in ada.get("/workers").text
    said = words(ada.get("/listener?name=watch").text)
    assert "Nothing is ready." in said
    assert "Nothing waits for a retry." in said
    said = words(ada.get("/system").text)
    assert "All declared triggers are installed." in said
    assert "None runs, and none was interrupted." in said


def test_a_database_without_our_tables_says_what_to_run(engine: Engine, bare: type[DeclarativeBase]) -> None:
    ada = client_of(dashboard(engine, bare.metadata, authorize=by_header))
    for path in ("/", "/letters", "/listener?name=watch", "/workers", "/system"):
        answer = ada.get(path)
        assert answer.status_code in (200, 404), path
    assert "alembic upgrade head" in ada.get("/letters").text


def test_a_trigger_that_is_missing_is_on_the_overview_and_on_the_system_screen(
    engine: Engine, bare: type[DeclarativeBase]
) -> None:
    bare.metadata.create_all(engine)
    with engine.begin() as connection:
        name = connection.scalar(
            text("SELECT tgname FROM pg_trigger WHERE tgrelid = 'thing'::regclass AND NOT tgisinternal")
        )
        connection.execute(text(f'DROP TRIGGER "{name}" ON thing'))
    ada = client_of(dashboard(engine, bare.metadata, authorize=by_header))
    for path in ("/", "/system"):
        said = words(ada.get(path).text)
        assert "watch" in said
        assert "alembic revision --autogenerate" in said


def test_an_installation_without_the_tables_of_operators_can_be_looked_at(
    engine: Engine, bare: type[DeclarativeBase]
) -> None:
    """As a release before this one has left it."""
    bare.metadata.create_all(engine)
    with engine.begin() as connection:
        for table in ("listener", "worker", "history"):
            connection.execute(text(f"DROP TABLE pubsub_{table}"))
    ada = client_of(dashboard(engine, bare.metadata, authorize=by_header))
    for path in ("/", "/letters", "/workers", "/system", "/listener?name=watch"):
        answer = ada.get(path)
        assert answer.status_code == 200, path
        assert "cannot be read" not in answer.text, path
    assert "pubsub_history" in ada.get("/system").text
    refused = ada.post("/pause", data={"listener": "watch"})
    assert refused.status_code == 503
    assert "alembic" in refused.text


def test_the_title_and_its_colour_are_in_the_banner(shop: Engine) -> None:
    app = dashboard(shop, Base.metadata, authorize=lambda request: Access.READ, colour="red")
    page = Client(app).get("/").text
    assert 'class="banner banner-red"' in page
    assert f"<strong>{shop.url.database}</strong>" in page


def test_the_curve_of_a_day_ends_with_the_step_that_has_begun_as_if_it_went_on() -> None:
    now = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)

    def rate(at: datetime, handled: int, dead: int = 0) -> Rate:
        return Rate(
            listener="mail", at=at, step=timedelta(minutes=15), handled=handled, retried=0, dead=dead,
            handler_seconds=0.0, latency_seconds=0.0, first_attempts=handled,
        )  # fmt: skip

    quarter = timedelta(minutes=15)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    drawn = curves(
        [rate(noon - 96 * quarter, 5), rate(noon - 95 * quarter, 30, dead=1), rate(noon, 10)], now
    )["mail"]
    assert (drawn.sum, drawn.highest, drawn.marks) == (40, 30, (0.0,))
    assert drawn.line.startswith("M0 1 L2.5263 39 ")
    assert drawn.line.endswith(" 39 L240 1")


def test_a_curve_has_marks_where_something_failed() -> None:
    drawn = curve([0, 4, 2], [False, True, False])
    assert drawn.line == "M0 39 L120 1 L240 20"
    assert drawn.marks == (120.0,)
    assert (drawn.highest, drawn.sum) == (4, 6)


@pytest.mark.parametrize(
    ("back", "place"),
    [
        ("letters?a=1", "letters?a=1"),
        ("https://evil.example", "./"),
        ("//evil", "./"),
        ("?x", "./"),
        ("theme", "./"),
    ],
)
def test_the_switch_of_the_theme_leads_back_to_pages_of_ours_only(bob: Client, back: str, place: str) -> None:
    answer = bob.post("/theme", data={"theme": "dark", "back": back})
    assert answer.headers["location"] == place
    assert answer.headers["set-cookie"].startswith(
        "sqla_pubsub_theme=dark; HttpOnly; Max-Age=31536000; SameSite=strict"
    )
    assert "path=" not in answer.headers["set-cookie"].lower()
    assert 'data-theme="dark"' in bob.get("/").text
    assert "set-cookie" not in bob.post("/theme", data={"theme": "<x>"}).headers
