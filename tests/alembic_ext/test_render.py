"""What autogenerate writes, pinned: these lines stand in other people's repositories."""

import ast
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest
from alembic.autogenerate import render_python_code
from alembic.operations.ops import UpgradeOps
from hypothesis import given

import tests.declare.strategies as some
from alembic_ext.operations import CreateTriggerOp, DropTriggerOp, PubSubOperation, ReplaceFunctionOp
from alembic_ext.publish import CreatePublishOp, DropPublishOp
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CapturedListener, TriggerSpec

SIMPLE = TriggerSpec(table="comment", operation="INSERT", listeners=(CapturedListener(name="email_author"),))
RICH = TriggerSpec(
    table="Comment",
    schema="Shop",
    operation="UPDATE",
    listeners=(
        CapturedListener(name="audit"),
        CapturedListener(
            name="reindex",
            of=("a", "b"),
            when="new.s = 'it''s \"5%\"'\n\tOR true",
            ordered=True,
        ),
    ),
    key=("id", "tenant"),
    columns=("content",),
    exclude=("secret",),
    capture="row",
    prefix="shop_",
    outbox_schema="events",
)
MESSAGES = FanOut(
    messages=(("ordered", ()), ("viewed", (("audit", "article_id"), ("count_views", None)))),
    outbox_schema="events",
)

RENDERED = {
    "create, in the format of the first release": (
        CreateTriggerOp(replace(SIMPLE, format=1)),
        """\
        op.create_pubsub_trigger(
            'comment',
            operation='INSERT',
            listeners=['email_author'],
        )""",
    ),
    "create": (
        CreateTriggerOp(SIMPLE),
        """\
        op.create_pubsub_trigger(
            'comment',
            operation='INSERT',
            listeners=['email_author'],
            format=3,
        )""",
    ),
    "create, everything given": (
        CreateTriggerOp(RICH),
        """\
        op.create_pubsub_trigger(
            'Comment',
            operation='UPDATE',
            listeners=[
                'audit',
                {'name': 'reindex', 'of': ['a', 'b'], 'when': 'new.s = \\'it\\'\\'s "5%"\\'\\n\\tOR true', 'ordered': True},
            ],
            schema='Shop',
            key=['id', 'tenant'],
            columns=['content'],
            exclude=['secret'],
            capture='row',
            prefix='shop_',
            outbox_schema='events',
            format=3,
        )""",
    ),
    "replace": (
        ReplaceFunctionOp(SIMPLE, previous=RICH),
        """\
        op.replace_pubsub_function(
            'comment',
            operation='INSERT',
            listeners=['email_author'],
            format=3,
        )""",
    ),
    "drop, with many listeners": (
        DropTriggerOp(
            TriggerSpec(
                table="comment",
                operation="DELETE",
                listeners=tuple(CapturedListener(name=f"a_listener_with_a_long_name_{n}") for n in range(3)),
            )
        ),
        """\
        op.drop_pubsub_trigger(
            'comment',
            operation='DELETE',
            listeners=[
                'a_listener_with_a_long_name_0',
                'a_listener_with_a_long_name_1',
                'a_listener_with_a_long_name_2',
            ],
            format=3,
        )""",
    ),
    "create the publish function": (
        CreatePublishOp(MESSAGES),
        """\
        op.create_pubsub_publish_function(
            messages={
                'ordered': [],
                'viewed': [{'name': 'audit', 'ordered_by': 'article_id'}, 'count_views'],
            },
            outbox_schema='events',
            format=3,
        )""",
    ),
    "drop the publish function": (
        DropPublishOp(FanOut(messages=(("viewed", ()),))),
        """\
        op.drop_pubsub_publish_function(
            messages={
                'viewed': [],
            },
            format=3,
        )""",
    ),
}


def rendered(operation: PubSubOperation, **options: Any) -> str:
    """Return what stands between Alembic's comments."""
    lines = render_python_code(UpgradeOps([operation]), **options).splitlines()
    return (
        dedent("\n".join(["    " + lines[0].strip(), *lines[1:]])).split("###")[2].rstrip("# \n").strip("\n")
    )


@pytest.mark.parametrize("case", RENDERED)
def test_an_operation_is_rendered_as_pinned(case: str) -> None:
    operation, expected = RENDERED[case]
    assert rendered(operation) == dedent(expected)


def test_the_prefix_of_alembic_is_used() -> None:
    assert rendered(CreateTriggerOp(SIMPLE), alembic_module_prefix="migration.").startswith(
        "migration.create_pubsub_trigger("
    )


@given(some.specs())
def test_a_rendered_trigger_reads_back_as_the_same_one(spec: TriggerSpec) -> None:
    """Through Alembic's own indenting, which treats some lines as blocks of Python."""
    (call,) = ast.parse(rendered(CreateTriggerOp(spec))).body
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    keywords = {str(item.arg): ast.literal_eval(item.value) for item in call.value.keywords}
    assert TriggerSpec.from_dict({"table": ast.literal_eval(call.value.args[0]), **keywords}) == spec


@given(some.fan_outs())
def test_a_rendered_publish_function_reads_back_as_the_same_one(fan_out: FanOut) -> None:
    (call,) = ast.parse(rendered(DropPublishOp(fan_out))).body
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    keywords = {str(item.arg): ast.literal_eval(item.value) for item in call.value.keywords}
    assert FanOut.from_dict(keywords) == fan_out
