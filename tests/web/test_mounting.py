"""The applications of docs/dashboard.md, and the places where a dashboard may be mounted."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.reader import PROJECT, ROOT, URL, blocks, forget_modules
from tests.web.client import Client
from tests.web.conftest import USER, client_of

pytestmark = pytest.mark.one_driver

PAGE = ROOT / "docs/dashboard.md"
APPLICATIONS = {"fastapi_app": "/ops", "litestar_app": "/ops", "django_app": "/ops"}


@pytest.fixture
def project(tmp_path: Path, url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project of the guides with the files of the page, on the database of the test."""
    package = tmp_path / "myapp"
    package.mkdir()
    for source in (PROJECT / "myapp").glob("*.py"):
        (package / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    for block in blocks(PAGE):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.source.replace(URL, url), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("myapp.listeners")
    sys.modules["myapp.models"].Base.metadata.create_all(engine)
    yield tmp_path
    if "myapp.ops" in sys.modules:
        sys.modules["myapp.ops"].engine.dispose()
    forget_modules()


def links(page: str) -> set[str]:
    """What a page links to, loads and sends forms to."""
    return set(re.findall(r'(?:href|src|action)="([^"#]+)"', page))


@pytest.mark.filterwarnings("ignore:The declarative_mixin decorator")  # Of a package that Litestar imports.
@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_of_the_page_serves_the_dashboard(project: Path, name: str) -> None:
    app = importlib.import_module(f"myapp.{name}").app
    prefix = APPLICATIONS[name]
    client = Client(app, headers={USER: "ada", "sec-fetch-site": "same-origin"})
    page = client.get(f"{prefix}/")
    assert page.status_code == 200
    assert "email_author" in page.text
    assert "shop, production" in page.text
    for link in sorted(links(page.text)):
        place = urlsplit(urljoin(f"{prefix}/", link))
        assert place.path.startswith(f"{prefix}/"), link
        answer = client.get(f"{place.path}?{place.query}")
        assert answer.status_code in (200, 303, 400, 405), (link, answer.text)
    if name != "django_app":  # Which answers for the place without a slash itself.
        assert urljoin(prefix, client.get(prefix).headers["location"]).endswith(f"{prefix}/")
    paused = client.post(f"{prefix}/pause", data={"listener": "email_author"})
    assert paused.status_code == 303
    assert "by ada" in client.get(f"{prefix}/listener?name=email_author").text
    assert Client(app, headers={USER: "eve"}).get(f"{prefix}/").status_code == 403


def test_the_mask_of_the_page_is_one(project: Path) -> None:
    masked = importlib.import_module("myapp.masked")
    assert masked.mask("comment", "content", '"secret"') is None
    assert client_of(masked.ops, "bob").get("/").status_code == 200


def stripped(app: ASGIApp, prefix: str, *, told: bool) -> ASGIApp:
    """A proxy that takes *prefix* away, and may tell it as ``root_path``."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(prefix)
        await app({**scope, "path": path, "root_path": prefix if told else ""}, receive, send)

    return proxy


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [("", "root"), ("/a", "mounted"), ("/a/b", "mounted"), ("/a/b", "stripped"), ("/a/b", "stripped, told")],
)
def test_every_address_is_right_wherever_it_is_mounted(app: ASGIApp, prefix: str, kind: str) -> None:
    kinds: dict[str, ASGIApp] = {
        "root": app,
        "mounted": Starlette(routes=[Mount(prefix, app)]),
        "stripped": stripped(app, prefix, told=False),
        "stripped, told": stripped(app, prefix, told=True),
    }
    client = client_of(kinds[kind])
    for path in ("/", "/letters", "/letter?id=900000001", "/no/such/page", "/theme"):
        page = client.get(f"{prefix}{path}")
        kinds_of_links = set[str]()
        for link in links(page.text):
            place = urljoin(f"{prefix}{path}", link.replace("&amp;", "&"))
            assert place.startswith(f"{prefix}/"), (path, link)
            # Of rows that differ in nothing but their ids, one.
            if (kind_of_link := place.partition("=")[0]) not in kinds_of_links:
                kinds_of_links.add(kind_of_link)
                assert client.get(place).status_code in (200, 303, 400, 405), (path, link)
    answer = client.post(f"{prefix}/pause", data={"listener": "forget", "back": "overview"})
    assert urljoin(f"{prefix}/pause", answer.headers["location"]) == f"{prefix}/?done=paused"
    answer = client.post(f"{prefix}/resume", data={"listener": "forget"})
    assert urljoin(f"{prefix}/resume", answer.headers["location"]).startswith(
        f"{prefix}/listener?name=forget"
    )


def test_the_place_without_a_slash_leads_to_the_one_with_it(app: ASGIApp) -> None:
    answer = client_of(stripped(app, "/a/b", told=True)).get("/a/b")
    assert answer.status_code == 307
    assert urljoin("/a/b", answer.headers["location"]) == "/a/b/"
