"""A trigger as a frozen value: what is captured, for whom.

The same value is compared, rendered into migrations, stored as the first line of the installed
function and read back from there. Its plain form is drawn in `TriggerSpec.as_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqla_pubsub.contract.names import (
    DEFAULT_PREFIX,
    OPERATIONS,
    Operation,
    capture_function,
    capture_trigger,
    outbox_table,
)
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.registry import Capture

CAPTURE_FORMAT = 3
"""Version of the SQL of captures and of the publish function. What it writes has a number of its own."""


def refuse_newer(number: int) -> None:
    """Refuse to write what only a newer release knows how to.

    Raises:
        ConfigurationError: As the first sentence says.
    """
    if not 1 <= number <= CAPTURE_FORMAT:
        raise ConfigurationError(
            f"capture format {number} is unknown to this release, which knows {CAPTURE_FORMAT}. Upgrade sqla-pubsub."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedListener:
    """One listener of a trigger.

    Attributes:
        name: Durable name of the listener.
        of: Columns of which one must have changed; empty for any.
        when: SQL condition on ``old`` and ``new``.
        ordered: Whether its entries carry the row's key.
    """

    name: str
    of: tuple[str, ...] = ()
    when: str | None = None
    ordered: bool = False

    def as_plain(self) -> str | dict[str, Any]:
        """Return the name alone where that is all there is, else a mapping without defaults."""
        plain: dict[str, Any] = {"name": self.name}
        if self.of:
            plain["of"] = list(self.of)
        if self.when is not None:
            plain["when"] = self.when
        if self.ordered:
            plain["ordered"] = True
        return self.name if len(plain) == 1 else plain

    @classmethod
    def from_plain(cls, plain: str | Mapping[str, Any]) -> CapturedListener:
        """Read what `as_plain` wrote, or what a person wrote into a migration."""
        if isinstance(plain, str):
            return cls(name=plain)
        unknown = set(plain) - {"name", "of", "when", "ordered"}
        if unknown or "name" not in plain:
            raise ConfigurationError(
                f"listener {dict(plain)!r} of a trigger is not readable. "
                "Give a name, or a mapping with name and any of: of, when, ordered."
            )
        return cls(
            name=plain["name"],
            of=tuple(plain.get("of", ())),
            when=plain.get("when"),
            ordered=bool(plain.get("ordered", False)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSpec:
    """The capture of one operation on one table.

    Attributes:
        table, schema: The table as declared.
        operation: INSERT, UPDATE, DELETE or TRUNCATE.
        listeners: Who gets an entry, in order of name.
        key: Primary-key columns, stored where a listener is ordered.
        zoned: Those of them whose type has a time zone; they are stored in UTC.
        columns: Columns to send, None for the whole row.
        exclude: Columns to leave out.
        capture: Fired per statement or per row.
        always: Fired under ``session_replication_role = replica`` too.
        prefix, outbox_schema: Where outbox and function live; None is the first schema of the
            search path when the migration runs.
        format: Version of the capture SQL; that of a newer release can be read and not written.
    """

    table: str
    operation: Operation
    listeners: tuple[CapturedListener, ...]
    schema: str | None = None
    key: tuple[str, ...] = ()
    zoned: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    capture: Capture = "statement"
    always: bool = False
    prefix: str = DEFAULT_PREFIX
    outbox_schema: str | None = None
    format: int = CAPTURE_FORMAT

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise ConfigurationError(
                f"operation {self.operation!r} of a trigger is unknown. Give one of {', '.join(OPERATIONS)}."
            )
        if not self.listeners:
            raise ConfigurationError(
                f"a trigger on {self.table!r} without listeners captures nothing. Name one."
            )

    @property
    def identity(self) -> tuple[str, str | None, str, Operation]:
        """What makes it the same trigger before and after a change."""
        return (self.prefix, self.schema, self.table, self.operation)

    @property
    def source(self) -> str:
        """Full name of the table, as SQLAlchemy writes it."""
        return self.table if self.schema is None else f"{self.schema}.{self.table}"

    @property
    def function(self) -> str:
        """Name of the function, without schema."""
        return capture_function(self.prefix, self.schema, self.table, self.operation)

    @property
    def trigger(self) -> str:
        """Name of the trigger."""
        return capture_trigger(self.prefix, self.operation)

    @property
    def outbox(self) -> str:
        """Name of the outbox table, without schema."""
        return outbox_table(self.prefix)

    @property
    def per_row(self) -> bool:
        """Whether the trigger fires per row; TRUNCATE never does."""
        return self.capture == "row" and self.operation != "TRUNCATE"

    @property
    def listener_names(self) -> tuple[str, ...]:
        """Names of all listeners."""
        return tuple(listener.name for listener in self.listeners)

    def unconditional(self, columns: Sequence[str]) -> TriggerSpec:
        """Return the same trigger without the conditions that may mention one of *columns*, or its time zone.

        A word inside a longer one counts too: publishing too much for the length of a migration
        harms less than a condition that cannot be evaluated.
        """
        # As a condition writes them: quoted with doubled quotes, or in any case where it is not quoted.
        wanted = [column.replace('"', '""').casefold() for column in columns]
        return replace(
            self,
            zoned=tuple(column for column in self.zoned if column not in columns),
            listeners=tuple(
                replace(item, when=None)
                if item.when is not None and any(column in _written(item.when) for column in wanted)
                else item
                for item in self.listeners
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form, without what has its default.

        ``{"table": "comment", "operation": "UPDATE", "listeners": ["audit", {"name": "reindex",
        "of": ["content"], "when": "new.article_id > 0"}], "key": ["id"]}``
        """
        plain: dict[str, Any] = {
            "table": self.table,
            "operation": self.operation,
            "listeners": [listener.as_plain() for listener in self.listeners],
        }
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                plain[name] = list(value) if isinstance(value, tuple) else value
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TriggerSpec:
        """Read what `as_dict` wrote.

        Raises:
            ConfigurationError: A keyword is unknown or a value impossible.
        """
        try:
            # Without its format, a migration or a mark is of the first one and not of this release's.
            values = {"format": _DEFAULTS["format"], **plain}
            if values["format"] > CAPTURE_FORMAT:
                values = _readable(values)
            listeners = tuple(CapturedListener.from_plain(item) for item in values.pop("listeners"))
            for name in ("key", "zoned", "columns", "exclude"):
                if values.get(name) is not None:
                    values[name] = tuple(values[name])
            return cls(listeners=listeners, **values)
        except (TypeError, KeyError) as error:
            raise ConfigurationError(f"trigger {plain!r} is not readable: {error}.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One trigger of ours as the database has it.

    Attributes:
        table, schema: The table as declared.
        operation: What its name says it captures.
        spec: The specification it was made from; None where the function is not ours.
        faults: What somebody changed on the trigger since, in words.
        function_faults: The same for its function.
        grant: The privilege that somebody took from the function's owner, as the statement that gives it back.
    """

    table: str
    schema: str | None
    operation: Operation
    spec: TriggerSpec | None
    faults: tuple[str, ...] = ()
    function_faults: tuple[str, ...] = ()
    grant: str | None = None


def _written(condition: str) -> str:
    """Return *condition* without the words that our compiler adds, among which a column's name may be found."""
    return condition.casefold().replace("operator(pg_catalog.", "(").replace("pg_catalog.", "")


def _readable(newer: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a newer release's plain form what this release understands: enough to know whom it serves."""
    known = {name: value for name, value in newer.items() if name in TriggerSpec.__slots__}
    names = [item if isinstance(item, str) else item["name"] for item in newer["listeners"]]
    return known | {"listeners": names}


_DEFAULTS: dict[str, Any] = {
    "schema": None,
    "key": (),
    "zoned": (),
    "columns": None,
    "exclude": (),
    "capture": "statement",
    "always": False,
    "prefix": DEFAULT_PREFIX,
    "outbox_schema": None,
    "format": 1,
}
