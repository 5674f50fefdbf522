"""What every command needs first: the URL, the modules, a metadata, a connection."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

import click
from sqlalchemy import Engine, MetaData, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from sqla_pubsub.deliver.config import ListenerConfig
from sqla_pubsub.deliver.io.own_settings import PROGRAM
from sqla_pubsub.deliver.io.reconnect import denial, is_away, make_engine, refusal
from sqla_pubsub.deliver.log import log
from sqla_pubsub.deliver.settle.outcome import describe
from sqla_pubsub.errors import ConfigurationError, PubSubError, sqlstate
from sqla_pubsub.process.application import DRIVERS, application_engine, of_libpq
from sqla_pubsub.process.named import KEYS, Names, names_of
from sqla_pubsub.process.worker import find_metadata
from sqla_pubsub.registry import registries
from sqla_pubsub.rights import Duty
from sqla_pubsub.settings import ProjectSettings, import_modules, load_settings

URL_VARIABLE = "SQLA_PUBSUB_URL"
_MODULES = "sqla_pubsub.modules"
_Command = TypeVar("_Command", bound=Callable[..., Any])
_SECRETS = ("password", "sslpassword", "passfile", "sslkey")
"""Options that a URL may have behind the question mark."""

url_option = click.option(
    "--url", help=f"SQLAlchemy URL of the database. Default: ${URL_VARIABLE}, the settings files."
)
_MODULE: dict[str, Any] = {
    "multiple": True,
    "metavar": "MODULE",
    "help": "Listener module; may be repeated. Default: those of the settings files.",
}
module_option = click.option("-m", "--module", "modules", **_MODULE)


def modules_argument(command: _Command) -> _Command:
    """Let a command take its modules as arguments, or by the option that all commands have."""
    option = click.option("-m", "--module", callback=_keep, is_eager=True, expose_value=False, **_MODULE)
    return option(click.argument("modules", nargs=-1, callback=_either)(command))


def _keep(context: click.Context, _: click.Parameter, given: tuple[str, ...]) -> None:
    context.meta[_MODULES] = given


def _either(context: click.Context, _: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    by_option: tuple[str, ...] = context.meta.get(_MODULES, ())
    if given and by_option:
        raise ConfigurationError(
            f"modules are given twice: {' '.join(given)}, and --module {by_option[0]}. Give them in one of the two ways."
        )
    return given or by_option


class Unreachable(PubSubError):
    """The database does not answer for now: exit code 1, because trying again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The database and the declarations that a command works on.

    Attributes:
        url: Where the database is.
        awaited: The same for ``async def`` handlers, where the application's driver is asyncpg; else None.
        awaited_direct: The same of the settings' ``direct_url``.
        application: The name of the application's own engine, None where one is made from the URL.
        modules: Dotted names of the modules that declare listeners.
        metadata: What they declare.
        config: The settings of the listener process.
        names: What the settings name of the application.
        outlets: Settings of outlets, by name.
    """

    url: str
    awaited: str | None = None
    awaited_direct: str | None = None
    application: str | None = None
    modules: tuple[str, ...]
    metadata: MetaData
    config: ListenerConfig
    names: Names = field(default_factory=Names)
    outlets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def engine(self) -> Engine:
        """Return an engine for the database."""
        if self.application is not None:
            return application_engine(self.application)
        command = click.get_current_context(silent=True)
        return make_engine(self.url, PROGRAM if command is None else command.command_path)

    def direct(self) -> Project:
        """Return the same past a connection pooler, where the settings name such a URL."""
        url = self.config.direct_url
        return self if url is None else replace(self, url=url, application=None)


def open_project(url: str | None, modules: Sequence[str], listeners: Sequence[str] = ()) -> Project:
    """Read the settings and import the listener modules.

    Raises:
        ConfigurationError: Something is missing, unknown or cannot be imported.
    """
    settings, names = _imported(modules)
    return _project(url, settings, names, find_metadata(names, listeners))


def open_projects(url: str | None, modules: Sequence[str]) -> list[Project]:
    """Do the same for every metadata that has an outbox.

    Raises:
        ConfigurationError: As above, or none has.
    """
    settings, names = _imported(modules)
    found = [registry.metadata for registry in registries() if registry.in_use]
    if not found:
        raise ConfigurationError(
            f"nothing publishes in {', '.join(names)}. Add the PubSub mixin to a model, or declare a Message."
        )
    return [_project(url, settings, names, metadata) for metadata in found]


def _imported(modules: Sequence[str]) -> tuple[ProjectSettings, tuple[str, ...]]:
    settings = load_settings()
    names = tuple(modules) or settings.listeners
    if not names:
        raise ConfigurationError(
            "no listener module is given. Name one, as in 'sqla-pubsub listen myapp.listeners', "
            'or put listeners = ["myapp.listeners"] under [tool.sqla-pubsub] in pyproject.toml.'
        )
    import_modules(names)
    return settings, names


def _project(
    url: str | None, settings: ProjectSettings, names: tuple[str, ...], metadata: MetaData
) -> Project:
    given = url or os.environ.get(URL_VARIABLE)
    application = None if given else settings.engine
    awaited = None
    if application is None:
        found = given or settings.url
        if not found:
            raise ConfigurationError(
                f"no database URL is given. Use --url, {URL_VARIABLE}, url or engine under [tool.sqla-pubsub] in "
                "pyproject.toml, or sqlalchemy.url in alembic.ini."
            )
        place, awaited = with_driver(found), of_asyncpg(found)
    else:
        place = application_engine(application).url.render_as_string(hide_password=False)
    config, direct = listener_config(settings.listen), settings.listen.get("direct_url")
    return Project(
        url=place, awaited=awaited, awaited_direct=None if direct is None else of_asyncpg(direct),
        application=application, modules=names, metadata=metadata,
        config=config, names=names_of(settings.listen), outlets=settings.outlets,
    )  # fmt: skip


def listener_config(settings: Mapping[str, Any]) -> ListenerConfig:
    """Return the settings of ``[tool.sqla-pubsub.listen]``: durations in seconds, the rest as it is.

    Raises:
        ConfigurationError: One is unknown, of a wrong type or out of range.
    """
    known = {field.name: field.type for field in fields(ListenerConfig)}
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name in KEYS:
            continue
        if name not in known:
            raise ConfigurationError(
                f"[tool.sqla-pubsub.listen] has an unknown setting {name!r}. "
                f"Allowed are: {', '.join((*known, *KEYS))}."
            )
        kind = known[name]
        if kind == "timedelta":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigurationError(
                    f"[tool.sqla-pubsub.listen] {name} = {value!r}: give a number of seconds."
                )
            value = _seconds(name, value)  # noqa: PLW2901
        elif (kind == "bool") != isinstance(value, bool) or kind.startswith("int") != (type(value) is int):
            raise ConfigurationError(
                f"[tool.sqla-pubsub.listen] {name} = {value!r}: give a value of type {kind}."
            )
        values[name] = value
    if isinstance(values.get("direct_url"), str):
        try:
            values["direct_url"] = with_driver(values["direct_url"])
        except ConfigurationError as error:
            raise ConfigurationError(f"[tool.sqla-pubsub.listen] direct_url: {error}") from error
    try:
        return ListenerConfig(**values)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"[tool.sqla-pubsub.listen], where durations are seconds: {error}"
        ) from error


def _seconds(name: str, value: float) -> timedelta:
    try:
        return timedelta(seconds=value)
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(
            f"[tool.sqla-pubsub.listen] {name} = {value!r}: give a number of seconds that a clock can count."
        ) from error


def with_driver(url: str) -> str:
    """Return *url* with a driver that is installed; a bare one means psycopg2, else psycopg.

    One of asyncpg, which an application may have, means psycopg, else psycopg2: its options are translated.

    Raises:
        ConfigurationError: It is no URL, not one of PostgreSQL, or its driver cannot be used.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            "the database URL cannot be read. Give one such as postgresql+psycopg2://user@host:5432/database."
        ) from error
    backend, _, driver = parsed.drivername.partition("+")
    if backend not in ("postgresql", "postgres"):
        raise ConfigurationError(f"the database URL is one of {backend!r}. Give a postgresql:// URL.")
    asked = driver
    if driver == "asyncpg":
        parsed, driver = (
            parsed.set(query=of_libpq(parsed.query)),
            next(filter(find_spec, reversed(DRIVERS)), DRIVERS[1]),
        )
    driver = driver or next(filter(find_spec, DRIVERS), DRIVERS[0])
    if driver not in DRIVERS:
        raise ConfigurationError(f"driver {driver!r} is not supported. Use {' or '.join(DRIVERS)}.")
    complete = parsed.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
    try:
        make_engine(complete)
    except ImportError as error:
        found = "is not installed" if find_spec(driver) is None else f"cannot be imported: {error}"
        if asked == "asyncpg":
            found += ", and commands connect by it or by psycopg2 where the URL is one for asyncpg"
        raise ConfigurationError(
            f"driver {driver!r} {found}. Run: pip install 'sqla-pubsub[{driver}]'"
        ) from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigurationError(f"the database URL cannot be used: {describe(error)}. Mend it.") from error
    return complete


def of_asyncpg(url: str) -> str | None:
    """Return *url* where it is one of asyncpg, and asyncpg is installed; else None."""
    place = make_url(url)
    if place.drivername.partition("+")[2] != "asyncpg" or find_spec("asyncpg") is None:
        return None
    return place.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def failed(project: Project, error: DBAPIError, duty: Duty | None = None) -> PubSubError:
    """Return the sentence for a command whose statement failed: a missing right or table, or a server away."""
    engine = project.engine()
    refused = None if duty is None else denial(engine, project.metadata, duty, error, log)
    refused = refused or refusal(engine, project.metadata, error, log)
    if refused is not None:
        return refused
    place = make_url(project.url).difference_update_query(_SECRETS).render_as_string(hide_password=True)
    away = sqlstate(error) is None or error.connection_invalidated
    found = "cannot be reached" if away else "refused a statement"
    kind = Unreachable if is_away(error) else ConfigurationError
    hint = (
        " Check that the server runs, and host, port, user, password and database of the URL." if away else ""
    )
    return kind(f"the database at {place} {found}: {describe(error.orig or error)}.{hint}")
