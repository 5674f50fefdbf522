"""What events carry is shown as text, cut, whatever it is: nothing of it is obeyed, decoded or paid for."""

import html
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from time import process_time

import pytest
from sqlalchemy import Engine, insert, text

from sqla_pubsub import outbox
from sqla_pubsub.web import dashboard
from tests.web.client import Client
from tests.web.conftest import by_header, client_of
from tests.web.shop import HOSTILE, Base

pytestmark = pytest.mark.one_driver

MEGABYTE = "<b>x</b>" * 131_072
DIGITS = 1_000_000
DEEP = "[" * 5_000 + "]" * 5_000


@pytest.fixture
def stored(shop: Engine) -> Iterator[int]:
    """A dead letter with values that hurt who decodes them, written as a trigger writes them."""
    with shop.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO pubsub_dead_letter (id, listener, operation, source, key, old, new, context, attempt, reason)
                VALUES (900000002, 'mail', 'UPDATE', 'item', to_jsonb(ARRAY[CAST(:number AS numeric)]), CAST(:old AS json),
                  CAST(:new AS json), CAST(:context AS json), 1, 'ValueError: ' || :long)
                """
            ),
            {
                "number": "9" * 5_000,
                "old": json.dumps({"id": 1, "name": MEGABYTE, "same": "s"})[:-1]
                + f', "price": 1{"0" * DIGITS}, "deep": 1}}',
                "new": json.dumps({"id": 1, "name": MEGABYTE + "!", "same": "s"})[:-1]
                + f', "price": 2, "deep": {DEEP}}}',
                "context": json.dumps({"tenant": MEGABYTE, "n": 1}),
                "long": MEGABYTE,
            },
        )
    yield 900000002
    with shop.begin() as connection:
        connection.execute(text("DELETE FROM pubsub_dead_letter WHERE id = 900000002"))


def visible(page: str) -> str:
    """The text of a page."""
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def test_large_long_and_deep_values_are_cut_and_cost_nothing(ada: Client, stored: int) -> None:
    began = process_time()
    page = ada.get(f"/letter?id={stored}")
    assert page.status_code == 200
    assert process_time() - began < 2
    assert len(page.text) < 60_000
    said = visible(page.text)
    assert "1" + "0" * 1_999 in said
    assert f"{DIGITS + 1 - 2_000:,} more characters" in said
    assert "[[[[[[" in said
    assert "3 of 5 columns changed" in said
    assert "1,046,578 more characters" in said


def test_what_the_database_cannot_take_apart_is_shown_in_one_piece(shop: Engine, ada: Client) -> None:
    """The escape of a null character is JSON that a trigger can write, and that PostgreSQL does not read again."""
    stored = r'"a\u0000b"'
    with shop.begin() as connection:
        letter = text(
            "INSERT INTO pubsub_dead_letter (id, listener, operation, source, new, context, attempt, reason)"
            " VALUES (900000004, 'mail', 'INSERT', 'item', CAST(:new AS json), CAST(:context AS json), 1, 'x')"
        )
        connection.execute(
            letter, {"new": f'{{"id": 1, "extra": {stored}}}', "context": f'{{"n": {stored}}}'}
        )
    try:
        said = visible(ada.get("/letter?id=900000004").text)
        assert f'{{"id": 1, "extra": {stored}}}' in said
        assert f'{{"n": {stored}}}' in said
        assert "cannot be read" not in said
    finally:
        with shop.begin() as connection:
            connection.execute(text("DELETE FROM pubsub_dead_letter WHERE id = 900000004"))


def test_every_list_shows_such_a_letter_too(ada: Client, stored: int) -> None:
    for path in ("/letters", "/letters?listener=mail", "/listener?name=mail", "/"):
        answer = ada.get(path)
        assert answer.status_code == 200
        assert len(answer.text) < 200_000, path


@pytest.mark.parametrize("path", ["/letters", "/letter?id=900000001", "/", "/letters?listener=%3Cscript%3E"])
def test_markup_and_control_characters_are_text(ada: Client, path: str) -> None:
    page = ada.get(path).text
    assert "<script>" not in page
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_hostile_letter_is_shown_as_what_it_is(ada: Client) -> None:
    said = visible(ada.get("/letter?id=900000001").text)
    assert said.count("<script>alert(1)</script>") >= 6
    assert r"\x1b[2J\u202e" in said


def test_a_filter_that_is_hostile_is_text_in_the_form_and_in_links(ada: Client) -> None:
    page = ada.get("/letters", params={"listener": HOSTILE, "context": f"tenant={HOSTILE}"}).text
    assert "<script>alert" not in page
    assert visible(page).count("<script>") == 0 or "&lt;script&gt;" in page
    assert ada.get("/letters", params={"listener": HOSTILE}).text.count('data-key="900000001"') == 1


def test_the_difference_marks_what_differs_within_a_value(shop: Engine, ada: Client) -> None:
    letter = outbox(Base.metadata).DeadLetter
    with shop.begin() as connection:
        connection.execute(
            insert(letter).values(
                id=900000003, listener="mail", operation="UPDATE", source="item", key=[1], attempt=1, reason="x",
                old={"name": "a red hat", "price": 1, "gone": None}, new={"name": "a green hat", "price": 1, "came": True},
            )
        )  # fmt: skip
    page = ada.get("/letter?id=900000003").text
    assert "&#34;a <del>red</del> hat&#34;" in page.replace("&quot;", "&#34;")
    assert "&#34;a <ins>green</ins> hat&#34;" in page.replace("&quot;", "&#34;")
    assert page.count('<tr class="changed">') == 1


def test_who_may_look_sees_no_value_and_no_text_of_an_error(bob: Client) -> None:
    page = bob.get("/letter?id=900000001").text
    assert (
        "alert(1)"
        not in visible(page).replace("for <script>alert(1)</script>", "").split("What it carries")[1]
    )
    assert "Hidden" in page
    assert "ValueError" in page
    said = visible(bob.get("/letters?error=SMTPServerDisconnected").text)
    assert "SMTPServerDisconnected" in said
    assert "Connection unexpectedly closed" not in said
    assert "no address" not in visible(bob.get("/listener?name=mail").text)


def test_a_mask_decides_what_who_may_look_sees(shop: Engine) -> None:
    asked: list[tuple[str, str]] = []

    def mask(source: str, name: str, value: str) -> str | None:
        asked.append((source, name))
        return {"id": value, "context.tenant": "somebody"}.get(name)

    app = dashboard(shop, Base.metadata, authorize=by_header, mask=mask)
    with shop.connect() as connection:
        letter = connection.scalar(text("SELECT min(id) FROM pubsub_dead_letter WHERE listener = 'mail'"))
    bob = client_of(app, "bob")
    said = visible(bob.get(f"/letter?id={letter}").text)
    assert "somebody" in said
    assert chr(34) + "item" not in said
    assert "hidden" in said
    assert {name for _, name in asked} == {"id", "name", "price", "extra", "context.tenant", "error"}
    ada = client_of(app)
    assert chr(34) + "item" in visible(ada.get(f"/letter?id={letter}").text)


def test_a_row_whose_price_is_a_very_long_number_is_an_event_that_can_be_looked_at(
    shop: Engine, ada: Client
) -> None:
    with shop.begin() as connection:
        connection.execute(
            text("INSERT INTO item (id, name, price) VALUES (:id, 'long', :price)"),
            {"id": 5_000_000, "price": Decimal("7" * 100_000)},
        )
        entry = connection.scalar(text("SELECT max(id) FROM pubsub_outbox WHERE listener = 'mail'"))
    said = visible(ada.get(f"/entry?id={entry}").text)
    assert "7" * 2_000 in said
    assert "98,000 more characters" in said
