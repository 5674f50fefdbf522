"""The settings of a project: where its database is and which modules declare its listeners.

They stand in ``[tool.sqla-pubsub]`` of ``pyproject.toml`` or in ``alembic.ini``, the two files that a
project with migrations already has. A comparison that does not know all listeners would drop their
triggers, so a file that cannot be understood is an error and never an empty answer.
"""

from __future__ import annotations

import sys
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from configparser import ConfigParser, InterpolationError
from configparser import Error as IniError
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.frames import is_foreign

LISTENERS_OPTION = "sqla_pubsub.listeners"
"""The option in ``alembic.ini``."""
ENGINE_OPTION = "sqla_pubsub.engine"
"""Another one: the engine of the application."""

_SECTION = "[tool.sqla-pubsub]"
_KEYS = ("url", "engine", "listeners", "listen", "outlets")
_STOCK_URL = "driver://user:pass@localhost/dbname"
"""What ``alembic init`` writes: nobody's database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSettings:
    """What a project says about itself.

    Attributes:
        url: SQLAlchemy URL of the database, None where no file gives one.
        engine: Module and name of the application's own engine, used before ``url``.
        listeners: Dotted names of the modules that declare listeners, or patterns such as ``myapp.*``.
        listen: Settings of the listener process, as they stand in the file: fields of
            ``ListenerConfig``, durations in seconds.
        outlets: Settings of outlets, by name: ``url`` and what a client needs besides.
    """

    url: str | None = None
    engine: str | None = None
    listeners: tuple[str, ...] = ()
    listen: Mapping[str, Any] = field(default_factory=dict)
    outlets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)


def load_settings(
    start: Path | None = None, *, ini: Path | None = None, section: str = "alembic"
) -> ProjectSettings:
    """Read the settings; each one from ``pyproject.toml``, and where that lacks it from ``alembic.ini``.

    Args:
        start: Folder where the search begins, upwards; default: the current one.
        ini: The ``alembic.ini`` in use; default: the nearest one. A ``pyproject.toml`` at or above it
            counts where there is none at or above *start*.
        section: Section of ``alembic.ini``.

    Raises:
        ConfigurationError: A file cannot be read, or a setting has an unknown name or a wrong type.
    """
    start = (start or Path.cwd()).resolve()
    ini = ini or _nearest_ini(start)
    project = _from_pyproject(start)
    if project is None and ini is not None:
        project = _from_pyproject(ini.resolve().parent)
    project = project or ProjectSettings()
    fallback = ProjectSettings() if ini is None else _from_ini(ini, section)
    # Both say where the database is, so one of them in the first file goes before the other in the second.
    place = project if project.url or project.engine else fallback
    return ProjectSettings(
        url=place.url,
        engine=place.engine,
        listeners=project.listeners or fallback.listeners,
        listen=project.listen,
        outlets=project.outlets,
    )


def module_names(option: str) -> tuple[str, ...]:
    """Split what stands in an ini file, at commas, blanks and line ends.

    >>> module_names("shop.orders, shop.mails")
    ('shop.orders', 'shop.mails')
    """
    return tuple(option.replace(",", " ").split())


def import_modules(names: Iterable[str]) -> None:
    """Import the modules, so that what they declare is known. The current folder is importable.

    Args:
        names: Dotted names; ``*`` stands for any letters and any number of levels, so ``myapp.*`` is every module
            below ``myapp``. Folders of migrations and ``__main__`` are not among them.

    Raises:
        ConfigurationError: A module does not exist, no module fits a pattern, or an import fails.
    """
    here = str(Path.cwd())
    if not {here, ""} & set(sys.path):
        sys.path.insert(0, here)
    for name in names:
        for found in _matching(name) if "*" in name else [name]:
            _import(found)


def _matching(pattern: str) -> list[str]:
    root = ".".join(takewhile(lambda part: "*" not in part, pattern.split(".")))
    if not root:
        raise ConfigurationError(
            f"listener modules {pattern!r} name no package. Begin with one, such as 'myapp.*'."
        )
    _import(root)
    found = [name for name in _below(root) if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigurationError(
            f"no module fits {pattern!r}. Give the package above the listeners, such as 'myapp.*'; below a package with "
            "__init__.py each folder needs one of its own."
        )
    return found


def _below(package: str) -> Iterator[str]:
    """Yield the modules below *package*; for that the packages among them are imported."""
    module = sys.modules[package]
    folders = [Path(path) for path in getattr(module, "__path__", ())]
    # What Alembic's own command makes: its env.py is no module that can be imported.
    if any((folder / "script.py.mako").is_file() for folder in folders):
        return
    children = {info.name: info.ispkg for info in iter_modules([str(folder) for folder in folders])}
    if getattr(module, "__file__", None) is None:
        children |= {
            child.name: True for folder in folders for child in folder.iterdir() if _is_namespace(child)
        }
    for child in sorted(set(children) - {"__main__"}):
        name = f"{package}.{child}"
        yield name
        if children[child]:
            _import(name)
            yield from _below(name)


def _is_namespace(folder: Path) -> bool:
    return folder.is_dir() and folder.name.isidentifier() and any(folder.glob("*.py"))


def _import(name: str) -> None:
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigurationError(
                f"there is no module {name!r}: {missing!r} is not found. Give the dotted name of an importable "
                "module, such as 'myapp.listeners'; the current folder is searched too."
            ) from error
        raise ConfigurationError(
            f"module {name!r} cannot be imported: it needs {missing!r}, which is not found{_where(error)}. "
            "Install that first, or mend its name."
        ) from error
    except ConfigurationError as error:
        raise ConfigurationError(f"module {name!r}{_where(error)}: {error}") from error
    except Exception as error:
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        found = f"{type(error).__name__}: {words}".rstrip(".: ")
        raise ConfigurationError(
            f"module {name!r} cannot be imported: {found}{_where(error)}. Mend it first."
        ) from error


def _where(error: Exception) -> str:
    """Return file and line of the user's code that *error* comes from, the innermost there is."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        places.append((error.filename, error.lineno))
    for filename, line in reversed(places):
        path = Path(filename)
        if path.is_file() and not is_foreign(filename):
            here = Path.cwd()
            return f", at {path.relative_to(here) if path.is_relative_to(here) else path}:{line}"
    return ""


def _nearest_ini(start: Path) -> Path | None:
    found = (folder / "alembic.ini" for folder in (start, *start.parents))
    return next((path for path in found if path.is_file()), None)


def _from_pyproject(start: Path) -> ProjectSettings | None:
    """Read the nearest file that has our section: a package inside a larger project may have none."""
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            section = _section(path)
            if section is not None:
                return _checked(section, path)
    return None


def _section(path: Path) -> object:
    try:
        with path.open("rb") as file:
            tool = tomllib.load(file).get("tool", {})
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Mend the file.") from error
    return tool.get("sqla-pubsub") if isinstance(tool, dict) else None


def _checked(section: object, path: Path) -> ProjectSettings:
    if not isinstance(section, dict):
        raise ConfigurationError(f"{path}: {_SECTION} is no table. Write {_SECTION} on a line of its own.")
    unknown = [key for key in section if key not in _KEYS]
    if unknown:
        raise ConfigurationError(
            f"{path}: {_SECTION} has an unknown setting {unknown[0]!r}. Allowed are: {', '.join(_KEYS)}."
        )
    url, engine, listeners = section.get("url"), section.get("engine"), section.get("listeners", [])
    for name, value in (("url", url), ("engine", engine)):
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{path}: {name} of {_SECTION} is {value!r}. Give a string.")
    if url and engine:
        raise ConfigurationError(f"{path}: {_SECTION} has both url and engine. Keep the one that is meant.")
    if not isinstance(listeners, list) or not all(isinstance(name, str) and name for name in listeners):
        raise ConfigurationError(
            f"{path}: listeners of {_SECTION} is {listeners!r}. "
            'Give a list of modules, such as ["myapp.listeners"].'
        )
    listen = section.get("listen", {})
    if not isinstance(listen, dict):
        raise ConfigurationError(
            f"{path}: listen of {_SECTION} is {listen!r}. Write [tool.sqla-pubsub.listen]."
        )
    return ProjectSettings(
        url=url or None,
        engine=engine or None,
        listeners=tuple(listeners),
        listen=listen,
        outlets=_outlets(section.get("outlets", {}), path),
    )


def _outlets(found: object, path: Path) -> Mapping[str, Mapping[str, Any]]:
    tables = found if isinstance(found, dict) else {}
    if not isinstance(found, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigurationError(
            f"{path}: outlets of {_SECTION} is no table of tables. Write [tool.sqla-pubsub.outlets.kafka], for example."
        )
    for name, table in tables.items():
        if not isinstance(table.get("url", ""), str):
            raise ConfigurationError(
                f"{path}: url of [tool.sqla-pubsub.outlets.{name}] is no text. Give one in quotes."
            )
    return tables


def _from_ini(path: Path, section: str) -> ProjectSettings:
    parser = ConfigParser({"here": path.resolve().parent.as_posix()})
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
        listeners = parser.get(section, LISTENERS_OPTION, fallback="")
        engine = parser.get(section, ENGINE_OPTION, fallback="").strip()
        try:
            url = parser.get(section, "sqlalchemy.url", fallback="")
        except InterpolationError:
            # env.py supplies the missing value, and only Alembic runs that.
            url = ""
    except (OSError, ValueError, IniError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Mend the file.") from error
    return ProjectSettings(
        url=None if url in ("", _STOCK_URL) else url,
        engine=engine or None,
        listeners=module_names(listeners),
    )
