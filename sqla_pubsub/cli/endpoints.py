"""What ``listen`` answers over HTTP: probes, and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from sqlalchemy import Engine, MetaData

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.probes import HealthServer
from sqla_pubsub.process.supervisor import Supervisor
from sqla_pubsub.process.worker import Plan
from sqla_pubsub.registry import ListenerSpec


class Endpoints:
    """The ports that were asked for, one server for each.

    Args:
        host: Address to listen on.
        health_port: Port of the probes, None for none.
        metrics_port: Port of the metrics, where probes are answered too; None for none.

    Raises:
        ConfigurationError: An address cannot be had, or what makes metrics is not installed.
    """

    def __init__(self, host: str, health_port: int | None, metrics_port: int | None) -> None:
        # Before anything is opened: it says what is not installed.
        self._exposing: Any = None if metrics_port is None else _exposing()
        self._metrics_port = metrics_port
        ports = {
            port: option
            for port, option in ((health_port, "--health-port"), (metrics_port, "--metrics-port"))
            if port is not None
        }
        self._servers = {port: HealthServer(host, port, option) for port, option in ports.items()}

    def show(
        self,
        supervisor: Supervisor,
        plan: Plan,
        specs: Sequence[ListenerSpec],
        engine: Engine,
        metadata: MetaData,
    ) -> None:
        """Answer with what the supervisor knows, from now on."""
        for port, server in self._servers.items():
            server.report = supervisor.health
            if port == self._metrics_port:
                figures = _Figures(supervisor, plan, specs, self._exposing.ProcessFigures)
                gauges = self._exposing.DatabaseGauges(engine, metadata)
                metrics = self._exposing.Metrics(supervisor.totals, gauges, figures)
                server.metrics = (self._exposing.CONTENT_TYPE_LATEST, self._exposing.exposition(metrics))


class _Figures:
    """What the supervisor knows, as figures."""

    def __init__(self, supervisor: Supervisor, plan: Plan, specs: Sequence[ListenerSpec], make: Any) -> None:
        self._supervisor = supervisor
        self._transactional = {spec.name: spec.transactional for spec in specs}
        self._make = make
        processes = len(supervisor.health().workers)
        self._slots = {spec.name: processes * _at_once(spec, plan.concurrency) for spec in specs}

    def __call__(self) -> Any:
        health = self._supervisor.health()
        workers = Counter({"connected": 0, "waiting": 0, "dead": 0})
        workers.update(_state(worker.alive, worker.connected) for worker in health.workers)
        running = dict.fromkeys(self._slots, 0)
        for listener, entries in self._supervisor.in_hand():
            # What is in hand in one transaction is one call of the handler.
            running[listener] += 1 if self._transactional[listener] else len(entries)
        return self._make(
            workers=workers,
            running=running,
            slots=self._slots,
            deaths=self._supervisor.deaths,
            up=health.ready,
        )


def _state(alive: bool, connected: bool) -> str:
    if not alive:
        return "dead"
    return "connected" if connected else "waiting"


def _at_once(spec: ListenerSpec, concurrency: int) -> int:
    """Return how many handlers of a listener a process runs at once, as far as connections go."""
    if spec.transactional and not spec.asynchronous:
        return 1
    return min(concurrency, spec.concurrency or concurrency)


def _exposing() -> Any:
    try:
        return import_module("sqla_pubsub.contrib.prometheus")
    except ImportError as error:
        raise ConfigurationError(
            f"--metrics-port needs {error.name!r}, which is not installed. Run: pip install 'sqla-pubsub[prometheus]'"
        ) from error
