"""The programs of ``make bench``: what they refuse, what they compute, and that they measure."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from benchmarks.goals import Comparison, comparisons, series
from benchmarks.harness import OURS, Harness, Refused, Results
from benchmarks.own import Measured
from benchmarks.processes import drain
from benchmarks.report import page
from benchmarks.shop import COPY, database, fill
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[1]
POSTGRES = {"server_version": "18.4", "fsync": "on"}
ENVIRONMENT = {
    "env": {
        "postgres": POSTGRES, "cpus": 2, "cpu": "a processor", "machine": "Linux", "load1": 0.1,
        "reference": {"commits_per_s": 1000},
    },
    "peers": {
        OURS: {"versions": {"SQLAlchemy": "2.1"}, "delivery": "exactly once"},
        "pgqueuer": {"versions": {"pgqueuer": "1.6"}, "delivery": "at least once"},
    },
}  # fmt: skip


def line(peer: str, workload: str, **figures: Any) -> str:
    return json.dumps({"peer": peer, "workload": workload, **figures})


@pytest.fixture
def results() -> Results:
    results = Results()
    ours = [line(OURS, "drain_db", events_per_s=rate) for rate in (6000.0, 9000.0, 5000.0)]
    theirs = [line("pgqueuer", "drain_db", events_per_s=4000.0)]
    results.add([json.dumps(ENVIRONMENT), *ours, *theirs], "")
    return results


def test_without_the_harness_it_says_what_to_do_and_ends_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run"],
        cwd=ROOT, env=os.environ | {"BENCH_HARNESS": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"no peer harness at {tmp_path}. Set BENCH_HARNESS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_harness_that_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("BENCH_HARNESS", str(tmp_path))
    with pytest.raises(Refused, match="ended with 1"):
        Harness().run(series(())[0], repeats=1, scale=1, seconds=1, into=Results())


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


def test_what_was_not_measured_has_no_row(results: Results) -> None:
    rows = [each for each in comparisons() if each.row(results) is not None]
    assert {(each.workload, each.against) for each in rows} == {("drain_db", "pgqueuer")}


def test_lost_events_and_failed_runs_are_named(results: Results) -> None:
    results.add(
        [
            line(OURS, "drain_db", db_lost=3, db_duplicates=0), line(OURS, "live", error="no\nmore"),
            line("pgqueuer", "burst", complete=False),
        ],
        "",
    )  # fmt: skip
    assert results.wrong() == [
        f"{OURS} drain_db: 3 events lost", f"{OURS} live: no", "pgqueuer burst: did not finish in time"
    ]  # fmt: skip
    assert len(results.wrong(OURS)) == 2


def test_the_page_names_machine_versions_and_settings_beside_the_tables(results: Results) -> None:
    own = [Measured(what="memory", value="50 MB", goal="< 120 MB", reached=True)]
    written = page(results, own, repeats=3, scale=0.5, server="18.4", minutes=5.0)
    assert "2 x a processor" in written
    assert "SQLAlchemy 2.1" in written
    assert "pgqueuer: pgqueuer 1.6; at least once" in written
    assert "PostgreSQL 18.4 beside others" in written
    assert "fsync = on" in written
    assert "| `drain_db`: defaults, events/s | pgqueuer | 4,000 | 6,000 | 1.50 | >= 1.2: reached |" in written
    assert "| memory | 50 MB | < 120 MB: reached |" in written


def test_worker_processes_share_a_backlog_and_tell_what_it_took(server: Server) -> None:
    with database(server.url("postgres"), COPY) as engine:
        fill(engine, 600)
        drained = drain(engine, [COPY], [COPY], workers=2)
        with engine.connect() as connection:
            copied = connection.scalar(text("SELECT count(DISTINCT comment_id) FROM result"))
    assert drained.settled == copied == 600
    assert 0 < drained.rate < 1e6
    assert 10 < drained.peak_megabytes < 200
