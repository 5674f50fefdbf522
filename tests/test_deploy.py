"""What `docs/deploy.md` gives to copy fits the commands as they are."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from sqlalchemy import Engine, inspect

from sqla_pubsub import ListenerConfig
from sqla_pubsub.cli import cli
from sqla_pubsub.process.probes import LIVE, READY, HealthServer
from tests.reader import ROOT, blocks

GUIDE = ROOT / "docs/deploy.md"
MARGIN = timedelta(seconds=5)
"""At least that much more than `grace` has a process for its end."""


def block(language: str) -> str:
    [found] = [block.source for block in blocks(GUIDE) if block.language == language]
    return found


def listening(command: list[str]) -> dict[str, Any]:
    """Options as `listen` reads them: an unknown one is refused here."""
    program, name, *arguments = command
    assert (program.rpartition("/")[2], name) == ("sqla-pubsub", "listen")
    listen = cli.commands["listen"]
    with listen.make_context(name, arguments) as context:
        return dict(context.params)


@pytest.fixture(scope="module")
def unit() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(block("systemd"))
    return parser


@pytest.fixture(scope="module")
def image() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with their arguments."""
    source = re.sub(r"^#.*\n", "", block("docker"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in source.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    return {document["kind"]: document["spec"] for document in yaml.safe_load_all(block("yaml"))}


@pytest.fixture
def container(manifests: dict[str, Any]) -> Any:
    [container] = manifests["Deployment"]["template"]["spec"]["containers"]
    return container


def test_the_unit_starts_a_command_that_exists(unit: ConfigParser) -> None:
    options = listening(shlex.split(unit["Service"]["ExecStart"]))
    assert options["processes"] == 2
    assert unit["Service"]["Type"] == "exec"


def test_systemd_signals_the_supervisor_alone_and_leaves_it_its_grace(unit: ConfigParser) -> None:
    assert unit["Service"]["KillMode"] == "mixed"
    assert timedelta(seconds=int(unit["Service"]["TimeoutStopSec"])) >= ListenerConfig().grace + MARGIN


def test_systemd_starts_again_what_gave_up_and_not_what_was_refused(unit: ConfigParser) -> None:
    assert unit["Service"]["Restart"] == "on-failure"
    assert unit["Service"]["RestartPreventExitStatus"] == "2"


def test_the_container_runs_the_supervisor_as_its_first_process(image: list[tuple[str, str]]) -> None:
    instructions = dict(image)
    assert "ENTRYPOINT" not in instructions
    # The exec form is JSON; anything else would be given to a shell.
    options = listening(json.loads(instructions["CMD"]))
    assert options["health_host"] == "0.0.0.0"
    assert f":{options['health_port']}{LIVE}" in instructions["HEALTHCHECK"]
    assert instructions["STOPSIGNAL"] == "SIGTERM"


def test_the_health_check_of_the_image_asks_a_listener(image: list[tuple[str, str]]) -> None:
    words = dict(image)["HEALTHCHECK"].partition(" CMD ")[2]
    python, flag, source = json.loads(words)
    assert (python, flag) == ("python", "-c")
    with HealthServer("127.0.0.1", 0) as server:
        try:
            exec(compile(source.replace("8080", str(server.server_address[1])), "HEALTHCHECK", "exec"), {})
        finally:
            server.shutdown()


def test_pods_are_probed_where_they_answer(container: Any) -> None:
    options = listening(container["command"])
    [port] = container["ports"]
    assert options["health_port"] == port["containerPort"]
    assert options["health_host"] == "0.0.0.0"
    assert container["readinessProbe"]["httpGet"] == {"path": READY, "port": port["name"]}
    assert container["livenessProbe"]["httpGet"] == {"path": LIVE, "port": port["name"]}


def test_pods_have_their_grace_and_roll_without_a_gap(manifests: dict[str, Any]) -> None:
    deployment = manifests["Deployment"]
    seconds = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert timedelta(seconds=seconds) >= ListenerConfig().grace + MARGIN
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]


def test_the_job_migrates_as_another_role_than_the_one_that_listens(
    manifests: dict[str, Any], container: Any
) -> None:
    [job] = manifests["Job"]["template"]["spec"]["containers"]
    assert job["command"] == ["alembic", "upgrade", "head"]
    assert job["envFrom"] != container["envFrom"]
    assert job["image"] == container["image"]


def test_commands_of_the_guide_are_known() -> None:
    for command in (
        command for block in blocks(GUIDE) if block.language == "console" for command in block.commands
    ):
        program, name, *arguments = shlex.split(command)
        assert program == "sqla-pubsub"
        found: click.Command = cli.commands[name]
        with found.make_context(name, arguments):
            pass


def test_migrations_go_where_the_variable_says(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line of the guide; the project's own URL is that of another database."""
    shutil.copytree(ROOT / "docs/_project", tmp_path, dirs_exist_ok=True)
    line = re.search(r"`(config\.set_main_option\([^`]*)`", GUIDE.read_text(encoding="utf-8"))
    assert line is not None
    env = tmp_path / "migrations/env.py"
    known = "config = context.config\n"
    env.write_text("import os\n" + env.read_text().replace(known, known + line[1] + "\n"))
    url = engine.url.render_as_string(hide_password=False)
    upgraded = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=tmp_path, env=os.environ | {"SQLA_PUBSUB_URL": url}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert upgraded.returncode == 0, upgraded.stderr
    assert "pubsub_outbox" in inspect(engine).get_table_names()
