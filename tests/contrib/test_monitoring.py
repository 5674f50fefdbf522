"""The shipped alert rules and dashboard know our metrics, and Prometheus knows the rules."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from sqla_pubsub import after_insert
from sqla_pubsub.contrib.monitoring import ALERT_TESTS, ALERTS, DASHBOARD
from sqla_pubsub.contrib.prometheus import DatabaseGauges, Metrics, ProcessFigures, exposition
from sqla_pubsub.operate.totals import ListenerTotals, Totals
from tests.contrib.serving import serving
from tests.deliver.notes import Notes
from tests.reader import ROOT
from tests.servers import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

PROMTOOL = shutil.which("promtool")
no_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: install the package prometheus")

METRICS: dict[str, tuple[str, ...]] = {
    "sqla_pubsub_events_settled_total": ("listener", "outcome"),
    "sqla_pubsub_handler_duration_seconds": ("listener",),
    "sqla_pubsub_delivery_latency_seconds": ("listener",),
    "sqla_pubsub_handler_failures_total": ("listener", "error_type"),
    "sqla_pubsub_handlers_running": ("listener",),
    "sqla_pubsub_slots": ("listener",),
    "sqla_pubsub_groups_replayed_total": ("reason",),
    "sqla_pubsub_handler_timeouts_total": ("listener",),
    "sqla_pubsub_worker_deaths_total": (),
    "sqla_pubsub_connection_losses_total": ("role",),
    "sqla_pubsub_wakeups_total": ("reason",),
    "sqla_pubsub_backlog_events": ("listener", "state"),
    "sqla_pubsub_oldest_ready_age_seconds": ("listener",),
    "sqla_pubsub_dead_letters": ("listener",),
    "sqla_pubsub_outbox_bytes": (),
    "sqla_pubsub_outbox_dead_rows": (),
    "sqla_pubsub_xmin_age_seconds": (),
    "sqla_pubsub_workers": ("state",),
    "sqla_pubsub_up": (),
    "sqla_pubsub_scrape_errors_total": (),
    "sqla_pubsub_build_info": ("version",),
}
"""Each metric with its labels."""
OF_PROMETHEUS = {"le", "instance", "job", "alertname", "alertstate", "severity"}


def rules() -> list[Any]:
    [group] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"label_values\((\w+), (\w+)\)", r"sum by (\2) (\1)", variable["definition"])


def metric(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name) if name not in METRICS else name


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_metric_and_label_of_a_rule_and_of_the_dashboard_is_there(expression: str) -> None:
    named = {metric(name) for name in re.findall(r"\bsqla_pubsub_\w+", expression)}
    assert named
    assert named <= set(METRICS)
    grouped = {label for found in re.findall(r"by \(([\w, ]+)\)", expression) for label in found.split(", ")}
    matched = set(re.findall(r"[{,]\s*(\w+)(?:=~|!=|!~|=)", expression))
    known = {label for name in named for label in METRICS[name]}
    assert grouped | matched <= known | OF_PROMETHEUS


def test_the_metrics_are_those_that_are_collected(engine: Engine) -> None:
    notes = Notes(engine)
    after_insert(notes.Note, name="ship")(lambda new: None)
    notes.install()
    did = ListenerTotals(failures={"ValueError": 1})
    totals = Totals(listeners={"ship": did}, replays={"x": 1}, losses={"work": 1}, wakeups={"notified": 1})
    figures = ProcessFigures(workers={"connected": 1}, running={"ship": 1}, slots={"ship": 1})
    gauges = DatabaseGauges(engine, notes.metadata)
    # The first answer may be late, and is left out then; it is kept for the next one.
    wait_until(gauges.found, 60, "the figures of the database")
    metrics = Metrics(lambda: totals, gauges, lambda: figures)
    families = text_string_to_metric_families(exposition(metrics)().decode())
    found = dict[str, set[str]]()
    for family in families:
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                name = family.name if family.type == "histogram" else sample.name
                found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert found == {name: set(labels) for name, labels in METRICS.items()}


def test_the_dashboard_shows_every_metric() -> None:
    shown = {metric(name) for each in expressions() for name in re.findall(r"\bsqla_pubsub_\w+", each)}
    assert shown == set(METRICS)


def test_the_table_of_the_documentation_is_that_of_the_metrics() -> None:
    page = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(sqla_pubsub_\w+)` \| \w+ \| ([^|]*)\|", page, re.MULTILINE)
    assert {name: tuple(re.findall(r"\w+", labels)) for name, labels in rows} == METRICS


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_panels_have_numbers_of_their_own_and_lie_beside_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set[tuple[int, int]]()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def promtool(*arguments: str, folder: Path) -> str:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@no_promtool
def test_prometheus_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", ALERTS.name, folder=ALERTS.parent)


@no_promtool
def test_the_rules_fire_when_they_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", ALERT_TESTS.name, folder=ALERT_TESTS.parent)


@no_promtool
def test_the_tests_of_the_rules_can_fail(tmp_path: Path) -> None:
    (tmp_path / ALERTS.name).write_text(ALERTS.read_text().replace("> 300", "> 300000"))
    shutil.copy(ALERT_TESTS, tmp_path)
    with pytest.raises(AssertionError, match="SqlaPubsubBehind"):
        promtool("test", "rules", ALERT_TESTS.name, folder=tmp_path)


EXPOSITION = """\
# TYPE sqla_pubsub_build_info gauge
sqla_pubsub_build_info{version="1"} 1
# TYPE sqla_pubsub_up gauge
sqla_pubsub_up 1
# TYPE sqla_pubsub_dead_letters gauge
sqla_pubsub_dead_letters{listener="ship"} 3
# TYPE sqla_pubsub_oldest_ready_age_seconds gauge
sqla_pubsub_oldest_ready_age_seconds{listener="ship"} 1
"""
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [alerts.yml]
scrape_configs:
  - {{job_name: sqla-pubsub, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}
"""
PROMETHEUS = shutil.which("prometheus")


class Exposing(BaseHTTPRequestHandler):
    """Answers as ``--metrics-port`` does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(EXPOSITION.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus: install the package prometheus")
def test_a_real_prometheus_scrapes_and_evaluates_the_rules(tmp_path: Path) -> None:
    # One minute of waiting before an alert fires is what the rules say, and not what is tried here.
    (tmp_path / ALERTS.name).write_text(ALERTS.read_text().replace("for: 1m", "for: 0s"))
    own = free_port()
    with serving(Exposing) as port:
        (tmp_path / "prometheus.yml").write_text(CONFIGURATION.format(port=port))
        command = [str(PROMETHEUS), "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{own}"]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--storage.tsdb.path=data"], cwd=tmp_path, stdout=log, stderr=log
            )
        try:

            def firing() -> list[tuple[str, str]]:
                answer = asked(f"http://127.0.0.1:{own}/api/v1/alerts")
                return [
                    (alert["labels"]["alertname"], alert["labels"]["listener"])
                    for alert in answer.get("data", {}).get("alerts", [])
                    if alert["state"] == "firing"
                ]

            def healths() -> set[str]:
                groups = asked(f"http://127.0.0.1:{own}/api/v1/rules").get("data", {}).get("groups", [])
                return {rule["health"] for group in groups for rule in group["rules"]}

            fired = wait_until(firing, 60, (tmp_path / "log").read_text())
            assert fired == [("SqlaPubsubDeadLetters", "ship")]
            wait_until(lambda: healths() == {"ok"}, 60, "all rules to be evaluated")
            for expression in expressions():
                query = expression.replace("$__rate_interval", "1m").replace("$listener", ".*")
                answer = asked(f"http://127.0.0.1:{own}/api/v1/query?{urlencode({'query': query})}")
                assert answer.get("status") == "success", expression
        finally:
            process.terminate()
            process.wait(30)


def asked(url: str) -> Any:
    """Return what Prometheus answers, an empty object before it does."""
    try:
        with urlopen(url, timeout=10) as answer:
            return json.load(answer)
    except (URLError, OSError):
        return {}
