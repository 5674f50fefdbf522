"""The dashboard as a program of its own: who gets in, by which names, and where it may listen."""

import re
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from sqla_pubsub.cli import cli
from sqla_pubsub.web import Access
from sqla_pubsub.web.alone import LOOPBACK, Key, alone
from tests.cli.project import Shop
from tests.waiting import wait_until
from tests.web.client import Client
from tests.web.conftest import by_header
from tests.web.shop import Base

pytestmark = pytest.mark.one_driver

HERE = {"host": "127.0.0.1:8025"}


def opened(shop: Engine, access: Access = Access.OPERATE) -> tuple[Client, Key]:
    key = Key(8025, access, "ada")
    return Client(alone(shop, Base.metadata, authorize=None, key=key, hosts=LOOPBACK), headers=HERE), key


def test_the_token_is_good_once_for_a_cookie_that_no_script_and_no_other_site_has(shop: Engine) -> None:
    client, key = opened(shop)
    token = key.token
    assert client.get("/").status_code == 403
    entered = client.get(f"/?token={token}")
    assert entered.status_code == 200
    cookie = entered.headers["set-cookie"]
    assert cookie.startswith("sqla_pubsub_8025=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert str(token) not in cookie
    assert '<meta http-equiv="refresh" content="0; url=./">' in entered.text
    # Else a browser asks for one that is not there, and says so in its console.
    assert '<link rel="icon"' in entered.text
    assert entered.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get("/").status_code == 200
    other = Client(client._app, headers=HERE)
    again = other.get(f"/?token={token}")
    assert again.status_code == 403
    assert "used already" in again.text
    assert "set-cookie" not in again.headers
    assert other.get("/").status_code == 403


@pytest.mark.parametrize("token", ["", "x", "None", "%00", "\u00e9"])
def test_another_token_lets_nobody_in_and_costs_the_right_one_nothing(shop: Engine, token: str) -> None:
    client, key = opened(shop)
    assert client.get("/", params={"token": token}).status_code == 403
    assert client.get("/").status_code == 403
    assert client.get(f"/?token={key.token}").status_code == 200


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_only_a_page_that_is_opened_uses_the_token_up(shop: Engine, method: str) -> None:
    client, key = opened(shop)
    client.request(method, f"/?token={key.token}")
    assert key.token is not None
    assert client.get(f"/letters?token={key.token}").status_code == 403
    assert key.token is not None


@pytest.mark.parametrize("cookie", ["", "x", "sqla_pubsub_8025=", "sqla_pubsub_8025=x", "sqla_pubsub_8026=x"])
def test_another_cookie_lets_nobody_in(shop: Engine, cookie: str) -> None:
    client, key = opened(shop)
    client.get(f"/?token={key.token}")
    assert Client(client._app, headers=HERE | {"cookie": cookie}).get("/").status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8025", 200), ("localhost:8025", 200), ("localhost", 200), ("[::1]:8025", 200), ("LOCALHOST:1", 200),
        ("evil.example", 421), ("evil.example:8025", 421), ("127.0.0.1.evil.example:8025", 421), ("localhost.", 421),
        ("", 421), ("localhost:8025@evil.example", 421), ("evil.example#localhost", 421),
    ],
)  # fmt: skip
def test_requests_for_other_names_than_this_machine_s_are_refused(
    shop: Engine, host: str, status: int
) -> None:
    """Else a site whose name leads to 127.0.0.1 for a moment would read the dashboard, and use the token."""
    client, key = opened(shop)
    client.get(f"/?token={key.token}")
    assert client.get("/", headers={"host": host}).status_code == status
    client, key = opened(shop)
    assert client.get(f"/?token={key.token}", headers={"host": host}).status_code == status
    assert (key.token is None) == (status == 200)


def test_read_only_is_to_look(shop: Engine) -> None:
    client, key = opened(shop, Access.READ)
    client.get(f"/?token={key.token}")
    assert client.get("/").status_code == 200
    answer = client.post("/pause", data={"listener": "mail"}, headers={"sec-fetch-site": "same-origin"})
    assert answer.status_code == 403


def test_with_a_function_of_its_own_there_is_no_token(shop: Engine) -> None:
    key = Key(8025, Access.OPERATE, "ada")
    app = alone(shop, Base.metadata, authorize=by_header, key=key, hosts=["ops.example"])
    client = Client(app, headers={"host": "ops.example"})
    assert client.get(f"/?token={key.token}").status_code == 403
    assert client.get("/", headers={"x-user": "bob"}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines, and nobody would be asked who they are. Give --auth"),
        (["--host", "192.0.2.1"], "Give --auth"),
        (["--host", "0.0.0.0", "--auth", "shop.ops:authorize"], "Say by which names it is opened: --allowed-host"),
        (["--host", "192.0.2.1", "--auth", "shop.ops:authorize"], "cannot be listened on"),
        (["--auth", "shop.ops:nobody"], "has no 'nobody'"),
        (["--auth", "shop.ops:number"], "authorize=7 is no function"),
        (["--colour", "pink"], "colour='pink' is unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_before_anything_listens(
    bare_shop: Shop, tmp_path: Path, arguments: list[str], said: str
) -> None:
    bare_shop.write("shop/ops.py", "def authorize(request): ...\nnumber = 7\n")
    done = bare_shop.run("web", "shop.listeners", "--port", "0", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Open http" not in done.stdout


def test_the_program_prints_an_address_logs_what_is_done_and_ends_in_order(shop_project: Shop) -> None:
    process = shop_project.start("web", "shop.listeners", "--port", "0", "--title", "a shop")
    log = shop_project.folder / "log"
    wait_until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 60, "the server")
    address = re.search(r"Open (http://127\.0\.0\.1:\d+/)\?token=(\S+)", log.read_text())
    assert address is not None, log.read_text()
    with httpx.Client(base_url=address[1]) as client:
        assert client.get("/").status_code == 403
        client.get("/", params={"token": address[2]})
        page = client.get("/")
        assert page.status_code == 200
        assert "a shop" in page.text
        assert "server" not in page.headers
        done = client.post("/pause", data={"listener": "ship"}, headers={"origin": address[1].rstrip("/")})
        assert done.status_code == 303
    process.terminate()
    assert process.wait(60) == 0, log.read_text()
    said = log.read_text()
    assert re.search(r"dashboard\.acted: pause by \S+: listener 'ship', note None", said)
    # The token is in no line but the one that gives it.
    assert said.count(address[2]) == 1


@pytest.fixture
def shop_project(bare_shop: Shop) -> Shop:
    bare_shop.install()
    return bare_shop


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.startswith("sqla_pubsub.web"):
            monkeypatch.delitem(sys.modules, name)
        elif name.partition(".")[0] == "starlette":
            monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(cli, ["web"])
    assert re.fullmatch(
        r"the dashboard needs 'starlette[\w.]*', which is not installed. Run: pip install 'sqla-pubsub\[web\]'",
        str(done.exception),
    )
