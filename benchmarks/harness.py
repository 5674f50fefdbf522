"""Calls the peer harness, which stands beside the checkout, and reads its JSON lines.

The harness is a program of its own with its own environments: it is run, never imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = "sqla_pubsub"
_BESIDE = HERE.parents[1] / "shared/peers"
_MAKE_BASE = "import run; run.make_venvs(['base'])"


class Refused(Exception):
    """Something is missing; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Workloads that are run in turns for some peers, in one invocation, so that their ratios count.

    Args:
        peers: The adapters that take turns.
        workloads: What each of them does.
        option: A setting of our adapter, ``key=value``; "" for the defaults.
        repeats: Overrides the number of repeats, for a workload that takes its own median.
    """

    peers: tuple[str, ...]
    workloads: tuple[str, ...]
    option: str = ""
    repeats: int | None = None


class Results:
    """The runs of all series.

    Args:
        environment: The harness's line on the machine, the versions and the settings.
        runs: One mapping per run, with ``option`` added.
    """

    def __init__(self) -> None:
        self.environment: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []

    def add(self, lines: Sequence[str], option: str) -> None:
        """Take in what one invocation of the harness said."""
        for line in lines:
            said = json.loads(line)
            if "env" in said:
                known = self.environment.setdefault("peers", {})
                self.environment = said["env"] | {"peers": known | said["peers"]}
            elif "workload" in said:
                self.runs.append(said | {"option": option})

    def value(self, peer: str, workload: str, figure: str, option: str = "") -> float | None:
        """Return the median of a figure, None where there is none."""
        found = [
            run[figure]
            for run in self.runs
            if (run["peer"], run["workload"], run["option"]) == (peer, workload, option)
            and run.get(figure) is not None
        ]
        return median(found) if found else None

    def wrong(self, peer: str | None = None) -> list[str]:
        """Return what went wrong, in sentences: failed runs, lost or repeated events."""
        found = []
        for run in self.runs:
            if peer not in (None, run["peer"]):
                continue
            name = f"{run['peer']} {run['workload']} {run['option']}".strip()
            if "error" in run:
                found.append(f"{name}: {run['error'].splitlines()[0]}")
            elif run.get("complete") is False:
                found.append(f"{name}: did not finish in time")
            prefix = "db_" if run["workload"] == "drain_db" else ""
            found += [
                f"{name}: {run[prefix + what]} events {what}"
                for what in ("lost", "duplicates")
                if run.get(prefix + what)
            ]
        return found


class Harness:
    """The harness's ``run.py``.

    Raises:
        Refused: It is not found.
    """

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("BENCH_HARNESS") or _BESIDE).resolve()
        if not (self.folder / "run.py").is_file():
            raise Refused(
                f"no peer harness at {self.folder}. Set BENCH_HARNESS to the folder that holds its run.py."
            )
        cache = os.environ.get("BENCH_VENVS")
        self._venvs = Path(cache) if cache else Path.home() / ".cache/sqla-pubsub-peers"

    def peers(self) -> tuple[str, ...]:
        """Return the other systems that it knows, without the limits."""
        names = (path.stem for path in sorted((self.folder / "peers").glob("*.py")))
        return tuple(name for name in names if not name.startswith(("_", "raw_")))

    def prepare(self, *, everything: bool) -> None:
        """Make the environments that are missing: those of all systems, or only the harness's own."""
        wanted = [path.stem for path in (self.folder / "requirements").glob("*.txt")]
        wanted = wanted if everything else ["base"]
        if all((self._venvs / name / "bin/python").exists() for name in wanted):
            return
        print(f"Making environments in {self._venvs} ...", file=sys.stderr)
        arguments = ["run.py", "--make-venvs"] if everything else ["-c", _MAKE_BASE]
        subprocess.run([sys.executable, "-B", *arguments], cwd=self.folder, check=True)

    def run(self, series: Series, *, repeats: int, scale: float, seconds: float, into: Results) -> None:
        """Run a series and add its lines.

        Args:
            series: What is run.
            repeats: How often.
            scale: Factor of the harness's numbers of events.
            seconds: Duration of the latency workload.
            into: Where the results go.

        Raises:
            Refused: The harness failed.
        """
        chosen = [f"--peer={peer}" for peer in series.peers]
        chosen += [f"--workload={workload}" for workload in series.workloads]
        chosen += [f"--opt={series.option}"] if series.option else []
        with NamedTemporaryFile(suffix=".jsonl") as out:
            done = subprocess.run(
                [
                    sys.executable, "-B", "run.py", "--all", *chosen, f"--repeat={series.repeats or repeats}",
                    f"--scale={scale}", f"--duration={seconds}", f"--out={out.name}",
                ],
                cwd=self.folder,
                env=os.environ | {"BENCH_ADAPTERS": str(HERE), "BENCH_PYTHON": sys.executable},
                stdout=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise Refused(f"the harness in {self.folder} ended with {done.returncode}; see above.")
            into.add(Path(out.name).read_text(encoding="utf-8").splitlines(), series.option)
