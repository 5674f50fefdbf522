"""The SQL of representative triggers, letter by letter, as it stands in ``tests/declare/frozen``.

Installed functions are compared with what this release would install, so a changed letter is a
migration in every project. SQL that was released never changes: a new one gets a new format, and with
it new files. ``python -m tests.declare.test_frozen_sql`` writes those of the present format.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import ExecutableDDLElement

from sqla_pubsub.declare.ddl import (
    CreateCapture,
    CreatePublish,
    CreateTrigger,
    DropCapture,
    DropPublish,
    DropTrigger,
)
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CAPTURE_FORMAT, CapturedListener, TriggerSpec

FOLDER = Path(__file__).parent / "frozen"

ONE = (CapturedListener(name="email_author"),)
TWO = (
    CapturedListener(name="audit"),
    CapturedListener(name="reindex", of=("content", "title"), when="new.article_id > 0", ordered=True),
)

SPECS: dict[str, TriggerSpec | FanOut] = {
    "insert": TriggerSpec(table="comment", operation="INSERT", listeners=ONE),
    "update": TriggerSpec(table="comment", operation="UPDATE", listeners=ONE),
    "delete": TriggerSpec(table="comment", operation="DELETE", listeners=ONE),
    "truncate": TriggerSpec(table="comment", operation="TRUNCATE", listeners=ONE),
    "update_two_listeners": TriggerSpec(table="comment", operation="UPDATE", listeners=TWO, key=("id",)),
    "update_one_ordered": TriggerSpec(table="comment", operation="UPDATE", listeners=TWO[1:], key=("a", "b")),
    "insert_per_row": TriggerSpec(table="comment", operation="INSERT", listeners=ONE, capture="row"),
    "update_per_row": TriggerSpec(
        table="comment", operation="UPDATE", listeners=TWO, key=("id",), capture="row"
    ),
    "truncate_per_row": TriggerSpec(table="comment", operation="TRUNCATE", listeners=TWO, capture="row"),
    "update_zoned": TriggerSpec(
        table="comment", operation="UPDATE", listeners=TWO, key=("day's", "id"), zoned=("day's",)
    ),
    "insert_columns": TriggerSpec(
        table="comment", operation="INSERT", listeners=ONE, key=("id",), columns=("content",)
    ),
    "delete_excluding": TriggerSpec(
        table="comment", operation="DELETE", listeners=ONE, exclude=("pass'word", "secret")
    ),
    "schemas": TriggerSpec(
        table="comment",
        schema="shop",
        operation="INSERT",
        listeners=ONE,
        prefix="shop_",
        outbox_schema="events",
    ),
    "awkward_names": TriggerSpec(
        table="Order 50% 'o' \"x\" :tag $pubsub$",
        schema="My\tSchema",
        operation="INSERT",
        listeners=(
            CapturedListener(name='it\'s 100% \\ "sure"', when="new.note = '50%\t\r\n' -- comment"),
            CapturedListener(name="é"),
        ),
    ),
    "messages": FanOut(
        messages=(("it's 5%", (("audit", "article_id"), ("count", None))), ("unheard", ())),
    ),
    "messages_unheard": FanOut(messages=(("viewed", ()),), prefix="shop_", outbox_schema="events"),
}


def statements(spec: TriggerSpec | FanOut) -> str:
    elements: tuple[ExecutableDDLElement, ...]
    if isinstance(spec, FanOut):
        elements = (CreatePublish(spec), DropPublish(spec))
    else:
        elements = (CreateCapture(spec), CreateTrigger(spec), DropTrigger(spec), DropCapture(spec))
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    return "\n".join(f"{element.compile(dialect=dialect)};\n" for element in elements)


FORMATS = range(1, CAPTURE_FORMAT + 1)


def path(name: str, number: int) -> Path:
    return FOLDER / f"{number}_{name}.sql"


@pytest.mark.parametrize("number", FORMATS)
@pytest.mark.parametrize("name", SPECS)
def test_the_sql_is_as_it_was_released(name: str, number: int) -> None:
    assert statements(replace(SPECS[name], format=number)).encode() == path(name, number).read_bytes()


def test_every_frozen_file_is_compared() -> None:
    assert sorted(FOLDER.glob("*.sql")) == sorted(path(name, number) for name in SPECS for number in FORMATS)


if __name__ == "__main__":
    for each, spec in SPECS.items():
        path(each, CAPTURE_FORMAT).write_bytes(statements(spec).encode())
