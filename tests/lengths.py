"""How long a test is: short in ``make test``, at its full length where PUBSUB_TEST_FULL is set."""

import os
from typing import TypeVar

T = TypeVar("T")

FULL_LENGTH = os.environ.get("PUBSUB_TEST_FULL", "") not in ("", "0")


def length(*, short: T, full: T) -> T:
    """Return the number of rows, seconds or turns that this run is to have.

    Args:
        short: What shows a mistake on every change, in a few seconds.
        full: What the promise is about: the million rows, the minute.
    """
    return full if FULL_LENGTH else short
