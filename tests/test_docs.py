"""The site is built without a warning, holds all that it links to, and loads nothing from elsewhere."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from sqla_pubsub import Listener, Publish, errors, testing
from sqla_pubsub import __all__ as public
from sqla_pubsub.asyncio import AsyncListener
from tests.absent import BLOCKING, absent_with
from tests.reader import ROOT

DOCS = ROOT / "docs"
BUILD = ("-q", "-W", "--keep-going", "-n", "-E", "-b", "html")
SPHINX = "from sphinx.cmd.build import main\nsys.exit(main(sys.argv[1:]))"


class Page(HTMLParser):
    """What a page can be linked by, links to, and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.add(values["href"])
        elif "src" in values:
            self.loaded.add(values["src"])


def _dead(site: Path) -> Iterator[str]:
    """Links and loads of the pages that lead nowhere, or to another host where nothing may be loaded from."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        here = path.relative_to(site)
        yield from (f"{here} loads {url}" for url in page.loaded if re.match(r"(\w+:)?//", url))
        inside = [url for url in page.links | page.loaded if not re.match(r"\w+:|//", url)]
        for url in inside:
            place, _, anchor = unquote(url).partition("#")
            target = (path.parent / place.partition("?")[0]).resolve() if place else path.resolve()
            if not target.exists():
                yield f"{here} links to {url}"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{here} links to {url}, an anchor that is not there"


def test_the_site_is_built_without_a_warning_and_without_a_dead_link(tmp_path: Path) -> None:
    """With no more than ``make docs`` installs for it; in one test, because to build it once takes longest."""
    site = tmp_path.resolve() / "site"
    extras = re.search(r"^build/venv\S+ EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert extras is not None
    absent = absent_with(extras[1].split(","))
    assert {"pytest", "celery"} <= absent
    built = subprocess.run(
        [sys.executable, "-c", BLOCKING.format(names=absent) + SPHINX, *BUILD, "-d", tmp_path / "doctrees", DOCS, site],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (built.returncode, built.stderr) == (0, "")
    assert sorted(_dead(site)) == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']+", styles) == []
    commands = (site / "reference/cli.html").read_text(encoding="utf-8")
    assert "--wait-for-migration" in commands
    assert "dead retry" in re.sub(r"<[^>]+>", "", commands)


def test_what_a_page_lacks_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">x</a><a href="b.html#gone">x</a><a href="c.html">x</a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="there">x</h1><script src="https://cdn.example/x.js"></script>')
    assert sorted(_dead(tmp_path)) == [
        "a.html links to b.html#gone, an anchor that is not there",
        "a.html links to c.html",
        "b.html loads https://cdn.example/x.js",
    ]


def test_every_page_of_the_site_is_in_its_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^[\w/-]+$", index, re.MULTILINE)
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    assert pages - {"index"} == set(listed)


@pytest.mark.parametrize("name", [*public, *(f"sqla_pubsub.testing.{name}" for name in testing.__all__)])
def test_every_public_name_is_in_the_api_reference_or_among_the_errors(name: str) -> None:
    reference = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    assert hasattr(errors, name) or re.search(rf"^\.\. auto\w+:: {name}(\(.*\))?$", reference, re.MULTILINE)


@pytest.mark.parametrize("of", [Publish, Listener, AsyncListener])
def test_a_signature_that_the_reference_shortens_has_parameters_that_are_there(of: type) -> None:
    reference = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    shown = re.search(rf"^\.\. autoclass:: (?:[\w.]+\.)?{of.__name__}\((.*)\)$", reference, re.MULTILINE)
    assert shown is not None
    names = re.findall(r"(\w+)(?:=|,|$)", re.sub(r"=[^,]*", "=", shown[1]))
    assert set(names) <= set(inspect.signature(of).parameters)


def test_every_error_is_in_the_table_of_errors() -> None:
    table = (DOCS / "reference/errors.md").read_text(encoding="utf-8")
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PubSubError)
    }
    assert classes - set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {"PubSubError"}
