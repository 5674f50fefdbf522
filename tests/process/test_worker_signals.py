"""SIGTERM may come at any moment, and while the one before it is being handled."""

import subprocess
import sys
import textwrap

PROGRAM = """
import signal, sys
from sqla_pubsub.process.scoreboard import SLOTS
from sqla_pubsub.process.worker import Plan, work

depth = 0

def again(frame, event, argument):
    # One more signal at each line of what handles the first one, whatever it calls.
    global depth
    if event == "line" and depth < 100 and within(frame):
        depth += 1
        signal.raise_signal(signal.SIGTERM)
    return again

def within(frame):
    while frame is not None:
        if frame.f_code.co_name == "stop" and frame.f_code.co_filename.endswith("worker.py"):
            return True
        frame = frame.f_back
    return False

def interrupted():
    sys.settrace(again)
    signal.raise_signal(signal.SIGTERM)
    sys.settrace(None)
    print("signals", depth > 3, flush=True)
    raise SystemExit(0)

class Finder:
    # Where the worker imports its modules, it can be stopped.
    def find_spec(self, name, *_):
        if name == "interrupting":
            interrupted()

sys.meta_path.insert(0, Finder())
work(Plan(modules=("interrupting",), url="postgresql://"), [0] * SLOTS, [])
"""


def test_a_storm_of_signals_does_not_hang_a_worker() -> None:
    """Each interrupts the handler of the one before, also where that holds a lock."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout == "signals True\n", result.stderr
    assert result.returncode == 0
