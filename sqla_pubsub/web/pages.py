"""From what a screen found to HTML.

Every address in a page is relative to the page, so that it is right wherever the dashboard is mounted and whatever a
proxy does to its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from sqla_pubsub import __version__
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.web import shown
from sqla_pubsub.web.access import Person
from sqla_pubsub.web.curves import HEIGHT, WIDTH

COLOURS = ("grey", "red", "orange", "yellow", "green", "blue", "purple")
THEMES = ("auto", "light", "dark")
THEME_COOKIE = "sqla_pubsub_theme"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a screen answers.

    Attributes:
        template: Name of the template, without its ending.
        values: What it shows.
        status: Of the answer.
    """

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


class Pages:
    """Renders pages, all with the same banner.

    Args:
        title: The name of the database.
        colour: Colour of the banner, one of `COLOURS`.

    Raises:
        ConfigurationError: The colour is unknown.
    """

    def __init__(self, title: str, colour: str) -> None:
        if colour not in COLOURS:
            raise ConfigurationError(f"colour={colour!r} is unknown. Give one of: {', '.join(COLOURS)}.")
        self._common = {"title": title, "colour": colour}

    def answer(self, request: Request, person: Person | None, page: Page) -> Response:
        """Return the answer to *request*; *person* is None where nobody has been asked for."""
        now = datetime.now(UTC)
        theme = request.cookies.get(THEME_COOKIE)
        html = (
            _environment()
            .get_template(f"{page.template}.html")
            .render(
                {
                    "base": base_of(request.scope),
                    "here": f"{route_path(request.scope).rpartition('/')[2]}?{request.url.query}",
                    "section": route_path(request.scope).rpartition("/")[2],
                    "person": person,
                    "operates": person is not None and person.operates,
                    "theme": theme if theme in THEMES else "auto",
                    "now": now,
                    "since": lambda time: shown.since(time, now),
                    **self._common,
                    **page.values,
                }
            )
        )
        return HTMLResponse(html, status_code=page.status)


@cache
def _environment() -> Environment:
    """Make the templates once for all dashboards of the process: to compile them takes a while."""
    environment = Environment(
        loader=PackageLoader("sqla_pubsub.web"),
        autoescape=True,
        # A value that a template misspells is an error, and no gap on the page.
        undefined=StrictUndefined,
        finalize=shown.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(version=__version__, curve_width=WIDTH, curve_height=HEIGHT)
    for filter_ in (shown.number, shown.size, shown.lasting, shown.moment, shown.cut):
        environment.filters[filter_.__name__] = filter_
    return environment


def base_of(scope: Scope) -> str:
    """Return how to come from the page of a request to the root of the dashboard.

    >>> base_of({"path": "/ops/no/such/page", "root_path": "/ops"})
    '../../'
    """
    return "../" * max(0, route_path(scope).count("/") - 1)


def route_path(scope: Scope) -> str:
    """Return the path below where the dashboard is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if root and (path == root or path.startswith(f"{root}/")) else path
