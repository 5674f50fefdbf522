"""The operations on triggers in a migration: ``op.create_pubsub_trigger`` and its two companions.

Each carries a whole `TriggerSpec`, so that its reverse can put back what was there. Their keywords are
the plain form of that value, which is also what an installed function says about itself. They query
nothing, because ``upgrade --sql`` has no connection; on other dialects than PostgreSQL they do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import ExecutableDDLElement

from sqla_pubsub.contract.names import Operation
from sqla_pubsub.declare.ddl import CreateCapture, CreateTrigger, DropCapture, DropTrigger, creation
from sqla_pubsub.declare.spec import TriggerSpec
from sqla_pubsub.errors import sqlstate
from sqla_pubsub.registry import Capture

WRONG_OBJECT_TYPE = "42809"


class _Required(TypedDict):
    operation: Operation
    listeners: Sequence[str | Mapping[str, Any]]


class Keywords(_Required, total=False):
    """Keywords common to the three operations.

    Attributes:
        operation: ``"INSERT"``, ``"UPDATE"``, ``"DELETE"`` or ``"TRUNCATE"``.
        listeners: A name for each listener, or where there is more to say a dictionary with ``name``
            and any of ``of`` (columns of which one must have changed), ``when`` (SQL on ``old`` and
            ``new``) and ``ordered``.
        schema: Schema of the table.
        key: Columns of the primary key, where a listener is ordered or the payload is narrowed.
        zoned: Those of them whose type has a time zone, where a listener is ordered.
        columns: The columns to send; without it all of them.
        exclude: Columns not to send.
        capture: ``"statement"`` (the default) or ``"row"``.
        always: Whether it fires under ``session_replication_role = replica`` too; by default it does not.
        prefix: Start of the names of outbox, trigger and function; ``"pubsub_"`` by default.
        outbox_schema: Schema of the outbox and the function; without it the one in which the
            migration finds the outbox.
        format: Version of the capture SQL; the first one by default.
    """

    schema: str | None
    key: Sequence[str]
    zoned: Sequence[str]
    columns: Sequence[str] | None
    exclude: Sequence[str]
    capture: Capture
    always: bool
    prefix: str
    outbox_schema: str | None
    format: int


class PubSubOperation(MigrateOperation):
    """Base of all our operations, for a ``Rewriter`` that wants every one of them.

    Attributes:
        name: Name of the method of ``op``.
        lost: Listeners that lose their capture by it, as a comment in the migration says.
    """

    name: str
    lost: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the arguments of the method of ``op``, by name."""
        raise NotImplementedError

    def statements(self) -> tuple[ExecutableDDLElement, ...]:
        """Return the DDL, in order."""
        raise NotImplementedError

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what ``alembic check`` and ``compare_metadata`` show."""
        return (self.name, self.plain())


class TriggerOperation(PubSubOperation):
    """Base of the operations on a trigger.

    Attributes:
        spec: The trigger.
    """

    def __init__(self, spec: TriggerSpec) -> None:
        self.spec = spec

    @property
    def table_name(self) -> str:
        """Name of the table, as on Alembic's own operations."""
        return self.spec.table

    @property
    def schema(self) -> str | None:
        """Schema of the table."""
        return self.spec.schema

    def plain(self) -> dict[str, Any]:
        """Return the arguments of the method of ``op``, by name."""
        return self.spec.as_dict()


@Operations.register_operation("create_pubsub_trigger")
class CreateTriggerOp(TriggerOperation):
    """Create trigger and function, or put back as they should be what is damaged.

    Args:
        spec: The trigger.
        previous: What the trigger was, if it was there; the reverse puts that back.
    """

    name = "create_pubsub_trigger"

    def __init__(self, spec: TriggerSpec, previous: TriggerSpec | None = None) -> None:
        super().__init__(spec)
        self.previous = previous

    @classmethod
    def create_pubsub_trigger(
        cls, operations: Operations, table: str, /, **keywords: Unpack[Keywords]
    ) -> None:
        """Publish an operation on a table: create its capture function and its trigger.

        What is there under these names already is replaced. The outbox tables must exist.

        ::

            op.create_pubsub_trigger(
                "comment",
                operation="UPDATE",
                listeners=["audit", {"name": "reindex", "of": ["content"], "when": "new.article_id > 0"}],
            )

        Args:
            operations: Given by Alembic.
            table: Name of the table.
            keywords: See `Keywords`.

        Raises:
            ConfigurationError: A keyword is unknown or its value impossible.
        """
        operations.invoke(cls(_spec(table, keywords)))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes this one."""
        if self.previous is not None:
            return CreateTriggerOp(self.previous, previous=self.spec)
        return DropTriggerOp(self.spec)

    def statements(self) -> tuple[ExecutableDDLElement, ...]:
        """Return the DDL, in order."""
        return creation(self.spec)


@Operations.register_operation("replace_pubsub_function")
class ReplaceFunctionOp(TriggerOperation):
    """Replace only the function, which takes no lock on the table.

    Args:
        spec: The trigger as it will be.
        previous: The trigger as it was; a migration written by hand has no use for it.
    """

    name = "replace_pubsub_function"

    def __init__(self, spec: TriggerSpec, previous: TriggerSpec | None = None) -> None:
        super().__init__(spec)
        self.previous = previous

    @classmethod
    def replace_pubsub_function(
        cls, operations: Operations, table: str, /, **keywords: Unpack[Keywords]
    ) -> None:
        """Change what an installed trigger captures, without any lock on its table.

        It serves for all but ``capture=``, ``always=``, ``prefix=`` and ``outbox_schema=``: ``always=`` needs a
        create, the others a drop and a create.

        ::

            op.replace_pubsub_function(
                "comment",
                operation="INSERT",
                listeners=["email_author", "index_comment"],
            )

        Args:
            operations: Given by Alembic.
            table: Name of the table.
            keywords: The whole trigger as it will be; see `Keywords`.

        Raises:
            ConfigurationError: A keyword is unknown or its value impossible.
        """
        operations.invoke(cls(_spec(table, keywords)))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes this one.

        Raises:
            NotImplementedError: It was made without ``previous``.
        """
        if self.previous is None:
            raise NotImplementedError(
                f"{self.name} on {self.spec.source!r} does not know what was there before. Give previous=."
            )
        return ReplaceFunctionOp(self.previous, previous=self.spec)

    def statements(self) -> tuple[ExecutableDDLElement, ...]:
        """Return the DDL, in order."""
        return (CreateCapture(self.spec),)


@Operations.register_operation("drop_pubsub_trigger")
class DropTriggerOp(TriggerOperation):
    """Drop trigger and function; carries what is needed to create them again."""

    name = "drop_pubsub_trigger"

    @classmethod
    def drop_pubsub_trigger(cls, operations: Operations, table: str, /, **keywords: Unpack[Keywords]) -> None:
        """Stop publishing an operation on a table: drop its trigger and its function, if they exist.

        Entries in the outbox stay there. ::

            op.drop_pubsub_trigger(
                "comment",
                operation="INSERT",
                listeners=["email_author"],
            )

        Args:
            operations: Given by Alembic.
            table: Name of the table.
            keywords: The whole trigger as it was; see `Keywords`.

        Raises:
            ConfigurationError: A keyword is unknown or its value impossible.
        """
        operations.invoke(cls(_spec(table, keywords)))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes this one."""
        return CreateTriggerOp(self.spec)

    def statements(self) -> tuple[ExecutableDDLElement, ...]:
        """Return the DDL, in order."""
        return (DropTrigger(self.spec), DropCapture(self.spec))


@Operations.implementation_for(PubSubOperation)
def _run(operations: Operations, operation: PubSubOperation) -> None:
    if operations.get_context().dialect.name != "postgresql":
        return
    for statement in operation.statements():
        try:
            operations.execute(statement)
        except DBAPIError as error:
            if isinstance(statement, CreateTrigger) and sqlstate(error) == WRONG_OBJECT_TYPE:
                raise CommandError(_no_table(statement.spec, error)) from error
            raise


def _no_table(spec: TriggerSpec, error: DBAPIError) -> str:
    """Say that there is no table: a view may come with the same migration, where no comparison sees it."""
    found = str(error.orig).splitlines()[0].rstrip(".")
    names = ", ".join(map(repr, spec.listener_names))
    return (
        f"{spec.operation} on {spec.source!r} cannot be captured: {found}. Declare {names} on the tables that hold its "
        "rows, and leave PubSub off this model."
    )


def _spec(table: str, keywords: Keywords) -> TriggerSpec:
    return TriggerSpec.from_dict({"table": table, **keywords})
