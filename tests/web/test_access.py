"""Who may see the dashboard, who may act, and which requests are refused whoever sends them."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp

from sqla_pubsub import ConfigurationError
from sqla_pubsub.web import Access, dashboard
from tests.web.client import Client
from tests.web.conftest import USER, by_header, client_of
from tests.web.shop import LONG, Base

pytestmark = pytest.mark.one_driver

SCREENS = [
    "/", "/letters", "/workers", "/system", "/listener?name=mail", f"/listener?name={LONG}", "/letter?id=900000001",
    "/entry?id=999", "/job?id=x", "/letters?listener=mail&error=ValueError&older=1s&newer=9d",
]  # fmt: skip
DEEDS = {
    "/pause": {"listener": "mail"}, "/resume": {"listener": LONG}, "/retry-now": {"listener": "mail"},
    "/retry": {"id": "900000001"}, "/discard": {"id": "900000001"}, "/stop-job": {"id": "x"},
    "/retry-entry": {"id": "1"}, "/discard-entry": {"id": "1"},
}  # fmt: skip
EVERYTHING = {"/retry": {"all": "1"}, "/discard": {"all": "1"}}
FORM = {"content-type": "application/x-www-form-urlencoded"}


def state(engine: Engine) -> list[Any]:
    """All that an action could change."""
    with engine.connect() as connection:
        return [
            connection.execute(text(query)).all()
            for query in (
                "SELECT id, due_at FROM pubsub_outbox ORDER BY id", "SELECT id FROM pubsub_dead_letter ORDER BY id",
                "SELECT * FROM pubsub_listener ORDER BY name",
            )
        ]  # fmt: skip


def test_without_authorize_there_is_no_dashboard(shop: Engine) -> None:
    with pytest.raises(TypeError, match="authorize"):
        dashboard(shop, Base.metadata)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="authorize=None is no function"):
        dashboard(shop, Base.metadata, authorize=None)  # type: ignore[arg-type]


def test_an_engine_of_asyncio_is_refused_with_what_to_give_instead() -> None:
    engine = create_async_engine("postgresql+psycopg://localhost/app")
    with pytest.raises(ConfigurationError, match=r"Give it an Engine.*create_engine\(\)"):
        dashboard(engine, Base.metadata, authorize=by_header)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("colour", "pink", "colour='pink' is unknown. Give one of: grey, red"),
        ("trusted_origins", ["ops.example"], "'ops.example' is no origin. Give scheme and host"),
        ("trusted_origins", ["https://ops.example/path"], "is no origin"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(
    shop: Engine, keyword: str, value: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        dashboard(shop, Base.metadata, authorize=by_header, **{keyword: value})


@pytest.mark.parametrize("path", SCREENS)
def test_nobody_sees_a_screen_without_access(app: ASGIApp, path: str) -> None:
    eve = client_of(app, "eve")
    answer = eve.get(path)
    assert answer.status_code == 403
    assert "mail" not in answer.text
    assert "the shop" in answer.text


@pytest.mark.parametrize("path", SCREENS)
def test_who_may_look_sees_every_screen(bob: Client, path: str) -> None:
    answer = bob.get(path)
    assert answer.status_code == (404 if path.startswith(("/entry", "/job")) else 200), answer.text
    assert "bob" in answer.text


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "post"]
)
def test_who_may_look_can_act_by_no_method(shop: Engine, bob: Client, method: str) -> None:
    before = state(shop)
    for path, fields in [*DEEDS.items(), *EVERYTHING.items()]:
        as_query = bob.request(method, f"{path}?{urlencode(fields)}")
        as_form = bob.request(method, path, content=urlencode(fields), headers=FORM)
        assert {as_query.status_code, as_form.status_code} <= {403, 405}, path
    assert state(shop) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"x-http-method-override": "POST"}, {"x-method-override": "POST"}, {"x-original-url": "/retry"},
        {"x-rewrite-url": "/retry"}, {"x-forwarded-user": "ada"}, {"origin": "http://testserver"},
        {"sec-fetch-site": "none"}, {"cookie": "person=ada; access=2"},
    ],
    ids=str,
)  # fmt: skip
def test_who_may_look_can_act_by_no_header_and_no_forged_form(
    shop: Engine, bob: Client, headers: dict[str, str]
) -> None:
    before = state(shop)
    forged = {
        "access": "2",
        "operates": "1",
        "person": "ada",
        "_method": "POST",
        "all": "1",
        "id": "900000001",
    }
    for method in ("GET", "POST"):
        for path in DEEDS:
            answer = bob.request(
                method, f"{path}?{urlencode(forged)}", content=urlencode(forged), headers=FORM | headers
            )
            assert answer.status_code in (403, 405), path
    assert state(shop) == before


def test_who_may_look_finds_nothing_out_by_asking_for_it(ada: Client, bob: Client) -> None:
    """What a context holds could be guessed by a filter, value by value."""
    assert ada.get("/letters?context=tenant%3Dacme").status_code == 200
    assert bob.get("/letters?context=tenant%3Dacme").status_code == 400
    of_ada, of_bob = (client.get("/job?id=x&context=tenant%3Dacme") for client in (ada, bob))
    assert "tenant" in of_ada.text.partition("<footer")[0]
    assert "tenant" not in of_bob.text.partition("<footer")[0]
    assert "f-context" not in bob.get("/letters").text


def test_who_may_look_is_shown_no_button_that_acts(bob: Client) -> None:
    """Beside the server's refusal: nobody is to be invited to what is refused."""
    for path in SCREENS:
        page = bob.get(path).text
        forms = [part for part in page.split("<form")[1:] if 'method="post"' in part.partition(">")[0]]
        assert all('action="theme"' in form for form in forms), path
        assert "discard?" not in page, path


@pytest.mark.parametrize("user", ["eve", "bob"])
def test_each_deed_and_its_question_are_refused_to_who_may_not_act(app: ASGIApp, user: str) -> None:
    client = client_of(app, user)
    for path, fields in DEEDS.items():
        assert client.post(path, data=fields).status_code == 403
    for path in ("/retry?all=1", "/discard?all=1", "/discard?id=900000001", "/discard-entry?id=1"):
        assert client.get(path).status_code == 403


OTHERS: list[tuple[dict[str, str], int]] = [
    ({}, 403),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-site": "same-site"}, 403),
    ({"sec-fetch-site": "cross-site", "origin": "http://testserver"}, 403),
    ({"sec-fetch-site": "same-origin", "origin": "https://evil.example"}, 400),
    ({"sec-fetch-site": "none"}, 400),
    ({"origin": "http://testserver"}, 400),
    ({"origin": "HTTPS://TestServer"}, 400),
    ({"origin": "http://testserver:81"}, 403),
    ({"origin": "http://testserver.evil.example"}, 403),
    ({"origin": "https://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": "https://ops.example", "sec-fetch-site": "cross-site"}, 400),
    ({"origin": "https://ops.example:444", "sec-fetch-site": "cross-site"}, 403),
    ({"referer": "http://testserver/letters"}, 403),
]
"""What a request says of where it comes from; 400 is what the form, which chooses nothing, gets where it is let in."""


@pytest.mark.parametrize(("headers", "status"), OTHERS, ids=str)
def test_a_form_of_another_site_is_refused_and_one_of_ours_is_not(
    shop: Engine, headers: dict[str, str], status: int
) -> None:
    app = dashboard(shop, Base.metadata, authorize=by_header, trusted_origins=["https://ops.example"])
    client = Client(app)
    answer = client.post("/retry", data={}, headers={USER: "ada", **headers})
    assert answer.status_code == status, answer.text


def test_a_refused_form_is_refused_before_anybody_is_asked_who_sent_it(shop: Engine) -> None:
    asked: list[str] = []

    def authorize(request: Request) -> Access:
        asked.append(request.url.path)
        return Access.OPERATE

    client = Client(dashboard(shop, Base.metadata, authorize=authorize))
    assert client.post("/retry", data={"all": "1"}).status_code == 403
    assert asked == []


POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


@pytest.mark.parametrize("user", ["ada", "bob", "eve"])
def test_every_answer_has_the_policy_and_is_stored_nowhere(app: ASGIApp, user: str) -> None:
    client = client_of(app, user)
    answers = [
        client.get(path) for path in [*SCREENS, "/static/dashboard.css", "/static/dashboard.js", "/no/page"]
    ]
    answers += [client.post(path, data={}) for path in [*DEEDS, "/theme", "/"]]
    answers.append(client.post("/retry", headers={"sec-fetch-site": "cross-site"}))
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY, answer.url
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_page_has_a_style_or_a_script_of_its_own(ada: Client) -> None:
    for path in SCREENS:
        page = ada.get(path).text
        assert "<style" not in page
        assert " style=" not in page
        assert " onclick=" not in page
        assert page.count("<script") == page.count("<script src=") == 1


async def _later(request: Request) -> tuple[Access, str]:
    return Access.READ, "later"


def _login(request: Request) -> Access:
    raise HTTPException(303, headers={"location": "/login"})


@pytest.mark.parametrize(
    ("authorize", "status"),
    [
        (lambda request: Access.READ, 200), (_later, 200), (partial(_later), 200), (_login, 303),
        (lambda request: Access.NONE, 403),
    ],
)  # fmt: skip
def test_authorize_is_a_function_of_either_kind_and_may_send_people_to_a_login(
    shop: Engine, authorize: Callable[[Request], Access | Awaitable[Any]], status: int
) -> None:
    client = Client(dashboard(shop, Base.metadata, authorize=authorize))
    answer = client.get("/")
    assert answer.status_code == status
    assert answer.headers.get("location") == ("/login" if status == 303 else None)


@pytest.mark.parametrize("answer", [True, 2, None, "OPERATE", (Access.READ,), (Access.READ, 7), (2, "ada")])
def test_an_answer_that_is_no_access_lets_nobody_in(shop: Engine, answer: Any) -> None:
    app = dashboard(shop, Base.metadata, authorize=lambda request: answer)
    client = Client(app)
    with pytest.raises(ConfigurationError, match=r"Return Access\.NONE"):
        client.get("/")
    client = Client(app, raising=False)
    refused = client.get("/")
    assert refused.status_code == 500
    assert "mail" not in refused.text
    assert refused.headers["content-security-policy"] == POLICY


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"id=1&all=1", "application/json"), (b"id=1", "multipart/form-data; boundary=x"), (b"id=1", "text/plain"),
        (b"id=" + b"1" * 70_000, FORM["content-type"]), (b"id=" + bytes([255]), FORM["content-type"]),
        (b"&".join([b"id=1"] * 1001), FORM["content-type"]), (b"id=1;drop", FORM["content-type"]),
        (b"id=99999999999999999999", FORM["content-type"]), (b"id=-1", FORM["content-type"]),
        ("id=\u0661".encode(), FORM["content-type"]), (b"id=", FORM["content-type"]), (b"", FORM["content-type"]),
        (b"listener=mail&error=ValueError", FORM["content-type"]), (b"all=1&older=1", FORM["content-type"]),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_body_that_is_no_form_of_ours_does_nothing(
    shop: Engine, ada: Client, content: bytes, kind: str
) -> None:
    before = state(shop)
    for path in ("/retry", "/discard"):
        assert ada.post(path, content=content, headers={"content-type": kind}).status_code == 400
    assert state(shop) == before


def test_an_action_is_logged_with_who_did_what(
    shop: Engine, ada: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqla_pubsub")
    ada.post("/pause", data={"listener": "forget", "note": "a\nnote"})
    ada.post("/resume", data={"listener": "forget"})
    said = [record.getMessage() for record in caplog.records if record.name == "sqla_pubsub.web.actions"]
    assert said == [
        r"dashboard.acted: pause by ada: listener 'forget', note 'a\nnote'",
        "dashboard.acted: resume by ada: listener 'forget'",
    ]
    assert {
        getattr(record, "who", None) for record in caplog.records if "dashboard." in record.getMessage()
    } == {"ada"}
