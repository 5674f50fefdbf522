"""The Python environments of other systems, each made from a file of requirements when it is first needed.

They stand in a cache folder, so that nothing is installed beside the library. A line ``# python >= X.Y`` of the
file asks for an interpreter that is new enough.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.adapter import ROOT, PeerBase

REQUIREMENTS = ROOT / "benchmarks/requirements"
_NEEDED = re.compile(r"^# python >= (\d+)\.(\d+)\s*$", re.MULTILINE)
_NEWER = 10
_NO_WRITING = {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}


class Unavailable(Exception):
    """Something that a system needs is not here; the message says what, and how to get it."""


def cache() -> Path:
    """Return the folder for all that is made: ``BENCH_CACHE``, else one in the user's cache."""
    if given := os.environ.get("BENCH_CACHE"):
        return Path(given).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sqla-pubsub/benchmarks"


def programs(peer: PeerBase) -> Path:
    """Return the folder of the system's interpreter and programs; make its environment if it is not up to date.

    Raises:
        Unavailable: There is no interpreter, or its packages cannot be installed.
    """
    if peer.environment is None:
        return Path(sys.executable).parent
    requirements = REQUIREMENTS / f"{peer.environment}.txt"
    folder = cache() / peer.environment
    wanted, stamp = requirements.read_text(encoding="utf-8"), folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        _make(peer.name, folder, requirements)
        stamp.write_text(wanted, encoding="utf-8")
    return folder / "bin"


def _make(name: str, folder: Path, requirements: Path) -> None:
    python = interpreter(requirements.read_text(encoding="utf-8"))
    print(f"{name}: making its environment in {folder} ...", file=sys.stderr, flush=True)
    _run(name, requirements, [python, "-m", "venv", "--clear", str(folder)])
    _run(
        name,
        requirements,
        [str(folder / "bin/pip"), "install", "--quiet", "--requirement", str(requirements)],
    )


def _run(name: str, requirements: Path, command: list[str]) -> None:
    done = subprocess.run(command, env=os.environ | _NO_WRITING, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["(it said nothing)"]
        raise Unavailable(
            f"{name}: what benchmarks/requirements/{requirements.name} names cannot be installed: {said[-1].strip()}"
        )


def interpreter(requirements: str) -> str:
    """Return a Python that is new enough: this one, or the oldest that fits on the PATH or under pyenv.

    Raises:
        Unavailable: There is none.
    """
    found = _NEEDED.search(requirements)
    needed = (int(found[1]), int(found[2])) if found else (0, 0)
    if sys.version_info[:2] >= needed:
        return sys.executable
    for candidate, version in _candidates(*needed):
        if _version(candidate) == version:
            return candidate
    raise Unavailable(
        f"it needs Python {needed[0]}.{needed[1]} or newer, and none is found on the PATH or under pyenv. "
        f"Install one, such as: pyenv install {needed[0]}.{needed[1]}"
    )


def _candidates(major: int, minor: int) -> Iterator[tuple[str, str]]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for version in (f"{major}.{each}" for each in range(minor, minor + _NEWER)):
        if on_path := shutil.which(f"python{version}"):
            yield on_path, version
        for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python")):
            yield str(path), version


def _version(python: str) -> str:
    """Ask it: a shim of pyenv may stand on the PATH and run nothing."""
    command = [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
