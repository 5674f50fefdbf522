"""In headless Chromium: every screen and every action, with and without a script, by keyboard, at every place and width."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import Engine, text

from sqla_pubsub import Admin
from sqla_pubsub.operate.dead_letters import Letters
from sqla_pubsub.web import Access, dashboard
from tests.reader import ROOT
from tests.web import pictures
from tests.web.browser import LOOKING, PHONE, PLACES, WIDE, chromium, opened, places, served
from tests.web.shop import LONG, Base

pytestmark = pytest.mark.one_driver


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def origin(shop: Engine) -> Iterator[str]:
    with served(places(shop)) as origin:
        yield origin


@pytest.fixture(scope="module")
def admin(shop: Engine) -> Admin:
    return Admin(shop, Base.metadata)


def an_id(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        found = connection.scalar(text(query))
    assert isinstance(found, int)
    return found


@pytest.fixture
def waiting(shop: Engine) -> int:
    """The id of an entry that waits for its retry."""
    return an_id(shop, "SELECT min(id) FROM pubsub_outbox WHERE due_at > now() AND listener = 'index'")


@pytest.fixture
def screens(shop: Engine, waiting: int) -> dict[str, str]:
    """Every screen, and the heading that tells it."""
    letter = an_id(shop, "SELECT max(id) FROM pubsub_dead_letter WHERE listener = 'mail'")
    held = an_id(shop, "SELECT max(id) FROM pubsub_outbox WHERE listener = 'index'")
    return {
        "": "Overview",
        "listener?name=mail": "mail",
        "listener?name=index": "index",
        f"listener?name={LONG}": LONG,
        f"entry?id={waiting}": f"Entry {waiting}",
        f"entry?id={held}": f"Entry {held}",
        f"letter?id={letter}": f"Dead letter {letter}",
        "letter?id=900000001": "Dead letter 900000001",
        "letters": "Dead letters",
        f"letters?listener=mail&error=ValueError&context={quote('tenant=acme')}&newer=4w": "Dead letters",
        "workers": "Workers",
        "system": "System",
    }


def fits(page: Page) -> bool:
    """Whether the page needs no scrolling to the side."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


LOOKS: dict[str, dict[str, Any]] = {
    "wide, light": {"viewport": WIDE, "color_scheme": "light"},
    "phone, dark": {"viewport": PHONE, "color_scheme": "dark", "has_touch": True, "is_mobile": True},
    "wide, dark, no script": {"viewport": WIDE, "color_scheme": "dark", "java_script_enabled": False},
    "phone, light, no script": {"viewport": PHONE, "color_scheme": "light", "java_script_enabled": False},
}


@pytest.mark.parametrize(
    ("place", "look"),
    [
        ("root", "wide, light"), ("mounted", "phone, dark"), ("stripped", "wide, dark, no script"),
        pytest.param("mounted", "phone, light, no script", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_screen_is_whole_wherever_and_however_it_is_looked_at(
    browser: Browser, origin: str, screens: dict[str, str], place: str, look: str
) -> None:
    with opened(browser, origin, **LOOKS[look]) as page:
        for path, heading in screens.items():
            answer = page.goto(f"{origin}{PLACES[place]}/{path}")
            assert answer is not None
            assert answer.status == 200
            expect(page.locator("h1")).to_have_text(heading)
            assert page.locator("nav [aria-current]").count() == (0 if path.startswith("entry") else 1), path
            assert fits(page), (place, look, path)
            live = page.locator(".live")
            expect(live).to_be_hidden() if "no script" in look or path.startswith("letter?") else expect(
                live
            ).to_be_visible()


def test_every_link_of_who_may_look_leads_to_a_page_without_a_button_that_acts(
    browser: Browser, origin: str
) -> None:
    with opened(browser, origin, java_script_enabled=False) as page:
        seen, left = set[str](), [f"{origin}{LOOKING}/"]
        while left:
            address = left.pop(0)
            answer = page.goto(address)
            assert answer is not None
            assert answer.status == 200, address
            assert page.locator("main button").all_text_contents() in ([], ["Apply"]), address
            seen.add(address)
            for link in page.locator("a[href]").evaluate_all("links => links.map(link => link.href)"):
                assert link.startswith(f"{origin}{LOOKING}/"), (address, link)
                # One of each kind: rows differ in nothing but their ids.
                place = link.partition("#")[0]
                if place.partition("=")[0] not in {other.partition("=")[0] for other in [*seen, *left]}:
                    left.append(place)
        assert len(seen) >= 7


_DISTANCE = """wanted => {
  const all = [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, [tabindex='0']")]
    .filter((one) => one.checkVisibility());
  const at = all.indexOf(document.activeElement), to = all.indexOf(wanted);
  return [to > at ? to - at : all.length, to < at ? at - to : at < 0 ? all.length - to : all.length];
}"""


class Hands:
    """Does what a person does, by mouse or by keyboard alone.

    Args:
        page: The page.
        keyboard: Whether there is no mouse.
    """

    def __init__(self, page: Page, *, keyboard: bool) -> None:
        self.page = page
        self._keyboard = keyboard

    def press(self, name: str) -> None:
        """Press a button or follow a link of this name, the first in the page."""
        found = self.page.locator("button, a[href]").filter(visible=True)
        wanted = found.and_(self.page.get_by_role("button", name=name, exact=True)).or_(
            found.and_(self.page.get_by_role("link", name=name, exact=True))
        ).first  # fmt: skip
        if not self._keyboard:
            wanted.click()
            return
        self._tab_to(wanted)
        outline = wanted.evaluate("one => getComputedStyle(one).outlineStyle")
        assert outline != "none", f"{name}: where the focus is cannot be seen"
        self.page.keyboard.press("Enter")

    def write(self, label: str, value: str) -> None:
        """Write into the field of this label."""
        field = self.page.get_by_label(label, exact=True)
        if not self._keyboard:
            field.fill(value)
            return
        self._tab_to(field)
        self.page.keyboard.type(value)

    def _tab_to(self, wanted: Locator) -> None:
        """Press Tab, or Shift and Tab, until the focus is there; how often is known by counting what takes it."""
        expect(wanted).to_be_visible()
        # What takes the focus is counted when all of it is there.
        self.page.wait_for_load_state()
        forwards, backwards = wanted.evaluate(_DISTANCE)
        key, times = ("Tab", forwards) if forwards <= backwards else ("Shift+Tab", backwards)
        for _ in range(times):
            self.page.keyboard.press(key)
        expect(wanted).to_be_focused()


HANDS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "keyboard": ({"viewport": WIDE}, "mounted", True),
    "no script": ({"viewport": WIDE, "java_script_enabled": False}, "stripped", False),
    "phone": ({"viewport": PHONE, "is_mobile": True, "has_touch": True}, "root", False),
}


@pytest.fixture(params=["keyboard", "no script", pytest.param("phone", marks=pytest.mark.slow)])
def hands(request: pytest.FixtureRequest, browser: Browser, origin: str) -> Iterator[Hands]:
    options, place, keyboard = HANDS[request.param]
    with opened(browser, f"{origin}", **options) as page:
        page.goto(f"{origin}{PLACES[place]}/")
        yield Hands(page, keyboard=keyboard)


def paused(admin: Admin, listener: str) -> str | None:
    """The note of a listener that is paused, None where it is not."""
    [row] = [row for row in admin.status() if row.listener == listener]
    return None if row.paused is None else row.paused.note or ""


def test_listeners_are_paused_and_resumed(hands: Hands, admin: Admin) -> None:
    hands.press("Pause forget")
    expect(hands.page.get_by_text("The listener is paused")).to_be_visible()
    assert paused(admin, "forget") == ""
    hands.press("Resume forget")
    expect(hands.page.get_by_text("The listener goes on")).to_be_visible()
    assert paused(admin, "forget") is None
    hands.press("forget")
    hands.write("Why", "for a while")
    hands.press("Pause")
    expect(hands.page.get_by_text("by ada: for a while").first).to_be_visible()
    assert paused(admin, "forget") == "for a while"
    hands.press("Resume")
    expect(hands.page.get_by_role("button", name="Pause", exact=True).first).to_be_visible()
    assert paused(admin, "forget") is None


def test_letters_are_filtered_retried_and_discarded_one_by_one_and_by_the_page(
    hands: Hands, admin: Admin, shop: Engine
) -> None:
    _more_letters(shop, "a_few", 3)
    _more_letters(shop, "a_page", 52)
    newest = max(letter.id for letter in admin.dead_letters(Letters(listener="a_few")))
    hands.press("Dead letters")
    hands.write("Listener", "a_few")
    hands.press("Apply")
    page = hands.page
    expect(page.locator("#list")).to_have_text("3 letters that match")
    hands.press(f"Retry {newest}")
    expect(page.get_by_text("1 dead letter retried")).to_be_visible()
    hands.press(f"Discard {newest - 1}")
    expect(page.get_by_role("heading", name="Discard 1 dead letter?")).to_be_visible()
    hands.press("Discard it")
    expect(page.get_by_text("1 dead letter discarded")).to_be_visible()
    page.goto(page.url.partition("letters?")[0] + "letters?listener=a_few")
    hands.press(str(newest - 2))
    expect(page.get_by_role("heading", name=f"Dead letter {newest - 2}")).to_be_visible()
    hands.press("Retry")
    expect(page.get_by_text("1 dead letter retried")).to_be_visible()
    hands.write("Listener", "a_page")
    hands.press("Apply")
    expect(page.locator("#list")).to_have_text("52 letters that match")
    hands.press("Older")
    # The page before has a link to discard it too.
    expect(page.locator("tr .row-actions")).to_have_count(2)
    hands.press("Discard this page")
    expect(page.get_by_role("heading", name="Discard 2 dead letters?")).to_be_visible()
    hands.press("Discard them")
    expect(page.get_by_text("2 dead letters discarded")).to_be_visible()
    hands.press("Retry this page")
    expect(page.get_by_text("50 dead letters retried")).to_be_visible()
    assert admin.count_dead(Letters(listener="a_few")) == admin.count_dead(Letters(listener="a_page")) == 0


@pytest.mark.parametrize(
    ("hands", "deed"),
    [
        ("keyboard", "Retry"),
        ("no script", "Discard"),
        pytest.param("phone", "Retry", marks=pytest.mark.slow),
    ],
    indirect=["hands"],
)
def test_all_that_match_go_on_by_themselves_while_the_page_shows_how_far(
    hands: Hands, admin: Admin, shop: Engine, deed: str
) -> None:
    _more_letters(shop, "all_of_them", 1_200)
    page = hands.page
    page.goto(page.url + "letters?listener=all_of_them")
    hands.press(f"{deed} all that match")
    expect(page.get_by_role("heading", name=f"{deed} 1,200 dead letters?")).to_be_visible()
    hands.press(f"{deed} them")
    expect(page.get_by_text("done", exact=True)).to_be_visible()
    expect(page.locator(".big")).to_have_text("1,200 of 1,200")
    assert admin.count_dead(Letters(listener="all_of_them")) == 0


def test_retries_run_now_and_entries_are_retried_and_discarded(
    hands: Hands, admin: Admin, shop: Engine
) -> None:
    with shop.begin() as connection:
        again = "UPDATE pubsub_outbox SET due_at = now() + interval '9 minutes', attempt = 1 WHERE id IN"
        connection.execute(
            text(f"{again} (SELECT id FROM pubsub_outbox WHERE listener = 'mail' ORDER BY id LIMIT 4)")
        )
        ids = connection.scalars(
            text(
                "SELECT id FROM pubsub_outbox WHERE listener = 'mail' AND due_at > now() ORDER BY id LIMIT 2"
            )
        ).all()
    page = hands.page
    hands.write("Event id", str(ids[0]))
    hands.press("Go")
    expect(page.get_by_role("heading", name=f"Entry {ids[0]}")).to_be_visible()
    hands.press("Retry now")
    expect(page.get_by_text("It is due now")).to_be_visible()
    hands.press("Discard")
    hands.press("Discard it")
    expect(page.get_by_text("The entry is discarded")).to_be_visible()
    assert admin.entry(ids[0], payload=False) is None
    hands.press("mail")
    hands.press("Run retries now")
    expect(page.get_by_text("due now.")).to_be_visible()
    entry = admin.entry(ids[1], payload=False)
    assert entry is not None
    assert entry.state == "ready"


@pytest.mark.in_turn("hands")
@pytest.mark.parametrize("hands", ["keyboard", "no script"], indirect=True)
def test_the_theme_is_switched_and_kept(hands: Hands) -> None:
    page = hands.page
    for theme in ("dark", "light", "auto"):
        hands.press(theme)
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        expect(page.get_by_role("button", name=theme)).to_have_attribute("aria-pressed", "true")
        page.goto(page.url)
        assert page.locator("html").get_attribute("data-theme") == theme


def test_a_page_renews_itself_and_leaves_alone_who_types(browser: Browser, origin: str, shop: Engine) -> None:
    with opened(browser, origin, viewport=WIDE) as page:
        page.goto(f"{origin}/letters?listener=fresh")
        field = page.get_by_label("Class of the error")
        field.focus()
        page.keyboard.type("Val")
        _more_letters(shop, "fresh", 1)
        expect(page.get_by_text("Waiting while you type")).to_be_visible()
        assert page.locator("tr[data-key]").count() == 0
        page.get_by_label("Event id").focus()
        expect(page.locator("#list")).to_have_text("1 letter that match")
        assert field.input_value() == "Val"
        page.get_by_role("button", name="Pause live updates").click()
        expect(page.get_by_text("Updates are paused")).to_be_visible()
        page.get_by_role("button", name="Resume live updates").click()
        expect(page.get_by_text("Live, as of")).to_be_visible()


def test_the_focus_stays_where_it_is_when_the_page_renews_itself(
    browser: Browser, origin: str, shop: Engine
) -> None:
    with opened(browser, origin, viewport=WIDE) as page:
        _more_letters(shop, "focused", 2)
        page.goto(f"{origin}/letters?listener=focused")
        last = page.locator("tr[data-key] .row-actions button").last
        last.focus()
        name = last.get_attribute("aria-label")
        _more_letters(shop, "focused", 2)
        expect(page.locator("#list")).to_have_text("4 letters that match")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == name


def test_the_head_is_skipped_by_the_keyboard(browser: Browser, origin: str) -> None:
    with opened(browser, origin, viewport=WIDE) as page:
        page.goto(f"{origin}/")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()


PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "dashboard-light.png": ("", {"viewport": {"width": 1100, "height": 640}, "color_scheme": "light"}),
    "dashboard-dark.png": (
        "letter?id={letter}",
        {"viewport": {"width": 1100, "height": 800}, "color_scheme": "dark"},
    ),
}


def test_the_pictures_of_the_manual_are_made_of_pages_as_they_are(
    browser: Browser, engine: Engine, tmp_path: Path
) -> None:
    """PUBSUB_PICTURES=docs/_static draws those of the manual anew."""
    letter = pictures.seed(engine)
    app = dashboard(
        engine, pictures.Base.metadata, authorize=lambda request: (Access.OPERATE, "ada"), title="articles, production",
        colour="red",
    )  # fmt: skip
    folder = Path(os.environ.get("PUBSUB_PICTURES") or tmp_path)
    with served(app) as origin:
        for name, (path, options) in PICTURES.items():
            with opened(browser, origin, **options) as page:
                page.goto(f"{origin}/{path.format(letter=letter)}")
                expect(page.locator("main")).to_be_visible()
                page.screenshot(path=folder / name, full_page="letter" in path)
            assert (folder / name).stat().st_size < 150_000
            assert (ROOT / "docs/_static" / name).exists()


def _more_letters(engine: Engine, listener: str, count: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO pubsub_dead_letter (id, listener, operation, source, key, new, attempt, reason)
                SELECT greatest((SELECT max(id) FROM pubsub_dead_letter), (SELECT max(id) FROM pubsub_outbox)) + n,
                  :listener, 'INSERT', 'item', to_jsonb(ARRAY[n]), json_build_object('id', n, 'name', 'item ' || n), 3,
                  'ValueError: no address'
                FROM generate_series(1, :count) AS n
                """
            ),
            {"listener": listener, "count": count},
        )
