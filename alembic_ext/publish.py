"""The operations on the publish function, which `sqla_pubsub.publish` calls to send a message.

There is one such function per outbox, and it knows the listeners of every message: so it changes when
a message or one of its listeners does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from alembic.operations import MigrateOperation, Operations
from sqlalchemy.schema import ExecutableDDLElement

from alembic_ext.operations import PubSubOperation
from sqla_pubsub.declare.ddl import CreatePublish, DropPublish
from sqla_pubsub.declare.fanout import FanOut


class _Required(TypedDict):
    messages: Mapping[str, Sequence[str | Mapping[str, str]]]


class MessageKeywords(_Required, total=False):
    """Keywords common to both operations.

    Attributes:
        messages: For the name of each message its listeners: a name, or a dictionary with ``name`` and
            ``ordered_by``, the field that orders its events.
        prefix: Start of the names of outbox and function; ``"pubsub_"`` by default.
        outbox_schema: Schema of the outbox and the function; without it the one in which the
            migration finds the outbox.
        format: Version of the capture SQL; the first one by default.
    """

    prefix: str
    outbox_schema: str | None
    format: int


class PublishOperation(PubSubOperation):
    """Base of the operations on the publish function.

    Attributes:
        fan_out: The messages and their listeners.
    """

    def __init__(self, fan_out: FanOut) -> None:
        self.fan_out = fan_out

    def plain(self) -> dict[str, Any]:
        """Return the arguments of the method of ``op``, by name."""
        return self.fan_out.as_dict()


@Operations.register_operation("create_pubsub_publish_function")
class CreatePublishOp(PublishOperation):
    """Create or replace the publish function.

    Args:
        fan_out: The messages and their listeners.
        previous: What the function knew, if it was there; the reverse puts that back.
    """

    name = "create_pubsub_publish_function"

    def __init__(self, fan_out: FanOut, previous: FanOut | None = None) -> None:
        super().__init__(fan_out)
        self.previous = previous

    @classmethod
    def create_pubsub_publish_function(
        cls, operations: Operations, /, **keywords: Unpack[MessageKeywords]
    ) -> None:
        """Create the function that sends messages, or replace the one that is there.

        ::

            op.create_pubsub_publish_function(
                messages={
                    "viewed": ["count_views"],
                },
            )

        Args:
            operations: Given by Alembic.
            keywords: All messages as they will be; see `MessageKeywords`.

        Raises:
            ConfigurationError: A keyword is unknown or its value impossible.
        """
        operations.invoke(cls(FanOut.from_dict({**keywords})))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes this one."""
        if self.previous is not None:
            return CreatePublishOp(self.previous, previous=self.fan_out)
        return DropPublishOp(self.fan_out)

    def statements(self) -> tuple[ExecutableDDLElement, ...]:
        """Return the DDL, in order."""
        return (CreatePublish(self.fan_out),)


@Operations.register_operation("drop_pubsub_publish_function")
class DropPublishOp(PublishOperation):
    """Drop the publish function; carries what is needed to create it again."""

    name = "drop_pubsub_publish_function"

    @classmethod
    def drop_pubsub_publish_function(
        cls, operations: Operations, /, **keywords: Unpack[MessageKeywords]
    ) -> None:
        """Drop the function that sends messages, if it exists. Entries in the outbox stay there.

        ::

            op.drop_pubsub_publish_function(
                messages={
                    "viewed": ["count_views"],
                },
            )

        Args:
            operations: Given by Alembic.
            keywords: All messages as they were; see `MessageKeywords`.

        Raises:
            ConfigurationError: A keyword is unknown or its value impossible.
        """
        operations.invoke(cls(FanOut.from_dict({**keywords})))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes this one."""
        return CreatePublishOp(self.fan_out)

    def statements(self) -> tuple[ExecutableDDLElement, ...]:
        """Return the DDL, in order."""
        return (DropPublish(self.fan_out),)
