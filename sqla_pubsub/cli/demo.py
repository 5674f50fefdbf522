"""``sqla-pubsub demo``: the example of the source tree, from an empty database to handled events."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

from sqla_pubsub.cli.phrases import examples
from sqla_pubsub.errors import ConfigurationError

_MODULE = "examples.easy.demo"


@click.command(epilog=examples("demo"))
def demo() -> None:
    """Run the example: migrate, listen, write, compare. Needs nothing but the source tree.

    It starts a PostgreSQL and a mail server of its own and removes them at the end. Exit code 1 when a
    comment was not handled exactly once.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(_MODULE)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == _MODULE or _MODULE.startswith(f"{missing}."):
            raise ConfigurationError(
                f"the demo ({_MODULE}) is part of the source tree and not of the installed package. "
                "Get the source of sqla-pubsub and run there: make demo"
            ) from error
        raise ConfigurationError(
            f"the demo needs {missing!r}, which is not found. Run in the source tree: pip install -e '.[dev]'"
        ) from error
    sys.exit(module.main())
