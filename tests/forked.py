"""Commands in processes of their own that need not import everything anew: forked from one that has.

A start of Python with SQLAlchemy takes a second of a processor, most commands a tenth. The process that is forked
has imported what every command imports, and nothing of a project; environment, working directory and output are
the child's own. So it is with a supervisor; its workers are programs of their own, as they are for a user. What is
about the start itself is run as a program.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqla_pubsub.cli import main

_PRELOADED = ["__main__", "tests.forked", "psycopg", "psycopg2", "sqlalchemy.dialects.postgresql"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


def run_command(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run ``sqla-pubsub`` with *arguments* in *folder* to its end.

    Raises:
        TimeoutExpired: It took longer than *seconds*; it is killed then.
    """
    return _run(_main, arguments, folder, environment, seconds)


def run_python(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run ``python`` with *arguments*, ``-m`` and a module or a file first, in *folder* to its end.

    Raises:
        TimeoutExpired: It took longer than *seconds*; it is killed then.
    """
    return _run(_python, arguments, folder, environment, seconds)


def _run(
    target: Callable[..., None],
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    seconds: float,
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as output:
        outputs = [Path(output, name) for name in ("stdout", "stderr")]
        process = _context.Process(target=target, args=(list(arguments), folder, dict(environment), outputs))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, seconds, *(path.read_bytes() for path in outputs))
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(list(arguments), process.exitcode, stdout, stderr)


class RunningCommand:
    """``sqla-pubsub`` with *arguments* in the background; what is wanted of it is called as ``subprocess`` calls it.

    Args:
        output: The file that is given what it prints.
        group: Whether it leads a session of its own.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        output: Path,
        group: bool,
    ) -> None:
        outputs = [output, output]
        self._process = _context.Process(
            target=_main, args=(list(arguments), folder, dict(environment), outputs), kwargs={"group": group}
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            TimeoutExpired: It still runs.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("sqla-pubsub", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def _main(
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    outputs: Sequence[Path],
    *,
    group: bool = False,
) -> None:
    _become_a_program(folder, environment, outputs, group=group)
    sys.argv = ["sqla-pubsub", *arguments]
    main()


def _python(arguments: list[str], folder: Path, environment: dict[str, str], outputs: Sequence[Path]) -> None:
    _become_a_program(folder, environment, outputs)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _become_a_program(
    folder: Path, environment: dict[str, str], outputs: Sequence[Path], *, group: bool = False
) -> None:
    if group:
        os.setsid()
    # For a program, which it stands for, no process of multiprocessing is the parent.
    vars(multiprocessing.process)["_parent_process"] = None
    for number, path in enumerate(outputs, 1):
        # To append is what two of one file need.
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0:0] = [str(folder)]
