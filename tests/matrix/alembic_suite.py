"""Alembic's own test suite with our plugin installed.

Whoever installs us has the plugin in every project, so what Alembic promises must hold beside it. Its tests come with
its source distribution; each release is run in an environment of its own in a cache folder, on PostgreSQL and on SQLite.
"""

import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from sqla_pubsub.testing.binaries import found_servers
from tests.matrix.environments import CACHE, HERE, environment
from tests.servers import Server, Servers

OLDEST = "1.18.0"
NEWEST = "newest"
_OF_ITS_TIME = {OLDEST: "SQLAlchemy<2.1"}
"""The SQLAlchemy whose SQL the suite of a release expects; beside a later one it fails by itself."""
_EXTENSIONS = {"citext", "hstore"}
_NEEDED = ("pytest>8,<9", "pytest-xdist", "tzdata", "black", "psycopg2-binary")


def run(releases: Sequence[str], arguments: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Run the suite of each release on each database; yield what was run, and whether all of it passed."""
    servers = Servers()
    try:
        server = _with_contrib(servers)
        for release in releases:
            source = _source(release)
            # In place: the suite loads its testing plugin from beside its tests.
            needed = ["--editable", str(source), "--editable", str(HERE), *_NEEDED]
            sqlalchemy = _OF_ITS_TIME.get(release, "SQLAlchemy")
            python = environment(source.name, Path(sys.executable), [*needed, sqlalchemy])
            for name, url in (
                ("PostgreSQL", _prepared(server.url(server.clone(), "psycopg2"))),
                ("SQLite", "sqlite://"),
            ):
                yield f"{source.name}'s own tests on {name}", _run(python, source, url, arguments)
    finally:
        servers.close()


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


def _run(python: Path, source: Path, url: str, arguments: Sequence[str]) -> bool:
    sys.stdout.write(f"{source.name} on {make_url(url).get_backend_name()}\n")
    sys.stdout.flush()
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "--dburi", url, *arguments]
    return subprocess.run([python, *suite], cwd=source, check=False).returncode == 0
