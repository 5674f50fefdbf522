"""``make demo-web``, as its user runs it: something is on every screen, and nothing is left at the end."""

import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.reader import ROOT
from tests.waiting import wait_until


def shows(client: httpx.Client, path: str, wanted: tuple[str, ...]) -> bool:
    page = client.get(path).text
    return all(text in page for text in wanted)


@pytest.mark.slow
def test_the_demo_of_the_dashboard_has_something_on_every_screen(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "examples.easy.demo_web", "--port", "0"],
            cwd=ROOT, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, 120, "the dashboard")
        address = re.search(r"Open (\S+)\?(\S+)", log.read_text())
        assert address is not None, log.read_text()
        with httpx.Client(base_url=address[1]) as client:
            client.get(f"/?{address[2]}")
            pages = {
                "/": (">paused<", ">running<", "<svg"),
                "/letters": ("SpamServiceDown", "in other words"),
                "/listener?name=translate": ("TranslationBusy",),
                "/listener?name=index_in_order": ('data-key="held-',),
                "/workers": ("Pid", 'data-key="hand-'),
                "/system": ("pubsub_outbox", "All declared triggers are installed"),
            }
            for path, wanted in pages.items():
                wait_until(partial(shows, client, path, wanted), 120, f"all of {path}")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
