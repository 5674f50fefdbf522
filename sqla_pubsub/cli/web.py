"""``sqla-pubsub web``: the dashboard, served alone."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from sqlalchemy import Engine, create_engine

from sqla_pubsub.cli.phrases import examples
from sqla_pubsub.cli.project import Project, modules_argument, open_project, url_option
from sqla_pubsub.deliver.io.reconnect import KEEPALIVE
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.logs import LogSettings
from sqla_pubsub.process.named import found

_PORT = 8025
_CONNECTIONS = 4


@click.command(
    "web",
    short_help="Show the dashboard in a browser.",
    epilog=examples(
        "web", "web myapp.listeners --port 9000 --colour red",
        "web --host 0.0.0.0 --allowed-host ops.example --auth myapp.ops:authorize",
    ),
)  # fmt: skip
@modules_argument
@click.option(
    "--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="0 for a free one."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address; others than this machine need --auth."
)
@click.option(
    "--auth", metavar="NAME", help="Function that says who may see and act, such as myapp.ops:authorize."
)
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="HOST",
    help="Name by which it is opened; may be repeated. Requests for other names are refused.",
)  # fmt: skip
@click.option(
    "--trusted-origin", "trusted_origins", multiple=True, metavar="ORIGIN",
    help="Origin such as https://ops.example whose pages may send forms; may be repeated.",
)  # fmt: skip
@click.option(
    "--mask", metavar="NAME", help="Function that shows values to who may not act, such as myapp.ops:mask."
)
@click.option("--read-only", is_flag=True, help="Look only.")
@click.option("--title", help="Name in the banner. Default: the database.")
@click.option("--colour", default="grey", show_default=True, help="Colour of the banner.")
@url_option
def web(
    *,
    modules: Sequence[str],
    url: str | None,
    port: int,
    host: str,
    auth: str | None,
    allowed_hosts: Sequence[str],
    trusted_origins: Sequence[str],
    mask: str | None,
    read_only: bool,
    title: str | None,
    colour: str,
) -> None:
    """Show backlog, failures, dead letters and workers in a browser, and act on them.

    It is for who started it: the address that is printed can be opened once. Other people, and other machines, need
    --auth.
    """
    alone, serving = _parts("alone"), _parts("serving")
    place = serving.Place(host=host, port=port, names=tuple(allowed_hosts))
    if auth is None and not place.is_local:
        raise ConfigurationError(
            f"--host {host} can be reached from other machines, and nobody would be asked who they are. Give --auth "
            "myapp.ops:authorize, or leave out --host."
        )
    hosts = place.hosts()
    project = open_project(url, modules)
    authorize = None if auth is None else found(auth, "--auth")
    LogSettings().apply()
    with serving.bound(place) as listening:
        bound_port = listening.getsockname()[1]
        access = import_module("sqla_pubsub.web.access").Access
        key = alone.Key(bound_port, access.READ if read_only else access.OPERATE, alone.user_name())
        app = alone.alone(
            _engine(project), project.metadata, authorize=authorize, key=key, hosts=hosts, title=title, colour=colour,
            mask=None if mask is None else found(mask, "--mask"), trusted_origins=trusted_origins,
        )  # fmt: skip
        address = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}/"
        # In order, so that what runs can say how far it came.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        serving.serve(app, listening, lambda: _say(address, None if auth else key.token))


def _say(address: str, token: str | None) -> None:
    if token is None:
        click.echo(f"The dashboard is at {address}\nCtrl-C ends it.")
    else:
        click.echo(
            f"Open {address}?token={token}\nIt can be opened once, by one browser. Ctrl-C ends the server."
        )


def _engine(project: Project) -> Engine:
    if project.application is not None:
        return project.engine()
    return create_engine(
        project.url,
        pool_size=_CONNECTIONS,
        max_overflow=_CONNECTIONS,
        pool_pre_ping=True,
        connect_args=dict(KEEPALIVE),
    )


def _parts(name: str) -> Any:
    try:
        return import_module(f"sqla_pubsub.web.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sqla_pubsub"):
            raise
        raise ConfigurationError(
            f"the dashboard needs {error.name!r}, which is not installed. Run: pip install 'sqla-pubsub[web]'"
        ) from error
