"""``listen --metrics-port``: what Prometheus reads of a listening process, by Prometheus's own parser."""

import os
import signal
import socket
import sys
from contextlib import suppress
from http.client import HTTPConnection
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.process.named import Names
from tests.cli.project import DEADLINE, Shop
from tests.cli.test_health_endpoint import ask
from tests.cli.test_listen import children
from tests.servers import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.one_driver

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scraped(port: int) -> Samples:
    """Return the samples of a scrape, nothing where nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    with suppress(OSError):
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert (response.getheader("Content-Type") or "").startswith("text/plain; version=")
        families = text_string_to_metric_families(response.read().decode())
        return {
            (sample.name.removeprefix("sqla_pubsub_"), frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
    return {}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def test_a_scrape_tells_what_listeners_did_and_what_waits(shop: Shop, port: int) -> None:
    shop.listening("--processes", "2", "--metrics-port", str(port), "--health-port", str(port), workers=2)
    shop.order("a", "b", "bad")

    def settled() -> bool:
        samples = scraped(port)
        done = [
            value(samples, "events_settled_total", listener=n, outcome="acknowledged")
            for n in ("ship", "count")
        ]
        # One may have done all of it before the other one is connected.
        connected = value(samples, "workers", state="connected")
        dead = value(samples, "events_settled_total", listener="ship", outcome="dead")
        return (done, dead, connected) == ([2, 3], 1, 2)

    wait_until(settled, DEADLINE, "six events to be settled")
    samples = scraped(port)
    assert value(samples, "handler_duration_seconds_count", listener="ship") == 3
    assert value(samples, "delivery_latency_seconds_count", listener="count") == 3
    assert value(samples, "handler_failures_total", listener="ship", error_type="ValueError") == 1
    assert value(samples, "slots", listener="ship") == 2
    assert value(samples, "handlers_running", listener="ship") == 0
    assert value(samples, "up") == 1
    assert value(samples, "worker_deaths_total") == 0
    # What the database tells is as old as the scrape before.
    wait_until(
        lambda: value(scraped(port), "dead_letters", listener="ship") == 1, DEADLINE, "the dead letter"
    )
    samples = scraped(port)
    assert value(samples, "backlog_events", listener="ship", state="ready") == 0
    assert value(samples, "backlog_events", listener="ship", state="retrying") == 0
    assert (value(samples, "outbox_bytes") or 0) > 0
    assert value(samples, "scrape_errors_total") == 0
    # One port may serve both.
    assert ask(port, "/live")[0] == 200


def test_what_a_worker_did_is_still_counted_when_it_is_dead(shop: Shop, port: int) -> None:
    process = shop.listening("--metrics-port", str(port))
    shop.order("a")
    wait_until(
        lambda: value(scraped(port), "events_settled_total", listener="ship", outcome="acknowledged") == 1,
        DEADLINE,
        "the event",
    )
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_until(lambda: value(scraped(port), "worker_deaths_total") == 1, DEADLINE, "the death")
    shop.order("b")
    wait_until(
        lambda: value(scraped(port), "events_settled_total", listener="ship", outcome="acknowledged") == 2,
        DEADLINE,
        "its successor to go on",
    )


def test_a_scrape_without_the_database_tells_the_rest(shop: Shop, port: int, server: Server) -> None:
    shop.listening("--metrics-port", str(port))
    wait_until(lambda: value(scraped(port), "up") == 1, DEADLINE, "the worker to be connected")
    server.stop("immediate")
    shop.engine.dispose()
    wait_until(lambda: value(scraped(port), "up") == 0, DEADLINE, "the loss to be noticed")
    wait_until(lambda: (value(scraped(port), "scrape_errors_total") or 0) > 0, DEADLINE, "a failed scrape")
    samples = scraped(port)
    assert (value(samples, "connection_losses_total", role="work") or 0) + (
        value(samples, "connection_losses_total", role="listen") or 0
    ) >= 1
    assert value(samples, "outbox_bytes") is None
    server.start()


def test_without_the_library_the_option_is_refused_with_what_to_install(
    shop: Shop, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write("sitecustomize.py", "import sys; sys.modules['prometheus_client'] = None")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(shop.folder), *sys.path]))
    result = shop.run_program("listen", "shop.listeners", "--metrics-port", str(port))
    assert result.returncode == 2
    assert "pip install 'sqla-pubsub[prometheus]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_observers_of_the_settings_are_told_in_the_workers(shop: Shop, tmp_path: Any) -> None:
    shop.write(
        "watching.py",
        """
        from pathlib import Path
        from sqla_pubsub.deliver.happenings import Settled

        def settled(happening):
            if isinstance(happening, Settled):
                with Path("told").open("a") as file:
                    print(happening.listener, len(happening.outcomes), file=file)
                raise RuntimeError("an observer that fails")

        """,
    )
    shop.write("pyproject.toml", "[tool.sqla-pubsub.listen]\nobservers = ['watching:settled']\n")
    shop.order("a")
    result = shop.run("listen", "shop.listeners", "--drain")
    assert result.returncode == 0, result.stderr
    assert sorted((shop.folder / "told").read_text().splitlines()) == ["count 1", "ship 1"]
    assert "observer.failed" in result.stderr


def test_what_is_no_observer_is_refused() -> None:
    for name, what in (
        ("pathlib:Path", "a class"),
        ("asyncio:sleep", "an async function"),
        ("os:sep", "an object of"),
    ):
        with pytest.raises(ConfigurationError, match=f"observers '{name}' of the settings is {what}"):
            Names(observers=(name,)).found_observers()
