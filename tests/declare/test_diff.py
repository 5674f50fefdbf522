"""The comparison of what is declared with what is installed."""

from dataclasses import replace

import pytest

from sqla_pubsub.declare.diff import Difference, Missing, diff, diff_fan_out
from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CAPTURE_FORMAT, CapturedListener, Installed, TriggerSpec

SPEC = TriggerSpec(table="comment", operation="INSERT", listeners=(CapturedListener(name="email_author"),))
OTHER = replace(SPEC, listeners=(CapturedListener(name="audit"),))
FAN_OUT = FanOut(messages=(("viewed", (("count", None),)),))


def there(
    spec: TriggerSpec | None = SPEC, *faults: str, function: tuple[str, ...] = (), grant: str | None = None
) -> Installed:
    return Installed(
        table="comment", schema=None, operation="INSERT",
        spec=spec, faults=faults, function_faults=function, grant=grant,
    )  # fmt: skip


def only(installed: list[Installed], declared: list[TriggerSpec]) -> Difference:
    (difference,) = diff(installed, declared)
    return difference


def test_equal_triggers_do_not_differ() -> None:
    assert diff([there()], [SPEC]) == []


def test_what_is_only_declared_is_missing() -> None:
    difference = only([], [SPEC])
    assert difference.kind == "missing"
    assert difference.listeners == ("email_author",)
    assert str(difference) == (
        "trigger for listener 'email_author' is not installed: INSERT on table 'comment'. "
        "Run: alembic revision --autogenerate, then alembic upgrade head. Autogenerate sees only listeners it "
        'imports: listeners = ["myapp.listeners"] under [tool.sqla-pubsub] in pyproject.toml'
    )


def test_what_is_only_installed_is_orphaned() -> None:
    difference = only([there()], [])
    assert (difference.kind, difference.listeners) == ("orphaned", ())
    assert "serves 'email_author', which this program does not declare" in difference.detail


def test_another_specification_is_a_change_that_names_the_listeners() -> None:
    difference = only([there(OTHER)], [SPEC])
    assert difference.kind == "changed"
    assert (
        "listener 'email_author' has no capture, listener 'audit' is captured but not declared"
        in difference.detail
    )


def test_another_condition_is_a_change_that_says_so() -> None:
    narrowed = replace(SPEC, listeners=(CapturedListener(name="email_author", when="new.id > 3"),))
    assert "listener 'email_author' has another condition" in only([there()], [narrowed]).detail


@pytest.mark.parametrize(
    "item",
    [
        there(SPEC, "it is disabled"),
        there(None, "it calls mine()"),
        there(function=("its body was edited",)),
        there(SPEC, "it is disabled", function=("its body was edited",), grant="GRANT"),
    ],
)
def test_the_same_specification_with_faults_is_damaged_and_they_are_named(item: Installed) -> None:
    difference = only([item], [SPEC])
    assert (difference.kind, difference.by_hand) == ("damaged", None)
    assert "; ".join(item.faults + item.function_faults) in difference.detail


def test_a_trigger_that_is_not_ours_is_no_business_of_a_migration() -> None:
    assert str(only([there(None, "it calls public.mine(), which is not a capture of ours")], [])) == (
        "trigger for INSERT on table 'comment' has a name of ours, but it calls public.mine(), which is not a "
        "capture of ours. It is left alone, because it is not ours. Rename it, or choose other names with "
        "configure(prefix=...)"
    )


def test_a_privilege_is_given_back_by_hand() -> None:
    difference = only([there(grant="GRANT INSERT ON pubsub_outbox TO owner")], [SPEC])
    assert (difference.kind, difference.captured) == ("damaged", ("email_author",))
    assert str(difference).endswith("Run: GRANT INSERT ON pubsub_outbox TO owner")


def test_what_an_earlier_release_installed_says_so_and_nothing_of_payloads() -> None:
    earlier = replace(SPEC, format=CAPTURE_FORMAT - 1)
    found = [
        only([there(earlier)], [SPEC]),
        diff_fan_out(replace(FAN_OUT, format=CAPTURE_FORMAT - 1), (), exists=True, declared=FAN_OUT),
    ]
    for difference in found:
        assert difference is not None
        assert difference.kind == "changed"
        formats = f"(capture format {CAPTURE_FORMAT - 1}, this one writes {CAPTURE_FORMAT})"
        assert f"was installed by an earlier sqla-pubsub {formats}" in str(difference)
    other = only([there(replace(OTHER, format=CAPTURE_FORMAT - 1))], [SPEC])
    assert "earlier sqla-pubsub" not in str(other)


def test_what_a_newer_release_installed_is_left_to_it() -> None:
    difference = only([there(replace(OTHER, format=CAPTURE_FORMAT + 1))], [SPEC])
    assert (difference.kind, difference.captured) == ("changed", ("audit",))
    assert "Upgrade sqla-pubsub here" in str(difference)
    newer = diff_fan_out(replace(FAN_OUT, format=CAPTURE_FORMAT + 1), (), exists=True, declared=FAN_OUT)
    assert newer is not None
    assert "Upgrade sqla-pubsub here" in str(newer)


@pytest.mark.parametrize(
    ("installed", "same"),
    [
        (there(OTHER), True),
        (there(OTHER, "it is disabled"), False),
        (there(OTHER, function=("its body was edited",)), True),
        (there(SPEC, function=("its body was edited",)), True),
        (there(replace(SPEC, capture="row")), False),
        (there(replace(SPEC, outbox_schema="events")), False),
        (there(replace(SPEC, table="renamed")), False),
        (there(SPEC, "it is disabled"), False),
        (there(None, "it calls mine()"), False),
    ],
)
def test_only_a_change_inside_the_function_is_mended_by_replacing_it(
    installed: Installed, same: bool
) -> None:
    assert only([installed], [SPEC]).same_trigger is same


def test_missing_and_orphaned_triggers_are_not_mended_by_replacing_a_function() -> None:
    assert not only([], [SPEC]).same_trigger
    assert not only([there()], []).same_trigger


def test_the_operations_of_one_table_are_compared_apart() -> None:
    update = replace(SPEC, operation="UPDATE")
    difference = only([there()], [SPEC, update])
    assert isinstance(difference, Missing)
    assert difference.declared == update


@pytest.mark.parametrize(
    ("installed", "faults", "declared", "kind"),
    [
        (None, (), None, None),
        (FAN_OUT, (), FAN_OUT, None),
        (FAN_OUT, (), None, "orphaned"),
        (FAN_OUT, ("everybody may execute its function",), FAN_OUT, "damaged"),
        (FanOut(messages=(("viewed", ()),)), (), FAN_OUT, "changed"),
    ],
)
def test_the_publish_function_is_compared_alike(
    installed: FanOut | None, faults: tuple[str, ...], declared: FanOut | None, kind: str | None
) -> None:
    difference = diff_fan_out(installed, faults, exists=installed is not None, declared=declared)
    assert (None if difference is None else difference.kind) == kind


@pytest.mark.parametrize(("exists", "kind"), [(False, "missing"), (True, "damaged")])
def test_a_publish_function_that_is_not_ours_is_damage_and_none_is_missing(exists: bool, kind: str) -> None:
    difference = diff_fan_out(None, (), exists=exists, declared=FAN_OUT)
    assert difference is not None
    assert difference.kind == kind
