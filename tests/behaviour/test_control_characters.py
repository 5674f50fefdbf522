"""What stands in a row may reach a terminal by way of an error: there it is shown, and not obeyed."""

import io
import json
import logging
from typing import Any

import pytest

from sqla_pubsub import Reject, RetryPolicy, after_insert
from sqla_pubsub.cli.phrases import as_json, print_table
from sqla_pubsub.process.logs import OneLine
from sqla_pubsub.values import harmless, one_line
from tests.deliver.notes import Notes

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\x7f\r\u202egnp\u2028x"
ONCE = RetryPolicy(max_attempts=1)


def obeyed(text: str) -> str:
    return "".join(character for character in text if not character.isprintable() and character != "\n")


@pytest.mark.parametrize("transactional", [True, False])
@pytest.mark.parametrize("kind", [ValueError, Reject])
@pytest.mark.one_driver
def test_a_log_line_shows_the_control_characters_of_a_row(
    notes: Notes, caplog: pytest.LogCaptureFixture, kind: type[Exception], transactional: bool
) -> None:
    @after_insert(notes.Note, retry=ONCE, transactional=transactional)
    def handle(new: Any) -> None:
        raise kind(new.content)

    notes.write(HOSTILE)
    with caplog.at_level(logging.DEBUG):
        assert notes.drain() == 1
    assert "pwned" in caplog.text
    for record in caplog.records:
        assert obeyed(record.getMessage()) == ""
        assert "\n" not in record.getMessage()


def test_the_log_of_the_command_is_one_line_for_each_happening() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(message)s"))
    log = logging.getLogger("tests.control_characters")
    log.propagate = False
    log.addHandler(handler)
    log.error("first %s", HOSTILE + "\nERROR forged")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("second")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("ERROR first \\x1b]0;pwned")
    assert lines[0].endswith("\\nERROR forged")
    assert lines[1] == "ERROR second"
    assert obeyed(stream.getvalue()) == ""


def test_a_table_shows_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    print_table(("id", "reason"), [("1", HOSTILE + "\nforged")])
    shown = capsys.readouterr().out
    assert "\\x1b[2J" in shown
    assert obeyed(shown) == ""


def test_json_escapes_them_and_stays_the_same_value() -> None:
    rows = [{"reason": HOSTILE, "new": {"content": "é\U000e0001 😀", HOSTILE: "x"}}]
    shown = as_json(rows)
    assert obeyed(shown) == ""
    assert json.loads(shown) == rows
    assert "é" in shown
    assert "😀" in shown


def test_text_that_prints_is_left_as_it_is() -> None:
    assert one_line("Grüße, 世界 😀 \\x1b") == "Grüße, 世界 😀 \\x1b"
    assert harmless("a\nb") == "a\nb"
