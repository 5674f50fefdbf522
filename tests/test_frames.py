"""Which frames of a traceback are shown."""

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from sqla_pubsub.frames import is_foreign, rendered


def named(error: BaseException) -> str:
    return type(error).__name__


def raised(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as found:  # noqa: PT011
        call()
    return found.value


def inner() -> None:
    json.loads("{")


def outer() -> None:
    try:
        inner()
    except ValueError as error:
        raise KeyError("outer") from error


def test_frames_of_libraries_are_left_out_also_behind_the_last_one_of_the_program() -> None:
    shown = rendered(raised(inner), message=named)
    assert shown.splitlines()[0] == "Traceback (most recent call last):"
    assert "in inner" in shown
    assert "json" not in shown.replace("json.loads", "")
    assert "in raw_decode" in rendered(raised(inner), message=named, every=True)


def test_the_cause_of_an_error_is_shown_before_it() -> None:
    shown = rendered(raised(outer), message=named)
    first, second = shown.split("\n\nThe above exception was the direct cause of the following one:\n\n")
    assert first.endswith("\nJSONDecodeError")
    assert "in outer" in second
    assert second.endswith("\nKeyError")


def test_every_error_of_a_group_is_shown() -> None:
    def fail() -> None:
        raise BaseExceptionGroup("both", [raised(inner), raised(outer)])

    shown = rendered(raised(fail), message=named)
    assert "\n  |     json.loads" in shown
    assert shown.endswith("\n  | KeyError")


def test_an_error_that_is_its_own_cause_ends() -> None:
    error = raised(inner)
    error.__cause__ = KeyError("other")
    error.__cause__.__cause__ = error
    assert rendered(error, message=named).count("JSONDecodeError") == 1


def test_without_a_frame_of_the_program_those_of_libraries_are_shown() -> None:
    error = raised(inner)
    trace = error.__traceback__
    while trace is not None and not is_foreign(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    assert trace is not None
    assert "in raw_decode" in rendered(error.with_traceback(trace), message=named)


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Callable[[], object]]:
    """A function of an application that is installed, and calls another package that is."""
    folder = tmp_path / "site-packages"
    for name, content in {
        "shop_of_frames": "import library_of_frames\ndef ship(): library_of_frames.send()\n",
        "library_of_frames": "def send(): raise OSError('away')\n",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(content)
    sys.path.insert(0, str(folder))
    yield import_module("shop_of_frames").ship
    sys.path.remove(str(folder))
    for name in ("shop_of_frames", "library_of_frames"):
        del sys.modules[name]


def test_of_an_installed_application_its_own_package_is_shown(installed: Callable[[], object]) -> None:
    error = raised(installed)
    assert error.__traceback__ is not None
    shown = rendered(error.with_traceback(error.__traceback__.tb_next), message=named)
    assert "in ship" in shown
    assert "in send" not in shown
