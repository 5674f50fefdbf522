"""The child processes of one run: each leads a session of its own, writes to a log, and is ended by its id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.adapter import ROOT, Command
from benchmarks.harness.waiting import comes_true

_ENDING = ((signal.SIGTERM, 8.0), (signal.SIGKILL, 5.0))


class RunError(Exception):
    """A run that cannot be finished; the message has what the process said."""


@dataclass(frozen=True, slots=True)
class Call:
    """A command that is running."""

    process: subprocess.Popen[bytes]
    answer: Path
    tag: str


class Processes:
    """Starts and ends what one run needs.

    Args:
        folder: For logs and answers.
        environment: Added to this process's own, without what it tells libpq.
        programs: The folder of the interpreter.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], programs: Path) -> None:
        self._folder = folder
        own = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        # Else Python looks in the working folder before PYTHONPATH, and finds the library that is here.
        self.environment = own | {"PYTHONSAFEPATH": "1"} | dict(environment)
        self._programs = programs
        self.consumers: list[subprocess.Popen[bytes]] = []

    def call(self, command: str, arguments: Mapping[str, Any] | None = None, tag: str = "") -> Call:
        """Start a command of `benchmarks.harness.child`."""
        tag = tag or command
        answer = self._folder / f"{tag}.json"
        given = json.dumps({**(arguments or {}), "out": str(answer)})
        argv = [str(self._programs / "python"), "-m", "benchmarks.harness.child", command, given]
        return Call(self._start((argv, {}), tag), answer, tag)

    def answer(self, call: Call, seconds: float) -> dict[str, Any]:
        """Wait for a command's end; return what it answered.

        Raises:
            RunError: It failed, or did not end in time.
        """
        try:
            code = call.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._end(call.process)
            raise RunError(f"{call.tag} did not end within {seconds:g} s\n{self.said(call.tag)}") from None
        if code != 0:
            raise RunError(f"{call.tag} ended with {code}\n{self.said(call.tag)}")
        answer: dict[str, Any] = json.loads(call.answer.read_text(encoding="utf-8"))
        return answer

    def start_consumers(self, commands: Sequence[Command]) -> None:
        """Start what handles events."""
        for number, command in enumerate(commands):
            self.consumers.append(self._start(command, f"consumer{number}"))

    def stop_consumers(self) -> None:
        """End them, and whatever they started."""
        while self.consumers:
            self._end(self.consumers.pop())

    def check_consumers(self) -> None:
        """Notice when nobody is left.

        Raises:
            RunError: All of them failed.
        """
        if self.consumers and all(process.poll() not in (None, 0) for process in self.consumers):
            raise RunError(f"all consumers ended\n{self.said('consumer0')}")

    def said(self, tag: str) -> str:
        """Return the end of a log."""
        path = self._folder / f"{tag}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-2000:] if path.exists() else ""

    def _start(self, command: Command, tag: str) -> subprocess.Popen[bytes]:
        argv, environment = command
        with (self._folder / f"{tag}.log").open("ab") as log:
            return subprocess.Popen(
                argv, env=self.environment | environment, cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End a process's group, which holds only what it started."""

        def gone() -> bool:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return True
            return False

        for how, seconds in _ENDING:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            if comes_true(gone, seconds):
                break
        process.wait()
