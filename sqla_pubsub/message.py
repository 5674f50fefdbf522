"""Typed custom messages, through the same outbox, in the caller's transaction.

A message is a dataclass. It travels as one JSON object; msgspec checks the types on both sides::

    {"article_id": 7, "at": "2026-01-31T09:00:00Z", "took": "PT1.5S", "price": "1.50"}
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, ClassVar, dataclass_transform

import msgspec
from sqlalchemy import Connection, MetaData, TextClause, text
from sqlalchemy.orm import Session, scoped_session

from sqla_pubsub.caller import transaction_of
from sqla_pubsub.contract.names import MAX_BYTES, MESSAGE_OPTION, publish_function
from sqla_pubsub.contract.quoting import qualified
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.fidelity import difference, unwritable
from sqla_pubsub.registry import registry_of


@dataclass_transform()
class Message:
    """Base of message classes: ``class Viewed(Message, metadata=Base.metadata, name="viewed")``.

    A subclass is a dataclass, made so here. Its fields are primitives, datetime, date, time, timedelta,
    UUID, Decimal, Enum, Optional, dataclasses, lists and dicts of these.

    Args:
        metadata: Whose outbox it goes through; inherited from a parent message.
        name: Durable name; default: the class's name.

    Raises:
        ConfigurationError: No metadata is given, or the name is taken or too long.
    """

    __message_name__: ClassVar[str]
    __message_metadata__: ClassVar[MetaData]

    def __init_subclass__(
        cls, *, metadata: MetaData | None = None, name: str | None = None, **options: Any
    ) -> None:
        super().__init_subclass__(**options)
        if metadata is None and not hasattr(cls, "__message_metadata__"):
            raise ConfigurationError(
                f"message {cls.__qualname__} belongs to no metadata. "
                f"Write: class {cls.__name__}(Message, metadata=Base.metadata)."
            )
        if "__dataclass_fields__" in vars(cls):
            # @dataclass(slots=True) makes the class a second time.
            return
        if metadata is not None:
            cls.__message_metadata__ = metadata
        cls.__message_name__ = name or cls.__name__
        dataclasses.dataclass(cls)
        _register(cls)


def publish(session: Session | scoped_session[Any] | Connection, message: Message) -> None:
    """Publish *message* to all its listeners, when the transaction of *session* commits.

    Whose listeners these are is known to the database, where the migration installed them: the
    publishing process need not import them. What *session* has pending is flushed first.

    Args:
        session: A Session, scoped_session or Connection; a transaction begins if none is open. With an
            AsyncSession: `sqla_pubsub.asyncio.publish`.
        message: An instance of a `Message` subclass.

    Raises:
        ConfigurationError: It is no message, *session* is something else, or a field has a value that
            would not arrive as it is.
    """
    if not isinstance(message, Message):
        raise ConfigurationError(f"publish() got {message!r}. Give an instance of a Message subclass.")
    own = transaction_of(session, "publish", "message")
    payload = encoded(message)
    if isinstance(own, Session):
        own.flush()
    registry = registry_of(message.__message_metadata__)
    table = registry.outbox.Entry.__table__
    connection = own if isinstance(own, Connection) else own.connection(bind_arguments={"clause": table})
    schema = connection.schema_for_object(table)
    statement = _publish_statement(schema, registry.settings.prefix)
    name = message.__message_name__
    own.execute(statement, {"name": name, "payload": payload}, execution_options={MESSAGE_OPTION: name})


def decoder(message_type: type[Any]) -> msgspec.json.Decoder[Any]:
    """Return what reads a stored payload as *message_type*.

    Raises:
        ConfigurationError: A field has a type that cannot travel.
    """
    known = _decoders.get(message_type)
    if known is None:
        try:
            known = _decoders[message_type] = msgspec.json.Decoder(message_type)
        except (TypeError, NameError) as error:
            raise ConfigurationError(
                f"message {message_type.__qualname__} has a field that cannot travel: {error}. "
                "See Message for the types."
            ) from error
    return known


_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


def encoded(message: Message) -> str:
    """Write *message* as JSON, and read it as its listeners will.

    Raises:
        ConfigurationError: It would not arrive as it is.
    """
    arriving = decoder(type(message))
    try:
        found = unwritable(message, "", nul=True)
        if found is None:
            written = msgspec.json.encode(message)
            found = difference(message, arriving.decode(written), "")
    except Exception as error:
        found = f"{type(error).__name__}: {error}".removesuffix(".")
        raise _refused(message, found) from error
    if found is not None:
        raise _refused(message, found)
    return written.decode()


def _refused(message: Message, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"message {message.__message_name__!r} would not arrive as it is: {found}. "
        "Give its fields values of their declared types; see Message for those that can travel."
    )


def _register(cls: type[Message]) -> None:
    registry = registry_of(cls.__message_metadata__)
    name = cls.__message_name__
    if not name.isprintable() or not name.strip() or len(name.encode()) > MAX_BYTES:
        raise ConfigurationError(
            f"message name {name!r} has no visible letter or over {MAX_BYTES} bytes. Give name=."
        )
    known = registry.messages.setdefault(name, cls)
    if known is not cls:
        raise ConfigurationError(
            f"message name {name!r} is declared twice, by {known.__module__}.{known.__qualname__} and "
            f"{cls.__module__}.{cls.__qualname__}. Give one of them another name=."
        )
    _ = registry.outbox


@cache
def _publish_statement(schema: str | None, prefix: str) -> TextClause:
    # As text, because SQLAlchemy leaves the schema of a function unquoted where only its case needs quotes.
    function = qualified(schema, publish_function(prefix)).replace(":", "\\:")
    # Bound as text: of a parameter of type json, the driver may make what a codec of the application says.
    return text(f"SELECT {function}(CAST(:name AS text), CAST(CAST(:payload AS text) AS json))")
