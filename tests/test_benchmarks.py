"""The programs of ``make bench``: what they refuse, what they compute, and that they measure."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from benchmarks.departures import ENGINES
from benchmarks.goals import EARLIER, Comparison, comparisons, series
from benchmarks.harness import handled
from benchmarks.harness.accounting import tally, wanted
from benchmarks.harness.adapter import OURS, known_peers, load
from benchmarks.harness.environments import REQUIREMENTS, Unavailable, interpreter, programs
from benchmarks.harness.harness import Refused, prepare
from benchmarks.harness.processes import Processes
from benchmarks.harness.redis import redis
from benchmarks.harness.results import Results
from benchmarks.harness.revisions import VARIABLE, commit_of
from benchmarks.harness.servers import postgres
from benchmarks.harness.tables import tables
from benchmarks.outlets import delay, depart, lateness, left_out, outlets, started
from benchmarks.own import Measured, Sizes
from benchmarks.processes import drain
from benchmarks.report import page
from benchmarks.shop import COPY, database, fill
from benchmarks.workloads import BY_NAME
from sqla_pubsub.testing.binaries import found_servers
from tests.outlets.engines import Engine
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[1]
POSTGRES = {"server_version": "18.4", "fsync": "on"}
ENVIRONMENT = {
    "postgres": POSTGRES, "cpus": 2, "cpu": "a processor", "machine": "Linux", "load1": 0.1,
    "reference": {"commits_per_s": 1000},
    "peers": {
        OURS: {"versions": {"SQLAlchemy": "2.1"}, "delivery": "exactly once"},
        "pgqueuer": {"versions": {"pgqueuer": "1.6"}, "delivery": "at least once"},
    },
}  # fmt: skip


def line(peer: str, workload: str, **figures: Any) -> dict[str, Any]:
    return {"peer": peer, "workload": workload, "processes": 2, "n": 1000, "opts": {}, **figures}


@pytest.fixture
def results() -> Results:
    results = Results()
    ours = [line(OURS, "drain_db", events_per_s=rate) for rate in (6000.0, 9000.0, 5000.0)]
    theirs = [line("pgqueuer", "drain_db", events_per_s=4000.0)]
    results.environment = ENVIRONMENT
    results.add([*ours, *theirs])
    return results


def said(module: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """What a program answers on stderr, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--peers", "nobody"], "peer 'nobody' is unknown. Allowed are: all, raw_listen,"),
        (["--beside", "nowhere"], "--beside 'nowhere': git knows no such commit here."),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(arguments: list[str], sentence: str) -> None:
    code, stderr = said("benchmarks.run", *arguments)
    assert code == 2
    assert stderr.startswith(sentence)


def test_an_unknown_workload_is_refused_in_a_sentence() -> None:
    code, stderr = said("benchmarks.harness", "--workloads", "juggling")
    assert code == 2
    assert stderr.startswith("workload 'juggling' is unknown. Allowed are: all, produce_single,")


def test_a_folder_without_a_server_is_refused_in_a_sentence(tmp_path: Path) -> None:
    code, stderr = said("benchmarks.run", PG_BIN=str(tmp_path))
    assert code == 2
    assert stderr == (
        f"PG_BIN={tmp_path} holds no initdb and postgres. Give the folder with a server's programs, or unset it.\n"
    )


def test_another_server_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    version, folder = next(iter(found_servers().items()))
    monkeypatch.setenv("PG_BIN", str(folder))
    with postgres(fsync=False) as server:
        assert server.settings()["server_version"].startswith(str(version))
        assert server.settings()["fsync"] == "off"
        assert "postgres" in Path(f"/proc/{server.pid}/cmdline").read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what git archive takes is in a clone only")
def test_the_library_of_another_commit_comes_before_the_one_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv(VARIABLE, commit_of("HEAD"))
    peer = load("earlier")
    assert peer.unavailable() is None
    path = os.pathsep.join(map(str, peer.python_path()))
    processes = Processes(tmp_path, {"PYTHONPATH": path}, Path(sys.executable).parent)
    found = "import sqla_pubsub, benchmarks; print(sqla_pubsub.__file__, benchmarks.__file__)"
    processes.start_consumers([([sys.executable, "-c", found], {})])
    assert processes.consumers[0].wait(60) == 0, processes.said("consumer0")
    library, harness = processes.said("consumer0").split()
    assert Path(library).is_relative_to(tmp_path)
    assert Path(harness).is_relative_to(ROOT)


def test_without_a_redis_server_a_system_that_needs_it_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        ExitStack() as stack,
        pytest.raises(Refused, match=r"celery: it needs redis-server.* apt install redis-server"),
    ):
        prepare(["celery"], redis_server=lambda: stack.enter_context(redis()), leave_out=False)


def test_of_all_systems_those_that_cannot_run_are_left_out_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(VARIABLE, raising=False)
    with ExitStack() as stack:
        ready, left_out = prepare(
            ["celery", "earlier", OURS], redis_server=lambda: stack.enter_context(redis()), leave_out=True
        )
    assert [each.peer.name for each in ready] == [OURS]
    assert [sentence.partition(":")[0] for sentence in left_out] == ["celery", "earlier"]


def test_without_a_new_enough_interpreter_it_says_which_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(Unavailable, match=r"needs Python 3\.99 or newer.* pyenv install 3\.99"):
        interpreter("# python >= 3.99\nsomething==1.0\n")


def test_a_shim_that_runs_nothing_is_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(Unavailable):
        interpreter("# python >= 3.99\n")


@pytest.mark.slow
def test_packages_that_cannot_be_installed_leave_no_environment_that_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would start what is half there."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    peer = load("procrastinate")
    for _ in range(2):
        with pytest.raises(
            Unavailable, match=r"benchmarks/requirements/procrastinate\.txt names cannot be installed"
        ):
            programs(peer)


@pytest.mark.parametrize("name", known_peers())
def test_each_adapter_can_be_read_without_its_system_and_says_what_it_promises(name: str) -> None:
    peer = load(name)
    assert peer.name == name
    assert peer.packages
    assert peer.delivery
    assert {*peer.rows} <= {*BY_NAME}
    assert peer.environment is None or (REQUIREMENTS / f"{peer.environment}.txt").is_file()


def test_every_file_of_requirements_belongs_to_an_adapter() -> None:
    assert {path.stem for path in REQUIREMENTS.iterdir()} == {
        load(name).environment for name in known_peers()
    } - {None}


def test_every_workload_of_a_series_and_of_a_row_is_described() -> None:
    measured = {name for one in series(["earlier", "pgqueuer"]) for name in one.workloads}
    assert measured == {*BY_NAME}
    for row in comparisons():
        assert {row.workload, row.against_workload or row.workload} <= {*BY_NAME}


def test_a_table_has_medians_and_says_why_there_are_none(runs: list[dict[str, Any]]) -> None:
    written = tables(runs)
    assert "| a | 2 | 10 | 1 | 1,000 |" in written
    assert "| b | 1 | - | - | stores nothing |" in written


@pytest.fixture
def runs() -> list[dict[str, Any]]:
    return [
        line("a", "drain", processes=2, n=10, events_per_s=1000.0),
        line("b", "drain", processes=1, n=10, skipped="stores nothing"),
    ]


def test_records_of_handlers_show_what_was_lost_and_what_was_handled_twice(tmp_path: Path) -> None:
    handled.configure(tmp_path)
    for comment, listener in ((1, 0), (1, 1), (2, 0), (2, 0), (99, 0)):
        handled.handled(comment, listener)
    counted = tally(handled.read(tmp_path), wanted([1, 2], listeners=2))
    figures = counted.figures()
    assert (figures["expected"], figures["handled"]) == (4, 4)
    assert (figures["lost"], figures["duplicates"]) == (1, 1)
    assert not counted.complete


@pytest.mark.slow
def test_ours_and_the_limit_run_from_this_tree_alone_and_lose_nothing(tmp_path: Path) -> None:
    """As on a fresh clone: with nothing beside it, and nothing made before."""
    runs, cache = tmp_path / "runs.jsonl", tmp_path / "cache"
    workloads = ("produce_single", "drain_db", "drain_lazy", "drain_4", "live")
    code, stderr = said(
        "benchmarks.harness", "--peers", f"{OURS},raw_skiplocked", "--workloads", ",".join(workloads),
        "--rows", "120", "--fast", "--out", str(runs), BENCH_CACHE=str(cache),
    )  # fmt: skip
    assert code == 0, stderr
    results = Results()
    results.add([json.loads(each) for each in runs.read_text(encoding="utf-8").splitlines()][1:])
    assert results.wrong() == []
    assert results.value(OURS, "drain_4", "handled") == 4 * 120
    for workload in workloads:
        figure = "rows_per_s" if workload == "produce_single" else "events_per_s"
        assert results.value(OURS, workload, figure) is not None
    assert results.value("raw_skiplocked", "drain_db", "events_per_s") is not None
    assert not cache.exists()


def test_the_median_is_compared_with_that_of_the_other(results: Results) -> None:
    comparison = Comparison(
        workload="drain_db", figure="events_per_s", title="events/s", against="pgqueuer", goal=1.2
    )
    assert comparison.row(results) == [
        "`drain_db`: events/s", "pgqueuer", "4,000", "6,000", "1.50", ">= 1.2: reached"
    ]  # fmt: skip


def test_a_variant_is_compared_with_what_ran_beside_it(results: Results) -> None:
    beside = [line(OURS, "drain_db", events_per_s=300.0), line("pgqueuer", "drain_db", events_per_s=600.0)]
    results.add(beside, "batch=500")
    comparison = Comparison(
        workload="drain_db", figure="events_per_s", title="events/s", against="pgqueuer", option="batch=500",
        goal=0.6,
    )  # fmt: skip
    assert comparison.row(results) == [
        "`drain_db`: events/s", "pgqueuer", "600", "300", "0.50", ">= 0.6: missed"
    ]  # fmt: skip


def test_a_variant_that_the_library_had_not_yet_is_not_compared_with_another_one(results: Results) -> None:
    results.add([line(OURS, "drain_db", events_per_s=300.0)], "concurrency=10")
    results.add([line(EARLIER, "drain_db", events_per_s=600.0)])
    comparison = Comparison(
        workload="drain_db", figure="events_per_s", title="events/s", against=EARLIER, option="concurrency=10"
    )
    assert comparison.row(results) is None


def test_what_was_not_measured_has_no_row(results: Results) -> None:
    rows = [each for each in comparisons() if each.row(results) is not None]
    assert {(each.workload, each.against) for each in rows} == {("drain_db", "pgqueuer")}


def test_lost_events_and_failed_runs_are_named(results: Results) -> None:
    results.add(
        [
            line(OURS, "drain_db", db_lost=3, db_duplicates=0), line(OURS, "live", error="no\nmore"),
            line("pgqueuer", "burst", complete=False),
        ]
    )  # fmt: skip
    assert results.wrong() == [
        f"{OURS} drain_db: 3 events lost", f"{OURS} live: no", "pgqueuer burst: did not finish in time"
    ]  # fmt: skip
    assert len(results.wrong(OURS)) == 2


def test_the_page_names_machine_versions_and_settings_beside_the_tables(results: Results) -> None:
    own = [Measured(what="memory", value="50 MB", goal="< 120 MB", reached=True)]
    results.left_out.append("celery: it needs redis-server")
    written = page(results, own, repeats=3, scale=0.5, minutes=5.0)
    assert "2 x a processor" in written
    assert "SQLAlchemy 2.1" in written
    assert "pgqueuer: pgqueuer 1.6; at least once" in written
    assert "PostgreSQL 18.4, over a unix socket: fsync = on." in written
    assert "- Left out, celery: it needs redis-server." in written
    assert "fsync = on" in written
    assert "| `drain_db`: defaults, events/s | pgqueuer | 4,000 | 6,000 | 1.50 | >= 1.2: reached |" in written
    assert "| memory | 50 MB | < 120 MB: reached |" in written
    systems = written.partition("## All systems")[2].partition("## By itself")[0]
    assert re.findall(r"^\| (\w+) \| 2 \| 1,000 \| (\d) ", systems, re.MULTILINE) == [
        (OURS, "3"),
        ("pgqueuer", "1"),
    ]


def test_worker_processes_share_a_backlog_and_tell_what_it_took(server: Server) -> None:
    with database(server.url("postgres"), COPY) as engine:
        fill(engine, 600)
        drained = drain(engine, [COPY], [COPY], workers=2)
        with engine.connect() as connection:
            copied = connection.scalar(text("SELECT count(DISTINCT comment_id) FROM result"))
    assert drained.settled == copied == 600
    assert 0 < drained.rate < 1e6
    assert 10 < drained.peak_megabytes < 200


def test_every_module_of_an_engine_is_measured_with_settings_of_its_own() -> None:
    modules = {path.stem for path in (ROOT / "benchmarks/departures").glob("*.py")}
    assert len(ENGINES) == len(modules - {"__init__", "departure"})
    for name, departure in ENGINES.items():
        assert departure.outlet.settings_name == name


def test_an_engine_that_is_not_there_has_no_row_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, departure in ENGINES.items():
        monkeypatch.setitem(ENGINES, name, replace(departure, missing="it is not installed"))
    assert list(outlets("nowhere", Sizes())) == []
    assert len(left_out()) == len(ENGINES)
    assert "events into Kafka: it is not installed" in left_out()


@pytest.mark.parametrize(
    ("late", "arrived", "rate", "value", "reached"),
    [
        (0.02, 3_000, 990.0, "20.0 ms", True),
        (0.5, 3_000, 990.0, "500.0 ms", False),
        (0.5, 3_000, 600.0, "500.0 ms (falls behind: 600 events/s arrive)", False),
        (0.01, 2_000, 50.0, "10.0 ms (2,000 of 3,000 arrived)", False),
    ],
)
def test_a_delay_says_when_not_all_arrived_or_more_was_written_than_arrives(
    late: float, arrived: int, rate: float, value: str, *, reached: bool
) -> None:
    row = lateness("Kafka", [late] * arrived, 3_000, rate)
    assert (row.value, row.reached) == (value, reached)


@pytest.fixture(params=ENGINES)
def there(request: pytest.FixtureRequest) -> Iterator[tuple[str, Engine]]:
    """An engine that events leave for, with its name."""
    departure = ENGINES[request.param]
    if departure.missing is not None:
        pytest.skip(departure.missing)
    with started(departure) as engine:
        yield request.param, engine


@pytest.mark.slow
def test_events_leave_for_an_engine_by_an_outlet_by_a_handler_and_by_its_client_library(
    server: Server, there: tuple[str, Engine]
) -> None:
    name, engine = there
    for how in ("handler", "library", "relay"):
        done = depart(server.url("postgres"), name, how, engine, 2_000)
        assert done.settled == 2_000
        assert done.rate > 0
    assert len({event.id for event in engine.read()}) == 2_000


@pytest.mark.slow
def test_a_consumer_of_an_engine_has_all_that_is_written_in_a_second(
    server: Server, there: tuple[str, Engine]
) -> None:
    name, engine = there
    row = delay(server.url("postgres"), name, engine, replace(Sizes(), idle=1))
    assert " arrived)" not in row.value
    assert 0 < float(row.value.split()[0].replace(",", "")) < 60_000
