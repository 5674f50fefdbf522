"""Compare what is declared with what is installed. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqla_pubsub.declare.fanout import FanOut
from sqla_pubsub.declare.spec import CAPTURE_FORMAT, Installed, TriggerSpec

Kind = Literal[
    "missing", "changed", "damaged", "orphaned", "table", "lanes", "operators", "constant", "exposed"
]
REMEDY = "Run: alembic revision --autogenerate, then alembic upgrade head"
_NAME_MODULES = (
    '. Autogenerate sees only listeners it imports: listeners = ["myapp.listeners"] under [tool.sqla-pubsub] '
    "in pyproject.toml"
)
_RENAME = (
    "It is left alone, because it is not ours. Rename it, or choose other names with configure(prefix=...)"
)
_LEVELS = ("statement", "row")
_UPGRADE = "It is left alone. Upgrade sqla-pubsub here to the release that installed it"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    """One thing that is not as declared.

    Attributes:
        kind: Its name, see the four kinds of differences.
        detail: What was found, for people.
        by_hand: What to do about it where no migration can.
    """

    kind: Kind
    detail: str
    by_hand: str | None = None

    @property
    def listeners(self) -> tuple[str, ...]:
        """Listeners that get no events, or not the declared ones, because of it."""
        return ()

    @property
    def captured(self) -> tuple[str, ...]:
        """Listeners that the installed function serves nevertheless."""
        return ()

    @property
    def same_trigger(self) -> bool:
        """Whether replacing the function mends it, without a lock on the table."""
        return False

    def __str__(self) -> str:
        remedy = self.by_hand or REMEDY
        if self.by_hand is None and set(self.listeners) - set(self.captured):
            remedy += _NAME_MODULES
        return f"{self.detail}. {remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(_Difference):
    """Declared, and not installed: a trigger, or the publish function of messages."""

    kind: Kind = "missing"
    declared: TriggerSpec | FanOut

    @property
    def listeners(self) -> tuple[str, ...]:
        """All that are declared."""
        return self.declared.listener_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed(_Difference):
    """Declared and installed, and not equal.

    Attributes:
        kind: ``changed`` by a declaration, or ``damaged`` by hand.
        installed: What the database has; None is a publish function that is not readable.
    """

    declared: TriggerSpec | FanOut
    installed: Installed | FanOut | None

    @property
    def listeners(self) -> tuple[str, ...]:
        """All that are declared."""
        return self.declared.listener_names

    @property
    def captured(self) -> tuple[str, ...]:
        """Those of the installed function, as far as it is readable."""
        return _captured(self.installed)

    @property
    def same_trigger(self) -> bool:
        """Whether the function alone differs."""
        match self.installed, self.declared:
            case Installed(spec=TriggerSpec() as old, faults=()), TriggerSpec() as new:
                return self.same_function and old.always == new.always
            case _:
                return False

    @property
    def same_function(self) -> bool:
        """Whether what is there calls the function that is wanted, at the level that is wanted."""
        match self.installed, self.declared:
            case Installed(spec=TriggerSpec() as old), TriggerSpec() as new:
                places = [(spec.outbox_schema, spec.function, spec.per_row) for spec in (old, new)]
                return places[0] == places[1]
            case _:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphaned(_Difference):
    """Installed, and not declared."""

    kind: Kind = "orphaned"
    installed: Installed | FanOut

    @property
    def captured(self) -> tuple[str, ...]:
        """Those of the installed function, as far as it is readable."""
        return _captured(self.installed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(_Difference):
    """Found by looking at something else than captures.

    Attributes:
        kind: ``table`` (a table of events is not there), ``lanes`` (that of outlets is not), ``operators`` (one that is not
            needed to handle events, but to pause a listener or to see who works, is not there), ``constant`` (a condition
            that no row changes) or ``exposed`` (others may create what a capture would call).
    """


Difference = Missing | Changed | Orphaned | Found


def _captured(installed: Installed | FanOut | None) -> tuple[str, ...]:
    known = installed.spec if isinstance(installed, Installed) else installed
    return () if known is None else known.listener_names


def diff(installed: Iterable[Installed], declared: Iterable[TriggerSpec]) -> list[Difference]:
    """Return the differences, in the order of the declared triggers, orphans last."""
    found = {(item.schema, item.table, item.operation): item for item in installed}
    differences: list[Difference] = []
    for spec in declared:
        item = found.pop((spec.schema, spec.table, spec.operation), None)
        difference = _compare(item, spec)
        if difference is not None:
            differences.append(difference)
    differences.extend(_orphan(item) for item in found.values())
    return differences


def diff_fan_out(
    installed: FanOut | None, faults: Sequence[str], *, exists: bool, declared: FanOut | None
) -> Difference | None:
    """Compare the publish function; *exists* says whether a function of its name is there at all."""
    if declared is None:
        return None if installed is None else _orphaned_messages(installed)
    name = declared.function
    if not exists:
        return Missing(detail=f"function {name!r} for messages is not installed", declared=declared)
    if installed is not None and installed.format > declared.format:
        return Changed(
            kind="changed", detail=f"function {name!r} was {_by(installed.format)}",
            declared=declared, installed=installed, by_hand=_UPGRADE,
        )  # fmt: skip
    if installed is None or (faults and installed == declared):
        words = "; ".join(faults) or "it is not one of ours"
        return Changed(
            kind="damaged", detail=f"function {name!r} is not as installed: {words}",
            declared=declared, installed=installed,
        )  # fmt: skip
    if installed != declared:
        return Changed(
            kind="changed",
            detail=f"function {name!r} {_older(installed, declared) or 'knows other messages or listeners'}",
            declared=declared, installed=installed,
        )  # fmt: skip
    return None


def _compare(item: Installed | None, spec: TriggerSpec) -> Difference | None:
    where = f"{spec.operation} on table {spec.source!r}"
    names = ", ".join(map(repr, spec.listener_names))
    if item is None:
        word = "listener" if len(spec.listeners) == 1 else "listeners"
        return Missing(declared=spec, detail=f"trigger for {word} {names} is not installed: {where}")
    if item.spec is not None and item.spec.format > spec.format:
        return Changed(
            kind="changed", declared=spec, installed=item, by_hand=_UPGRADE,
            detail=f"trigger for {where} was {_by(item.spec.format)}",
        )  # fmt: skip
    faults = "; ".join((*item.faults, *item.function_faults))
    if item.spec is None or (faults and item.spec == spec):
        return Changed(
            kind="damaged", declared=spec, installed=item,
            detail=f"trigger for {where} ({names}) is not as installed: {faults}",
        )  # fmt: skip
    if item.spec != spec:
        return Changed(
            kind="changed", declared=spec, installed=item,
            detail=f"trigger for {where} {_older(item.spec, spec) or f'differs: {_words(item.spec, spec)}'}",
        )  # fmt: skip
    if item.grant is not None:
        return Changed(
            kind="damaged", declared=spec, installed=item, by_hand=f"Run: {item.grant}",
            detail=f"every write fails that trigger for {where} ({names}) captures: its function may not write entries",
        )  # fmt: skip
    return None


def _orphaned_messages(installed: FanOut) -> Difference:
    detail = f"function {installed.function!r} publishes messages, which this program does not declare"
    return Orphaned(detail=detail, installed=installed)


def _older(installed: TriggerSpec | FanOut, declared: TriggerSpec | FanOut) -> str:
    """Return what is said of one that is as declared but for its format, nothing of others."""
    if replace(installed, format=declared.format) != declared:
        return ""
    return f"was installed by an earlier sqla-pubsub (capture format {installed.format}, this one writes {declared.format})"


def _by(number: int) -> str:
    return f"installed by a newer sqla-pubsub (capture format {number}, this one knows {CAPTURE_FORMAT})"


def _orphan(item: Installed) -> Difference:
    if item.spec is None:
        return Orphaned(
            installed=item, by_hand=_RENAME,
            detail=f"trigger for {item.operation} on table {item.table!r} has a name of ours, but {'; '.join(item.faults)}",
        )  # fmt: skip
    names = ", ".join(map(repr, item.spec.listener_names))
    return Orphaned(
        installed=item,
        detail=f"trigger for {item.operation} on table {item.table!r} serves {names}, which this program does not declare",
    )  # fmt: skip


def _words(old: TriggerSpec, new: TriggerSpec) -> str:
    before, after = set(old.listener_names), set(new.listener_names)
    words = [f"listener {name!r} has no capture" for name in sorted(after - before)]
    words += [f"listener {name!r} is captured but not declared" for name in sorted(before - after)]
    known = {item.name: item for item in old.listeners}
    words += [
        f"listener {item.name!r} has another condition"
        for item in new.listeners
        if item.name in known and known[item.name] != item
    ]
    if old.always != new.always:
        words.append(
            f"it is to fire {'also' if new.always else 'no more'} under session_replication_role = replica"
        )
    if old.per_row != new.per_row:
        words.append(f"it fires per {_LEVELS[old.per_row]}, and is to fire per {_LEVELS[new.per_row]}")
    return ", ".join(words) or "payload or place changed"
