"""Who configures the log of ``listen``, and what its lines look like."""

import json
import re

import pytest

from tests.cli.project import LISTENERS, Shop

pytestmark = pytest.mark.one_driver

DICT_CONFIG = {
    "version": 1,
    "formatters": {"mine": {"format": "mine %(levelname)s %(message)s"}},
    "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"level": "INFO", "handlers": ["mine"]},
}
CHATTER = """
    import logging
    logging.getLogger("shop").info("chatter of the application")
    logging.getLogger("shop").warning("root has level %s", logging.getLogger().level)
"""
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


def configured(shop: Shop, configuration: str) -> None:
    """Let the listeners' module configure logging, behind the import of the library as in most programs."""
    shop.write(
        "shop/listeners.py", LISTENERS.replace("from shop.models", f"{configuration}\n    from shop.models")
    )


def drained(shop: Shop, *options: str) -> str:
    """Return what is logged while an order fails for good."""
    shop.order("bad")
    result = shop.run("listen", "shop.listeners", "--drain", *options)
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_a_configuration_of_the_application_holds_and_does_not_silence_ours(shop: Shop) -> None:
    configured(shop, f"import logging.config; logging.config.dictConfig({DICT_CONFIG})")
    log = drained(shop)
    assert log.count("mine ERROR event.dead: entry 2 for 'ship' is a dead letter") == 1
    assert log.count("event.dead") == 1


def test_where_nobody_configures_logging_ours_goes_to_stderr_and_the_root_keeps_its_level(shop: Shop) -> None:
    configured(shop, CHATTER.replace("\n    ", "; ").strip("; \n"))
    log = drained(shop, "--log-level", "info")
    assert re.search(rf"^{STAMP} ERROR \d+ event\.dead: entry 2 for 'ship'", log, re.MULTILINE)
    assert "root has level 30" in log
    assert "chatter" not in log


def test_basic_config_of_the_application_is_respected_and_a_level_that_is_asked_for_is_set(
    shop: Shop,
) -> None:
    configured(
        shop, "import logging; logging.basicConfig(format='basic %(message)s', level=logging.CRITICAL)"
    )
    assert "event.dead" not in drained(shop)
    assert "\nbasic event.settled: " in drained(shop, "--verbose")


def test_a_form_that_is_asked_for_is_given_whoever_configured_logging(shop: Shop) -> None:
    configured(shop, "import logging; logging.basicConfig(format='basic %(message)s')")
    log = drained(shop, "--log-format", "json")
    [dead] = [
        line
        for line in map(json.loads, re.findall(r"^\{.*\}$", log, re.MULTILINE))
        if line["event"] == "event.dead"
    ]
    assert (dead["level"], dead["listener"], dead["entry"], dead["attempt"]) == ("ERROR", "ship", 2, 1)
    assert dead["message"].startswith("event.dead: entry 2 for 'ship'")
    assert re.fullmatch(STAMP, dead["time"])
    assert "basic event" not in log


INI = """
[loggers]
keys = root
[handlers]
keys = mine
[formatters]
keys = mine
[logger_root]
level = INFO
handlers = mine
[handler_mine]
class = StreamHandler
formatter = mine
[formatter_mine]
format = mine %(levelname)s %(message)s
"""


@pytest.mark.parametrize(("name", "content"), [("log.json", json.dumps(DICT_CONFIG)), ("log.ini", INI)])
def test_a_file_configures_supervisor_and_workers(shop: Shop, name: str, content: str) -> None:
    (shop.folder / name).write_text(content)
    assert drained(shop, "--log-config", name).count("mine ERROR event.dead") == 1


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (
            "{}",
            (),
            "log.json cannot be used: dictionary doesn't specify a version. Give a .json or .toml file",
        ),
        ("{", (), "log.json cannot be used: Expecting property name"),
        ("{}", ("--log-format", "json"), "--log-config says how lines look. Leave out --log-format."),
    ],
)
def test_a_file_that_configures_nothing_is_refused(
    shop: Shop, content: str, options: tuple[str, ...], sentence: str
) -> None:
    (shop.folder / "log.json").write_text(content)
    result = shop.run("listen", "shop.listeners", "--drain", "--log-config", "log.json", *options)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_what_a_worker_cannot_import_is_logged(shop: Shop) -> None:
    configured(
        shop, "import multiprocessing as m; assert m.parent_process() is None, 'only for the supervisor'"
    )
    result = shop.run("listen", "shop.listeners", "--drain")
    assert result.returncode == 2
    assert "ERROR" in result.stderr
    assert (
        "worker.refused: module 'shop.listeners' cannot be imported: AssertionError: only for"
        in result.stderr
    )
