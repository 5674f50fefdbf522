"""The event decorators: this function listens to that change.

They check what can be checked where the declaration stands, so that a mistake is an error at import
and not a silent trigger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast

from sqlalchemy import ColumnElement, MetaData
from sqlalchemy.exc import ArgumentError, InvalidRequestError
from sqlalchemy.orm import Mapper, QueryableAttribute, class_mapper
from sqlalchemy.orm.interfaces import LoaderOption

from sqla_pubsub.contract.attributes import column_names, local_table
from sqla_pubsub.contract.names import MESSAGE, Operation
from sqla_pubsub.declare.annotations import check_annotations
from sqla_pubsub.declare.conditions.compiling import check_condition, compile_condition
from sqla_pubsub.declare.handlers import is_asynchronous, is_empty, parameters_of
from sqla_pubsub.declare.loads import loads_of, refuse_load
from sqla_pubsub.declare.mixin import PubSub
from sqla_pubsub.declare.options import check_keywords, check_outlet, check_together, names_of
from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.event import Delete, Insert, MessageEvent, Truncate, Update
from sqla_pubsub.message import Message, decoder
from sqla_pubsub.outlet import Outlet
from sqla_pubsub.registry import Condition, ListenerSpec, Subscription, registry_of
from sqla_pubsub.retry import RetryPolicy

if TYPE_CHECKING:
    # Forty protocols, which no program needs to run.
    from sqla_pubsub.declare.signatures import Declares

M = TypeVar("M", bound=PubSub)
T = TypeVar("T", bound=Message)


class Options(TypedDict, total=False):
    """Keywords common to all event decorators.

    Attributes:
        name: Durable name of the listener; default: the function's name.
        when: Function of ``old`` and/or ``new`` that returns a SQLAlchemy expression, or a SQL string.
            Evaluated by the trigger, in the writer's transaction.
        retry: What happens after a failure; default: ``RetryPolicy()``.
        ordered: Handle events of one row one at a time, in commit order.
        batch: Hand over up to this many events in one call, as ``events``; with ``ordered``, those of a row in their order.
        transactional: False for slow outside work: no transaction is open while the handler runs.
        timeout: End a handler that runs longer, as a failed attempt.
        effects: ``"database"`` promises that the handler only works through ``session``; its events
            then need no savepoint of their own.
        load: Relationships, or loader options of them, that come loaded with the rows of events: read once
            for all events of a group. One alone needs no list. New in 0.2.0.
        concurrency: How many events of an ``async def`` listener a process has in hand at most. New in 0.2.0.
        to: An outlet of `sqla_pubsub.outlets`, to which what the function returns is sent, exactly once and in order per
            row; nothing is sent for None. A function without a body sends the row. New in 0.3.0.
        previous_names: Names this listener had before; their waiting entries are adopted. A string
            alone is one name.
    """

    name: str
    when: Condition | None
    retry: RetryPolicy | None
    ordered: bool
    batch: int | None
    transactional: bool
    timeout: timedelta | None
    effects: Literal["any", "database"]
    load: Iterable[Any] | QueryableAttribute[Any] | LoaderOption | None
    concurrency: int | None
    to: Outlet | None
    previous_names: Iterable[str]


class Forward:
    """Stands for the function of a listener that has none; see `sqla_pubsub.declare.relaying.relay`."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def __call__(self) -> None:
        """Do nothing: the row is sent as it is."""


def after_insert(model: type[M], /, **options: Unpack[Options]) -> Declares[Insert[M], None, M]:
    """Call the function for every row inserted into the model's table.

    Raises:
        ConfigurationError: The declaration cannot work; the message says why.
    """
    return _decorator(model, "INSERT", (), options)


def after_update(
    model: type[M],
    /,
    *,
    of: Iterable[Any] | QueryableAttribute[Any] = (),
    **options: Unpack[Options],
) -> Declares[Update[M], M, M]:
    """Call the function for every row whose values changed.

    Args:
        model: The model.
        of: Attributes of which at least one must have changed; empty for any column. One alone needs
            no list. An UPDATE that leaves all values as they were publishes nothing.
        options: See `Options`.

    Raises:
        ConfigurationError: The declaration cannot work; the message says why.
    """
    return _decorator(model, "UPDATE", of, options)


def after_delete(model: type[M], /, **options: Unpack[Options]) -> Declares[Delete[M], M, None]:
    """Call the function for every row deleted from the model's table.

    Raises:
        ConfigurationError: The declaration cannot work; the message says why.
    """
    return _decorator(model, "DELETE", (), options)


def after_truncate(model: type[M], /, **options: Unpack[Options]) -> Declares[Truncate[M], None, None]:
    """Call the function once for every TRUNCATE of the model's table.

    Raises:
        ConfigurationError: The declaration cannot work; the message says why.
    """
    return _decorator(model, "TRUNCATE", (), options)


def on_message(
    message: type[T], /, *, ordered_by: str | None = None, **given: Unpack[Options]
) -> Declares[MessageEvent[T], None, T]:
    """Call the function for every published message of this type; it arrives as ``new``.

    Args:
        message: The message class.
        ordered_by: For an ordered listener: the field whose equal values are handled in order. No lock
            is taken on a value: transactions that publish it at the same time have no order.
        given: See `Options`; a message takes no ``when``.

    Raises:
        ConfigurationError: The declaration cannot work; the message says why.
    """
    _check_message(message)
    fields = [field.name for field in dataclasses.fields(cast("Any", message))]

    def decorate(handler: Any, /) -> Any:
        options = _options(handler, given)
        name = _name(handler, options)
        check_keywords("on_message", name, {**options}, Options.__annotations__, "ordered_by")
        refuse_load(name, options.get("load", ()), f"the message {message.__qualname__}")
        if options.get("when") is not None:
            raise ConfigurationError(f"listener {name!r} of a message takes no when=. Test in the handler.")
        if ordered_by not in (None, *fields):
            raise ConfigurationError(
                f"ordered_by={ordered_by!r} of listener {name!r} is no field of {message.__qualname__}. "
                f"Give one of: {', '.join(fields)}."
            )
        if options.get("to") is None and options.get("ordered", False) != (ordered_by is not None):
            raise ConfigurationError(
                f"listener {name!r} of a message: ordered=True needs ordered_by=, and the other way round. "
                f"Give one of the fields: {', '.join(fields)}."
            )
        source = message.__message_name__
        subscription = Subscription(operation=MESSAGE, source=source, message=message, ordered_by=ordered_by)
        register(message.__message_metadata__, handler, name, subscription, options)
        return handler

    return decorate


def _decorator(
    model: type[Any], operation: Operation, of: Iterable[Any] | QueryableAttribute[Any], given: Options
) -> Declares[Any, Any, Any]:
    decorator = f"after_{operation.lower()}"
    mapper = _mapper(model, decorator)
    columns = column_names(mapper, _attributes(of), "of")

    def decorate(handler: Any, /) -> Any:
        options = _options(handler, given)
        name = _name(handler, options)
        own = "of" if operation == "UPDATE" else None
        check_keywords(decorator, name, {**options}, Options.__annotations__, own)
        when = options.get("when")
        check_condition(when, operation, name)
        compile_condition(when, mapper, operation, name)
        table = local_table(mapper)
        load = options.get("load", ())
        if operation == "TRUNCATE":
            refuse_load(name, load, "a TRUNCATE")
        subscription = Subscription(
            operation=operation, source=table.fullname, mapper=mapper, of=columns, when=when,
            load=loads_of(name, load, mapper),
        )  # fmt: skip
        register(table.metadata, handler, name, subscription, options)
        return handler

    return decorate


def register(
    metadata: MetaData, handler: Callable[..., Any], name: str, subscription: Subscription, options: Options
) -> None:
    """Check a listener and add it to the registry of *metadata*."""
    batch, asynchronous = options.get("batch"), is_asynchronous(handler)
    to = options.get("to")
    if to is not None:
        check_outlet(name, to, options, asynchronous=asynchronous)
    spec = ListenerSpec(
        name=name,
        handler=handler,
        parameters=parameters_of(handler, name, batch),
        subscriptions=(subscription,),
        retry=options.get("retry") or RetryPolicy(),
        ordered=options.get("ordered", False) or to is not None,
        batch=batch,
        transactional=options.get("transactional", True) and to is None,
        asynchronous=asynchronous,
        timeout=options.get("timeout"),
        effects=options.get("effects", "any"),
        concurrency=options.get("concurrency"),
        previous_names=names_of(name, options.get("previous_names", ())),
        to=to,
        forward=isinstance(handler, Forward) or (to is not None and is_empty(handler)),
    )
    check_together(spec)
    check_annotations(handler, name, subscription, asynchronous=asynchronous)
    registry_of(metadata).add(spec)


def _options(handler: object, given: Options) -> Options:
    """Return the options of a decorator, and those of a relay, which stands for a function."""
    return {**given, **handler.options} if isinstance(handler, Forward) else given


def _name(handler: object, options: Options) -> str:
    if not callable(handler):
        raise ConfigurationError(f"{handler!r} is no function. Decorate a function.")
    name = options.get("name")
    if isinstance(name, str):
        return name
    own = str(getattr(handler, "__name__", ""))
    if own in ("", "<lambda>"):
        what = "a lambda" if own else f"an object of type {type(handler).__name__}"
        raise ConfigurationError(
            f"a listener is {what}, which has no name of its own, and entries need one that lasts. "
            "Give it in the decorator: name='email_author'."
        )
    return own


def _attributes(of: object) -> Iterable[Any]:
    if isinstance(of, str | QueryableAttribute | ColumnElement):
        return [of]
    if not isinstance(of, Iterable):
        raise ConfigurationError(f"of={of!r} names no attributes. Give a list, such as of=[Comment.content].")
    return of


def _refuse_function(found: object, decorator: str, wanted: str) -> None:
    """Without its parentheses a decorator gets the handler in the place of the model."""
    if isinstance(found, FunctionType):
        raise ConfigurationError(
            f"{decorator} is given the function {found.__qualname__!r}. Write @{decorator}({wanted}) above it."
        )


def _check_message(message: object) -> None:
    _refuse_function(message, "on_message", "MessageType")
    if not (isinstance(message, type) and issubclass(message, Message)) or message is Message:
        raise ConfigurationError(f"on_message({message!r}): give a subclass of Message.")
    decoder(message)


def _mapper(model: type[Any], decorator: str) -> Mapper[Any]:
    _refuse_function(model, decorator, "Model")
    try:
        mapper: Mapper[Any] = class_mapper(model, configure=False)
    except (ArgumentError, InvalidRequestError, TypeError) as error:
        raise ConfigurationError(
            f"{model!r} is not a mapped class. Give a model that has the PubSub mixin."
        ) from error
    if not issubclass(model, PubSub):
        raise ConfigurationError(
            f"model {model.__qualname__} does not publish its changes. "
            f"Add the mixin: class {model.__name__}(PubSub, ...)."
        )
    return mapper
