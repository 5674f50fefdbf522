"""Reads what rows refer to, for many rows with one statement a relationship.

The rows are those of events, and stand in no table as they are. So the instances are put into a session as they are,
and SQLAlchemy is given a statement that returns nothing but their keys: it finds the instances, and loads what is
asked for as it always does. Strategies that would join with the table of the rows are exchanged for ``selectinload``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ARRAY, Connection, Dialect, Select, bindparam, cast, event, func, literal, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import (
    Load,
    Mapper,
    ORMExecuteState,
    Session,
    make_transient,
    make_transient_to_detached,
    selectinload,
)
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.collections import collection_adapter

from sqla_pubsub.errors import ConfigurationError

K = TypeVar("K")
Templates = Mapping[str, Any]
"""By relationship, the object that it refers to, None, or a list of objects."""
Prepared = tuple[Any, tuple[str, ...], tuple[str, ...]]
"""For a class: the statement, its relationships, and the attributes that say what these refer to."""

_SEED = "sqla_pubsub.event"
"""Keeps the row of an event apart from the row of the same key that stands in the table."""
_SELECTIN = (("lazy", "selectin"),)
_EXCHANGED = ("joined", "subquery", "immediate", None)
_OF_JOINS = ("innerjoin", "eager_from_alias")


class _Loading(Session):
    """In which the rows of events, and what they refer to, are together for the time of loading."""


@event.listens_for(_Loading, "do_orm_execute")
def _read_tables(execution: ORMExecuteState) -> None:
    if execution.is_relationship_load:
        execution.update_execution_options(identity_token=None)


class EagerLoad:
    """Loads the relationships that one subscription asks for.

    Args:
        loads: Relationships of a model, and loader options that begin with one.
    """

    def __init__(self, loads: Sequence[Any]) -> None:
        self._options = tuple(
            _grouped(each if isinstance(each, Load) else selectinload(each)) for each in loads
        )
        self._prepared: dict[Mapper[Any], Prepared] = {}
        paths = [element.path.path for option in self._options for element in option.context]
        self.tables = frozenset(name for path in paths for each in path for name in table_names(each))
        """Names of all tables that are read, as far as the options tell."""

    def check(self, name: str) -> None:
        """Refuse what SQLAlchemy cannot make statements of.

        Raises:
            ConfigurationError: Options contradict each other, say, or name what is not there.
        """
        dialect: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
        roots: set[Any] = {option.path[0] for option in self._options}
        for root in roots:
            try:
                options = [each for each in self._options if root.isa(each.path[0])]
                select(root).options(*options).compile(dialect=dialect)
            except SQLAlchemyError as error:
                raise ConfigurationError(
                    f"listener {name!r}: load= cannot be used: {error}. Give relationships, or loader options that one "
                    "query could have together."
                ) from error

    def load(self, connection: Connection, rows: Mapping[K, Any]) -> dict[K, Templates]:
        """Return what each row refers to.

        Args:
            connection: Where it is read, in the open transaction.
            rows: Detached instances, which are used up.

        Raises:
            Exception: Whatever the server, the driver or a type of the models has to say.
        """
        found: dict[K, Templates] = {}
        for shared in self._rounds(rows):
            seeds = {id(seed): seed for seed in shared.values()}
            self._load(connection, list(seeds.values()))
            for key, seed in shared.items():
                state = instance_state(seed)
                _, names, _ = self._prepare(state.mapper)
                found[key] = related(seed, names)
        return found

    def _load(self, connection: Connection, seeds: Sequence[Any]) -> None:
        by_class: dict[Mapper[Any], list[tuple[Any, ...]]] = {}
        with _Loading(connection, join_transaction_mode="rollback_only") as session:
            for seed in seeds:
                state = instance_state(seed)
                make_transient(seed)
                state.identity_token = _SEED
                make_transient_to_detached(seed)
                session.add(seed)
                by_class.setdefault(state.mapper, []).append(state.mapper.primary_key_from_instance(seed))
            for mapper, keys in by_class.items():
                statement, *_ = self._prepare(mapper)
                columns = zip(*keys, strict=True)
                session.scalars(statement, {f"k{n}": list(each) for n, each in enumerate(columns)}).all()

    def _rounds(self, rows: Mapping[K, Any]) -> Iterator[dict[K, Any]]:
        """Yield rows that may be in one session; rows of one key that refer to the same share an instance."""
        left = dict(rows)
        while left:
            first: dict[Any, Any] = {}
            shared, later = dict[K, Any](), dict[K, Any]()
            for key, seed in left.items():
                other = first.setdefault(instance_state(seed).key, seed)
                if other is seed or self._told(other) == self._told(seed):
                    shared[key] = other
                else:
                    later[key] = seed
            yield shared
            left = later

    def _told(self, seed: Any) -> list[Any]:
        state = instance_state(seed)
        _, _, local = self._prepare(state.mapper)
        return [state.mapper, *(state.dict.get(name) for name in local)]

    def _prepare(self, mapper: Mapper[Any]) -> Prepared:
        if mapper not in self._prepared:
            options = [each for each in self._options if mapper.isa(each.path[0])]
            props = {element.path.path[1].key: None for option in options for element in option.context}
            relations = [mapper.relationships[name] for name in props]
            columns = {column for relation in relations for column in relation.local_columns}
            local = {mapper.get_property_by_column(column).key for column in columns}
            # What the model always loads with a row, the listener has not asked for.
            options.append(Load(mapper).lazyload("*"))
            keys = select(mapper).from_statement(_keys_of(mapper))
            statement = keys.options(*options).execution_options(identity_token=_SEED)
            self._prepared[mapper] = statement, tuple(props), tuple(sorted(local))
        return self._prepared[mapper]


def related(instance: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what the loaded relationships of an instance refer to, a collection as a list."""
    state = instance_state(instance)
    found = {}
    for relation in state.mapper.relationships:
        if relation.key in state.dict and (names is None or relation.key in names):
            value = state.dict[relation.key]
            found[relation.key] = list(collection_adapter(value)) if relation.uselist else value
    return found


def table_names(each: Any) -> Iterator[str]:
    """Yield the names of the tables of a mapper, with its subclasses, or of the secondary one of a relationship."""
    secondary = getattr(each, "secondary", None)
    if secondary is not None:
        yield str(secondary.name)
    if isinstance(each, Mapper):
        for mapper in each.self_and_descendants:
            yield from (str(getattr(table, "name", "")) for table in mapper.tables)


def _keys_of(mapper: Mapper[Any]) -> Select[Any]:
    """Return a statement that returns nothing but keys, and of which class their rows are."""
    columns: list[Any] = []
    for number, column in enumerate(mapper.primary_key):
        kind = ARRAY(column.type)
        keys = cast(bindparam(f"k{number}", type_=kind), kind)
        columns.append(func.unnest(keys, type_=column.type).label(column.name))
    told = mapper.polymorphic_on
    if told is not None and told not in mapper.primary_key:
        columns.append(literal(mapper.polymorphic_identity, told.type).label(told.key))
    return select(*columns)


def _grouped(option: Any) -> Any:
    """Return an option whose first relationship is loaded by a statement of its own."""
    changed = option.options()
    changed.context = tuple(_exchanged(element) for element in option.context)
    return changed


def _exchanged(element: Any) -> Any:
    # Path: model, relationship, and the model that it refers to.
    if len(element.path.path) > 3 or dict(element.strategy or ()).get("lazy") not in _EXCHANGED:
        return element
    changed = element._clone()
    changed.strategy = _SELECTIN
    kept = {name: value for name, value in element.local_opts.items() if name not in _OF_JOINS}
    model, relationship = element.path.path[:2]
    plain: Any = selectinload(getattr(model.class_, relationship.key))
    # So that two options that say the same are the same.
    changed.local_opts = plain.context[0].local_opts.union(kept)
    changed._reconcile_to_other = None
    return changed
