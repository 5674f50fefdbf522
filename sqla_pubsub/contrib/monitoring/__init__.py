"""Files for Prometheus and Grafana, which know our metrics by name.

Each is a path: ``shutil.copy(ALERTS, "/etc/prometheus/rules/")``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ALERTS", "ALERT_TESTS", "DASHBOARD"]

_HERE = Path(__file__).parent

ALERTS = _HERE / "alerts.yml"
"""Alert rules of Prometheus."""
ALERT_TESTS = _HERE / "alerts_test.yml"
"""What ``promtool test rules`` tries them with, beside them."""
DASHBOARD = _HERE / "grafana.json"
"""A dashboard of Grafana, to be imported."""
