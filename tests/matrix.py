"""Alembic's own test suite with our plugin installed: ``make test-matrix``.

Whoever installs us has the plugin in every project, so what Alembic promises must hold beside it. Its tests come with
its source distribution; each release is run in an environment of its own in a cache folder, on PostgreSQL and on SQLite.

Usage: python -m tests.matrix [RELEASE ...] [--pytest ARGUMENT]
"""

import argparse
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from sqla_pubsub.testing.binaries import found_servers
from tests.servers import Server, Servers

OLDEST = "1.18.0"
NEWEST = "newest"
_OF_ITS_TIME = {OLDEST: "SQLAlchemy<2.1"}
"""The SQLAlchemy whose SQL the suite of a release expects; beside a later one it fails by itself."""
_EXTENSIONS = {"citext", "hstore"}
HERE = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sqla-pubsub" / "matrix"


def main() -> int:
    """Run the suite of each release on each database; return 1 if any of it fails."""
    parser = argparse.ArgumentParser(
        prog="tests.matrix", description="Alembic's tests with our plugin installed."
    )
    parser.add_argument("releases", nargs="*", default=[OLDEST, NEWEST])
    parser.add_argument(
        "--pytest", action="append", default=[], help="an argument for pytest; can be repeated"
    )
    given = parser.parse_args()
    servers = Servers()
    try:
        server = _with_contrib(servers)
        results = []
        for release in given.releases:
            source = _source(release)
            python = _environment(source, _OF_ITS_TIME.get(release, "SQLAlchemy"))
            for name, url in (
                ("postgresql", _prepared(server.url(server.clone(), "psycopg2"))),
                ("sqlite", "sqlite://"),
            ):
                code = _run(python, source, url, given.pytest)
                results.append((source.name, name, code))
    finally:
        servers.close()
    for release, name, code in results:
        sys.stdout.write(f"{release} on {name}: {'passed' if code == 0 else f'failed, exit code {code}'}\n")
    return int(any(code for *_, code in results))


def _with_contrib(servers: Servers) -> Server:
    """Return the newest server that has the extensions which SQLAlchemy's testing plugin creates."""
    for version in sorted(found_servers(), reverse=True):
        server = servers.running(version)
        engine = create_engine(server.url("postgres"))
        with engine.connect() as connection:
            there = set(connection.execute(text("SELECT name FROM pg_available_extensions")).scalars())
        engine.dispose()
        if there >= _EXTENSIONS:
            return server
    raise SystemExit(
        "no PostgreSQL with citext and hstore found. Install one, such as Debian's postgresql-15."
    )


def _source(release: str) -> Path:
    """Return the unpacked source distribution of a release."""
    folder = CACHE / "sdist" / release
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.tar.gz")):
        wanted = "alembic" if release == NEWEST else f"alembic=={release}"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            wanted,
        ]
        subprocess.run([*pip, "--dest", str(folder)], check=True)
    archive = max(folder.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    if not unpacked.is_dir():
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    return unpacked


def _environment(source: Path, sqlalchemy: str) -> Path:
    """Return the interpreter of an environment with this release, a SQLAlchemy and our plugin."""
    folder = CACHE / "venv" / source.name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # In place: the suite loads its testing plugin from beside its tests.
    needed = [sqlalchemy, "pytest>8,<9", "pytest-xdist", "tzdata", "black", "psycopg2-binary"]
    subprocess.run([*pip, "--editable", str(source), "--editable", str(HERE), *needed], check=True)
    return python


def _prepared(url: str) -> str:
    """Return the URL of a database that has the schemas and extensions which the suite expects."""
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA test_schema"))
        connection.execute(text("CREATE SCHEMA test_schema_2"))
        # A name that the suite uses, and of which servers without locales know nothing.
        connection.execute(text('CREATE COLLATION IF NOT EXISTS "en_US" FROM "C"'))
        for extension in ("citext", "hstore"):
            if connection.scalar(
                text("SELECT count(*) FROM pg_available_extensions WHERE name = :name"), {"name": extension}
            ):
                connection.execute(text(f"CREATE EXTENSION {extension}"))
    engine.dispose()
    return url


def _run(python: Path, source: Path, url: str, arguments: list[str]) -> int:
    sys.stdout.write(f"{source.name} on {make_url(url).get_backend_name()}\n")
    sys.stdout.flush()
    suite = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "--dburi",
        url,
        *arguments,
    ]
    return subprocess.run(suite, cwd=source, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
