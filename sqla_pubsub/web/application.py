"""The ASGI application: which address is which screen, who may ask for it, and what goes wrong in words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sqla_pubsub.errors import ConfigurationError, PubSubError
from sqla_pubsub.web import actions, letters, listener, machines, one, overview
from sqla_pubsub.web.access import Access, Authorize, Person, person_of
from sqla_pubsub.web.desk import Desk
from sqla_pubsub.web.filters import Unreadable, id_of
from sqla_pubsub.web.pages import THEME_COOKIE, THEMES, Page, Pages, route_path
from sqla_pubsub.web.payload import Mask
from sqla_pubsub.web.security import Guard, form_of
from sqla_pubsub.web.shared import sentence

Screen = Callable[[Desk, Request, Person], Page]
Asking = Callable[[Desk, Request], Page]
Action = Callable[[Desk, actions.Form, Person], str]
_STATIC = Path(__file__).parent / "static"
_FILES = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "mark.svg": "image/svg+xml"}
_YEAR = 365 * 86_400


Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: each framework has types of its own for what it is called with."""


def dashboard(
    engine: Engine,
    metadata: MetaData,
    *,
    authorize: Authorize,
    mask: Mask | None = None,
    title: str | None = None,
    colour: str = "grey",
    trusted_origins: Iterable[str] = (),
) -> Application:
    """Return the dashboard of an outbox, to be mounted in an ASGI application.

    .. versionadded:: 0.3.0

    Args:
        engine: The database; an ``Engine``, whose pool has some connections to spare. Statements of screens are
            read-only and end after 2 s.
        metadata: The metadata of your models.
        authorize: Called with each request (a ``starlette.requests.Request``), returns an `Access`, or ``(access, name)``
            with the name under which actions are logged; ``def``, called in a thread, or ``async def``. It may raise
            ``starlette.exceptions.HTTPException``, to send people to a login page for example.
        mask: What people with `Access.READ` see of values: called with the source, the name of the column and the text of
            the value, at most its first 2,000 characters, returns what is shown. For the context the name is ``context.``
            and the key, for texts of errors ``error``. Without it they see none of these.
        title: The name of the database in the banner; by default that of the engine's URL.
        colour: Of the banner: grey, red, orange, yellow, green, blue or purple.
        trusted_origins: Origins such as ``https://ops.example`` whose pages may send our forms, where a proxy in front
            hides the name that browsers use.

    Raises:
        ConfigurationError: An argument is none of these.
    """
    return build(
        engine, metadata, authorize=authorize, mask=mask, title=title, colour=colour,
        trusted_origins=trusted_origins, hosts=None,
    )  # fmt: skip


def build(
    engine: Engine,
    metadata: MetaData,
    *,
    authorize: Authorize,
    mask: Mask | None,
    title: str | None,
    colour: str,
    trusted_origins: Iterable[str],
    hosts: Collection[str] | None,
) -> ASGIApp:
    """Return the dashboard; *hosts* are the names that it answers for, None for any."""
    if not isinstance(engine, Engine):
        raise ConfigurationError(
            f"dashboard() was given {engine!r}. Give it an Engine: beside an AsyncEngine, "
            "create_engine() with the URL for psycopg makes one."
        )
    if not callable(authorize):
        raise ConfigurationError(
            f"authorize={authorize!r} is no function. Give one that takes a request and returns Access.NONE, READ or "
            "OPERATE: the dashboard lets nobody in by itself."
        )
    pages = Pages(title or engine.url.database or "database", colour)
    desk = Desk(engine, metadata, mask)
    door = _Door(desk, pages, authorize)
    app = Starlette(
        routes=door.routes(),
        exception_handlers={HTTPException: door.refused, Unreadable: door.unreadable},
    )
    # "/x/" is no page of ours, and the address that Starlette would send a browser to is an absolute one.
    app.router.redirect_slashes = False
    return Guard(_with_slash(app), trusted_origins=trusted_origins, hosts=hosts)


class _Door:
    """What stands between a request and a screen."""

    def __init__(self, desk: Desk, pages: Pages, authorize: Authorize) -> None:
        self._desk = desk
        self._pages = pages
        self._authorize = authorize

    def routes(self) -> list[Route]:
        """Return all addresses."""
        screens: dict[str, Screen] = {
            "/": overview.show, "/listener": listener.show, "/entry": one.entry, "/letter": one.letter,
            "/letters": letters.show, "/job": letters.job, "/workers": machines.workers, "/system": machines.system,
        }  # fmt: skip
        deeds: dict[str, Action] = {
            "/pause": actions.pause, "/resume": actions.resume, "/retry-now": actions.retry_now,
            "/retry": actions.retry, "/discard": actions.discard, "/stop-job": actions.stop_job,
            "/retry-entry": actions.retry_entry, "/discard-entry": actions.discard_entry,
        }  # fmt: skip
        asking: dict[str, Asking] = {
            "/retry": partial(letters.confirm, deed="retry"), "/discard": partial(letters.confirm, deed="discard"),
            "/discard-entry": one.confirm_discard,
        }  # fmt: skip
        return [
            *(Route(path, self._screen(show)) for path, show in screens.items()),
            *(Route(path, self._confirmation(ask)) for path, ask in asking.items()),
            *(Route(path, self._action(act), methods=["POST"]) for path, act in deeds.items()),
            Route("/find", self._find),
            Route("/theme", self._theme, methods=["POST"]),
            *(Route(f"/static/{name}", partial(_static, name)) for name in _FILES),
        ]

    def _screen(self, show: Screen) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            person = await self._person(request, Access.READ)
            return await self._desk.in_thread(
                lambda: self._pages.answer(request, person, show(self._desk, request, person))
            )

        return endpoint

    def _confirmation(self, ask: Asking) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            person = await self._person(request, Access.OPERATE)
            return await self._desk.in_thread(
                lambda: self._pages.answer(request, person, ask(self._desk, request))
            )

        return endpoint

    def _action(self, act: Action) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            person = await self._person(request, Access.OPERATE)
            form = await form_of(request)
            if form is None:
                raise Unreadable("This is no form of the dashboard, or it is too long.")
            try:
                place = await self._desk.in_thread(lambda: act(self._desk, form, person))
            except (SQLAlchemyError, PubSubError) as error:
                return self._sentence(request, person, HTTPStatus.SERVICE_UNAVAILABLE, sentence(error))
            return RedirectResponse(place, status_code=HTTPStatus.SEE_OTHER)

        return endpoint

    async def _person(self, request: Request, least: Access) -> Person:
        person = await person_of(self._authorize, request)
        request.state.person = person
        if person.access < least:
            needs = "see" if least is Access.READ else "act in"
            raise HTTPException(HTTPStatus.FORBIDDEN, f"You may not {needs} this dashboard.")
        return person

    async def _find(self, request: Request) -> Response:
        """Lead from an id, which a line of the log named, to what it is now."""
        await self._person(request, Access.READ)
        found = id_of(request.query_params.get("id", "").strip())
        if found is None:
            return RedirectResponse("./", status_code=HTTPStatus.SEE_OTHER)
        dead = await self._desk.in_thread(
            lambda: self._desk.shared.see(
                ("letter", found), lambda: self._desk.reader.dead_letter(found, payload=False)
            )
        )
        screen = "entry" if dead.value is None else "letter"
        return RedirectResponse(f"{screen}?id={found}", status_code=HTTPStatus.SEE_OTHER)

    async def _theme(self, request: Request) -> Response:
        await self._person(request, Access.READ)
        form = await form_of(request) or {}
        chosen, back = (next(iter(form.get(name, ())), "") for name in ("theme", "back"))
        answer = RedirectResponse(_inside(back), status_code=HTTPStatus.SEE_OTHER)
        if chosen in THEMES:
            # Without a path it is for the folder of this address, wherever we are mounted.
            answer.set_cookie(
                THEME_COOKIE, chosen, max_age=_YEAR, path=None, httponly=True, samesite="strict"
            )
        return answer

    async def refused(self, request: Request, error: Exception) -> Response:
        """Answer with a sentence what has no page."""
        assert isinstance(error, HTTPException)
        if error.status_code < HTTPStatus.BAD_REQUEST:
            return Response(status_code=error.status_code, headers=error.headers)
        detail = error.detail
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = "There is no such page."
        answer = self._sentence(request, None, HTTPStatus(error.status_code), detail)
        answer.headers.update(error.headers or {})
        return answer

    async def unreadable(self, request: Request, error: Exception) -> Response:
        """Answer a request that holds what cannot be read."""
        return self._sentence(
            request, getattr(request.state, "person", None), HTTPStatus.BAD_REQUEST, str(error)
        )

    def _sentence(self, request: Request, person: Person | None, status: HTTPStatus, said: str) -> Response:
        page = Page(template="sentence", status=status, values={"heading": status.phrase, "said": said})
        return self._pages.answer(request, person, page)


def _with_slash(app: ASGIApp) -> ASGIApp:
    """Send who asks for ``/ops``, where we are mounted, to ``/ops/``: to what is relative, they differ."""

    async def rooted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and route_path(scope) == "":
            folder = scope.get("root_path", "").rstrip("/").rpartition("/")[2]
            answer = RedirectResponse(f"{folder}/", status_code=HTTPStatus.TEMPORARY_REDIRECT)
            await answer(scope, receive, send)
            return
        await app(scope, receive, send)

    return rooted


async def _static(name: str, request: Request) -> Response:
    return Response((_STATIC / name).read_bytes(), media_type=_FILES[name])


def _inside(back: str) -> str:
    """Return the page of ours that a form names, and the first one for anything else."""
    name, _, query = back.partition("?")
    known = ("listener", "entry", "letter", "letters", "job", "workers", "system")
    return f"{name}?{query}" if name in known else "./"
