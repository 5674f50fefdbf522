"""Commands in processes of their own that need not import everything anew: forked from one that has.

A start of Python with SQLAlchemy takes a second of a processor, most commands a tenth. The process that is forked
has imported what every command imports, and nothing of a project; environment, working directory and output are
the child's own. What is started in the background, and what is about the start itself, stays a program of its own.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
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
    with tempfile.TemporaryDirectory() as output:
        outputs = [Path(output, name) for name in ("stdout", "stderr")]
        process = _context.Process(target=_main, args=(list(arguments), folder, dict(environment), outputs))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, seconds, *(path.read_bytes() for path in outputs))
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(list(arguments), process.exitcode, stdout, stderr)


def _main(arguments: list[str], folder: Path, environment: dict[str, str], outputs: Sequence[Path]) -> None:
    for number, path in enumerate(outputs, 1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0:0] = [str(folder)]
    sys.argv = ["sqla-pubsub", *arguments]
    main()
