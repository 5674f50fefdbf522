"""Conditions call what PostgreSQL has and nothing that another role made fit better, and mean what they meant.

A capture runs as its owner, and a role that may create in a schema of its search path sets the traps: a function or
an operator for exactly the types of the columns, where ``pg_catalog`` has one for types that those cast to.
"""

# ruff: noqa: DTZ001 - a column without time zone is compared

import enum
import itertools
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    Connection,
    DateTime,
    Engine,
    Integer,
    SmallInteger,
    String,
    Text,
    TypeDecorator,
    all_,
    and_,
    any_,
    case,
    cast,
    distinct,
    exists,
    extract,
    func,
    literal,
    null,
    or_,
    select,
    text,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import (
    ARRAY,
    CITEXT,
    HSTORE,
    INET,
    INT4RANGE,
    INTERVAL,
    JSONB,
    TSVECTOR,
    Range,
    array,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, class_mapper, mapped_column

from sqla_pubsub import PubSub, after_insert, check
from sqla_pubsub.declare.conditions.builtin import FUNCTIONS, OPERATORS
from sqla_pubsub.declare.conditions.compiling import compile_condition
from tests.declare.entries import entries, nothing, run

ROLE = "pubsub_trickster"


class State(enum.Enum):
    open = "open"
    closed = "closed"


class Base(DeclarativeBase): ...


class Item(PubSub, Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    other: Mapped[str] = mapped_column(String)
    code: Mapped[str] = mapped_column(CHAR(5))
    note: Mapped[str | None] = mapped_column(Text)
    small: Mapped[int] = mapped_column(SmallInteger)
    number: Mapped[int]
    big: Mapped[int] = mapped_column(BigInteger)
    price: Mapped[Decimal]
    ratio: Mapped[float]
    flag: Mapped[bool]
    day: Mapped[date]
    at: Mapped[datetime] = mapped_column(DateTime)
    zoned: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    length: Mapped[timedelta]
    wait: Mapped[timedelta] = mapped_column(INTERVAL)
    token: Mapped[UUID]
    state: Mapped[State]
    data: Mapped[Any] = mapped_column(JSONB)
    plain: Mapped[Any] = mapped_column(JSON)
    tags: Mapped[list[str]] = mapped_column(ARRAY(String))
    texts: Mapped[list[str]] = mapped_column(ARRAY(Text))
    numbers: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    raw: Mapped[bytes]
    span: Mapped[Range[int]] = mapped_column(INT4RANGE)
    address: Mapped[str] = mapped_column(INET)
    words: Mapped[str] = mapped_column(TSVECTOR)


TOKEN = UUID("12345678-1234-5678-1234-567812345678")
HOLDS = {
    "name": "it's 50%", "other": "it's 50%", "code": "ab", "note": "x", "small": 2, "number": 7, "big": 7_000_000_000,
    "price": Decimal("1.5"), "ratio": 2.5, "flag": True, "day": date(2024, 2, 29), "at": datetime(2024, 2, 29, 12),
    "zoned": datetime(2024, 2, 29, 12, tzinfo=UTC),
    "length": timedelta(days=1, seconds=3), "wait": timedelta(days=1, seconds=3),
    "token": TOKEN,
    "state": State.open, "data": {"a": {"b": 2}, "k": "v"}, "plain": {"a": "b"}, "tags": ["x", "y"], "texts": ["x", "y"],
    "numbers": [1, 2], "raw": b"\x00\x01", "span": Range(1, 10), "address": "10.0.0.1", "words": "brown fox",
}  # fmt: skip
FAILS = {
    "name": "other", "other": "another", "code": "zz", "note": "y", "small": 9, "number": 100, "big": 1,
    "price": Decimal(99), "ratio": 0.5, "flag": False, "day": date(2000, 1, 1), "at": datetime(2000, 1, 1),
    "zoned": datetime(2000, 1, 1, tzinfo=UTC), "length": timedelta(days=5), "wait": timedelta(days=5), "token": UUID(int=1),
    "state": State.closed, "data": {}, "plain": {"a": "c"}, "tags": ["q"], "texts": ["q"],
    "numbers": [9], "raw": b"z", "span": Range(50, 60), "address": "192.168.0.1", "words": "lazy dog",
}  # fmt: skip

ITEMS = Item.__table__.alias()

CONDITIONS: list[Any] = [
    lambda new: new.name == "it's 50%",
    lambda new: new.name == new.other,
    lambda new: new.name != "other",
    lambda new: "it's 50%" == new.name,  # noqa: SIM300
    lambda new: ~(new.name == "other"),
    lambda new: new.name < "j",
    lambda new: (new.name <= "j") & (new.name >= "i") & (new.name > "h"),
    lambda new: new.name.in_(["it's 50%", "b"]),
    lambda new: new.name.in_(["it's 50%"]),
    lambda new: new.name.in_([new.other, "b"]),
    lambda new: new.name.in_(["it's 50%", None]),
    lambda new: new.name.not_in(["other", "b"]),
    lambda new: ~new.name.in_(["other"]),
    lambda new: new.code == "ab",
    lambda new: new.code.in_(["ab", "x"]),
    lambda new: new.number.in_([7, 8]) & new.small.in_([2, 3]) & new.big.in_([7_000_000_000]),
    lambda new: new.state.in_([State.open]),
    lambda new: new.state.not_in([State.closed]),
    lambda new: new.day.in_([date(2024, 2, 29)]) & new.token.in_([TOKEN]),
    lambda new: tuple_(new.name, new.number).in_([("it's 50%", 7), ("b", 8)]),
    lambda new: tuple_(new.name, new.number).not_in([("other", 100)]),
    lambda new: tuple_(new.name, new.number) == tuple_("it's 50%", 7),
    lambda new: tuple_(new.number, new.small) < tuple_(8, 1),
    lambda new: new.name.in_(select(func.concat(new.other))),
    lambda new: new.name.not_in(select(literal("other"))),
    lambda new: new.number == select(literal(7)).scalar_subquery(),
    lambda new: exists(select(1).where(new.name == new.other)),
    lambda new: exists().where(
        (ITEMS.c.name == new.name) & (ITEMS.c.number == new.number) & (new.number == 7)
    ),
    lambda new: new.name.like("it%50\\%", escape="\\"),
    lambda new: new.name.like("it%"),
    lambda new: new.name.not_like("o%"),
    lambda new: new.name.not_like("o/%", escape="/") & new.name.ilike("IT%"),
    lambda new: new.name.ilike("IT%/%", escape="/"),
    lambda new: new.name.not_ilike("O%"),
    lambda new: new.name.startswith("it") & ~new.name.startswith("o"),
    lambda new: new.name.endswith("0%", autoescape=True),
    lambda new: new.name.contains("'s", autoescape=True) & new.name.icontains("S 5"),
    lambda new: new.name.istartswith("IT") & new.name.iendswith("0%"),
    lambda new: ~new.name.contains("other"),
    lambda new: new.name.op("SIMILAR TO")("(it|as)%"),
    lambda new: new.name.op("not similar to")("o%"),
    lambda new: new.name.op("LIKE")("it%"),
    lambda new: new.name.op("IS NOT DISTINCT FROM")(new.other),
    lambda new: new.name.regexp_match("^it"),
    lambda new: ~new.name.regexp_match("^o"),
    lambda new: new.name.regexp_match("^IT", flags="i"),
    lambda new: new.name.regexp_match("^IT", flags="ix"),
    lambda new: new.name.regexp_replace("^it", "at") == "at's 50%",
    lambda new: new.name.regexp_replace("^IT", "at", flags="i") == "at's 50%",
    lambda new: new.name.collate("C") < "j",
    lambda new: new.name.between("it", "iu"),
    lambda new: ~new.name.between("o", "p"),
    lambda new: new.number.between(9, 5, symmetric=True),
    lambda new: ~new.number.between(99, 101) & new.price.between(1, 2),
    lambda new: new.name.is_not_distinct_from(new.other),
    lambda new: new.name.is_distinct_from("other"),
    lambda new: new.note.is_distinct_from("y"),
    lambda new: new.note.is_distinct_from(null()) & (new.number < 9),
    lambda new: new.name + "!" == "it's 50%!",
    lambda new: "<" + new.name + ">" + new.other == "<it's 50%>it's 50%",
    lambda new: (new.name + new.other).like("it%50\\%"),
    lambda new: func.length(new.name) == 8,
    lambda new: func.lower(new.name) == "it's 50%",
    lambda new: func.LOWER(new.name).in_(["it's 50%"]),
    lambda new: func.upper(new.name).like("IT%"),
    lambda new: func.substring(new.name, 1, 2) == "it",
    lambda new: func.substring(new.name, "^it") == "it",
    lambda new: func.substr(new.name, 1, 2) == "it",
    lambda new: func.trim(new.name) == "it's 50%",
    lambda new: func.left(new.name, 2) == func.left(new.other, 2),
    lambda new: func.concat(new.name, new.number) == "it's 50%7",
    lambda new: func.coalesce(new.note, new.name) == "x",
    lambda new: func.nullif(new.name, "other") == "it's 50%",
    lambda new: func.nullif(new.name, "other").is_not(None),
    lambda new: func.greatest(new.number, 9) == 9,
    lambda new: func.least(new.name, "z") == "it's 50%",
    lambda new: func.starts_with(new.name, "it"),
    lambda new: func.strpos(new.name, "50") > 2,
    lambda new: func.replace(new.name, "it", "at").startswith("at"),
    lambda new: func.md5(new.name) != func.md5("other"),
    lambda new: func.char_length(new.name) == 8,
    lambda new: and_(func.split_part(new.name, "'", 1) == "it", new.number < 8),
    lambda new: func.to_char(new.day, "YYYY") == "2024",
    lambda new: func.date_trunc("year", new.at) == datetime(2024, 1, 1),
    lambda new: extract("year", new.day) == 2024,
    lambda new: func.date_part("year", new.at) > 2001,
    lambda new: (new.number < 8) & (new.number > -7),
    lambda new: new.data.has_any(array(["k", "z"])) & new.data.has_all(array(["k"])),
    lambda new: new.state < State.closed,
    lambda new: case((new.number == 7, new.name), else_=new.other).in_(["it's 50%"]),
    lambda new: select(func.count(distinct(ITEMS.c.name))).where(ITEMS.c.number == 7).scalar_subquery() == 1,
    lambda new: func.now() - new.at < timedelta(days=8000),
    lambda new: new.at + new.length > datetime(2024, 3, 1, 12),
    lambda new: new.length == timedelta(days=1, seconds=3),
    lambda new: new.length < timedelta(days=2),
    lambda new: new.day - date(2024, 2, 28) == 1,
    lambda new: new.zoned > datetime(2020, 1, 1, tzinfo=UTC),
    lambda new: new.zoned.op("AT TIME ZONE")("UTC") == datetime(2024, 2, 29, 12),
    lambda new: new.wait == timedelta(days=1, seconds=3),
    lambda new: func.timezone("UTC", new.zoned) == datetime(2024, 2, 29, 12),
    lambda new: case((new.name == "it's 50%", 1), else_=0) == 1,
    lambda new: case({"it's 50%": 1}, value=new.name, else_=0) == 1,
    lambda new: cast(new.number, Text) == "7",
    lambda new: cast(new.number, String).like("7"),
    lambda new: type_coerce(new.name, Text) == "it's 50%",
    lambda new: new.small + new.number * 2 - 1 == 15,
    lambda new: (new.small + new.number) * 2 == 18,
    lambda new: new.number - (new.small - 1) == 6,
    lambda new: -new.number == -7,
    lambda new: new.number % 4 == 3,
    lambda new: new.number / 2 == Decimal("3.5"),
    lambda new: new.number // 2 == 3,
    lambda new: (new.ratio // 1 == 2) & (new.ratio * new.small == 5),
    lambda new: new.small == new.price + 0.5,
    lambda new: (new.big > new.number) & (new.price < new.number) & (new.ratio > new.small),
    lambda new: new.number.bitwise_and(3) == 3,
    lambda new: new.number.bitwise_xor(2).bitwise_or(8) == 13,
    lambda new: new.number.bitwise_lshift(1).bitwise_not() == -15,
    lambda new: func.abs(new.number) + func.mod(new.number, 4) == 10,
    lambda new: func.round(new.price) == 2,
    lambda new: new.flag,
    lambda new: new.flag == True,  # noqa: E712
    lambda new: new.flag.is_(True) & ~(new.number == 100),
    lambda new: or_(new.flag, new.number < 5) & ~~new.flag,
    lambda new: new.data["a"]["b"].as_integer() == 2,
    lambda new: new.data["k"].as_string() == "v",
    lambda new: new.data["k"].astext == "v",
    lambda new: new.data[("a", "b")].as_integer() > 1,
    lambda new: new.data[("a", "b")].astext == "2",
    lambda new: new.data.has_key("k"),
    lambda new: new.data.contains(text("""'{"k": "v"}'""")),
    lambda new: new.data["a"] == func.jsonb_build_object("b", 2),
    lambda new: func.jsonb_typeof(new.data["a"]) == "object",
    lambda new: new.plain["a"].as_string() == "b",
    lambda new: func.json_extract_path_text(new.plain, "a") == "b",
    lambda new: any_(new.tags) == "x",
    lambda new: all_(new.tags) != "q",
    lambda new: literal("x") == any_(new.tags),
    lambda new: new.tags[1] == "x",
    lambda new: new.texts.contains(["x"]),
    lambda new: new.texts.overlap(["x", "z"]),
    lambda new: new.numbers.contained_by([1, 2, 3]),
    lambda new: func.array_length(new.tags, 1) == 2,
    lambda new: func.array_to_string(new.tags, ",") == "x,y",
    lambda new: func.cardinality(new.numbers) > 1,
    lambda new: select(func.count()).select_from(func.unnest(new.tags).alias("t")).scalar_subquery() == 2,
    lambda new: select(func.max(func.unnest(new.tags).column_valued("t"))).scalar_subquery() == "y",
    lambda new: new.raw == b"\x00\x01",
    lambda new: func.encode(new.raw, "hex") == "0001",
    lambda new: new.span.contains(5),
    lambda new: new.span.overlaps(func.int4range(9, 20)),
    lambda new: new.span == func.int4range(1, 10),
    lambda new: func.lower(new.span) == 1,
    lambda new: new.address.op("<<")(func.inet("10.0.0.0/8")),
    lambda new: new.words.match("fox"),
    lambda new: new.name.match("50", postgresql_regconfig="simple"),
    lambda new: new.token == TOKEN,
    lambda new: new.state == State.open,
    lambda new: cast(new.state, Text) == "open",
    lambda new: new.day == date(2024, 2, 29),
    lambda new: (new.number == 7) > (new.name == "other"),
    lambda new: (new.name == new.other).is_(True) & (new.number < 9),
    lambda new: and_(new.name.bool_op("=")(new.other), new.name.op("||")("x").bool_op("!=")("otherx")),
    lambda new: new.name.op("OPERATOR(pg_catalog.=)")(new.other),
    lambda new: func.pg_catalog.length(new.name) == 8,
]


def compiled(when: Any, model: type[Any] = Item) -> str:
    found = compile_condition(when, class_mapper(model, configure=False), "INSERT", "watch")
    assert found is not None
    return found


for position, condition in enumerate(CONDITIONS):
    after_insert(Item, name=str(position), when=condition)(nothing)

BODY = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'tricked: %', current_user; END $$"
KINDS = [
    "varchar bpchar text name",
    "smallint integer bigint numeric real float8",
    "date timestamp timestamptz interval",
    "json jsonb varchar text varchar[] text[]",
    "varchar[] text[] integer[] bigint[]",
    "varchar bytea date timestamp smallint integer",
    "public.state varchar text",
    "uuid varchar",
    "bytea text",
    "boolean varchar",
    "inet cidr",
    "int4range integer",
    "tsvector tsquery varchar text",
]
"""Types of which each is combined with each."""

LONGER = [
    ("varchar", "varchar"),
    ("integer", "integer"),
    ("varchar", "integer"),
    ("varchar", "varchar", "varchar"),
]
GONE_AFTER_15 = [
    "interval_accum",
    "interval_accum_inv",
    "interval_avg",
    "interval_combine",
    "pg_read_file_old",
]
HIDDEN = {
    "like_escape",
    "similar_to_escape",
    "make_interval",
    "low_water",
    "plainto_tsquery",
    "numeric",
    "int4",
    "text",
}
"""Functions that stand behind SQL which does not name them."""

CLASHES: set[tuple[str, tuple[str, ...]]] = set()


def set_traps(role: Connection) -> None:
    """Create, as *role*, what fits the columns better than PostgreSQL's own."""
    pairs = {pair for kinds in KINDS for pair in itertools.product(kinds.split(), repeat=2)}
    traps = []
    for number, (left, right) in enumerate(sorted(pairs)):
        traps.append(f"CREATE FUNCTION public.trap_{number}({left}, {right}) RETURNS boolean {BODY}")
        sides = f"LEFTARG = {left}, RIGHTARG = {right}"
        traps += [
            f"CREATE OPERATOR public.{name} (FUNCTION = public.trap_{number}, {sides})" for name in OPERATORS
        ]
    kinds = {kind for kinds in KINDS for kind in kinds.split()}
    for name in {*re.findall(r"(\w+)\(", " ".join(map(compiled, CONDITIONS)).lower())} & FUNCTIONS | HIDDEN:
        for arguments in (*((kind,) for kind in kinds), *pairs, *(("varchar", *rest) for rest in LONGER)):
            if (name, arguments) not in CLASHES:
                traps.append(
                    f'CREATE FUNCTION public."{name}"({", ".join(arguments)}) RETURNS boolean {BODY}'
                )
    role.exec_driver_sql(";\n".join(traps).replace("%", "%%"))


@pytest.fixture
def role(engine: Engine) -> Iterator[Connection]:
    """A connection of a role that may write the table and create in its schema, with the traps set."""
    Base.metadata.create_all(engine)
    run(
        engine,
        f"DO $$ BEGIN CREATE ROLE {ROLE}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        f"GRANT SELECT, INSERT ON item TO {ROLE}",
        f"GRANT USAGE ON SEQUENCE item_id_seq TO {ROLE}",
        f"GRANT CREATE ON SCHEMA public TO {ROLE}",
    )
    with engine.connect() as connection:
        connection.execute(text(f"SET ROLE {ROLE}"))
        connection.execute(text("SET search_path = pg_catalog, public"))
        set_traps(connection)
        connection.commit()
        yield connection
        connection.invalidate()


def add(connection: Any, values: dict[str, Any]) -> None:
    with Session(connection) as session:
        session.add(Item(**values))
        session.commit()


def heard(engine: Engine) -> list[int]:
    return sorted(int(entry.listener) for entry in entries(engine, Base.metadata))


@pytest.mark.every_server
@pytest.mark.one_driver
def test_every_condition_means_what_sqlalchemy_says(engine: Engine) -> None:
    Base.metadata.create_all(engine)
    add(engine, FAILS)
    assert [compiled(CONDITIONS[number]) for number in heard(engine)] == []
    add(engine, HOLDS)
    missing = sorted(set(range(len(CONDITIONS))) - set(heard(engine)))
    assert [compiled(CONDITIONS[number]) for number in missing] == []
    with engine.connect() as connection:
        assert check(connection, Base.metadata) == []


@pytest.mark.one_driver
def test_what_a_role_made_fit_better_is_never_called(engine: Engine, role: Connection) -> None:
    with pytest.raises(DBAPIError, match="tricked"):
        role.execute(text("SELECT 'x'::varchar = 'y'::varchar"))
    role.rollback()
    add(role, FAILS)
    add(role, HOLDS)
    assert heard(engine) == list(range(len(CONDITIONS)))


@pytest.mark.every_server
@pytest.mark.one_driver
def test_the_lists_of_what_pg_catalog_has_are_those_of_every_server(engine: Engine) -> None:
    functions = text(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND pronargs > 0"
        " AND prorettype::regtype::text NOT IN ('internal', 'trigger', 'event_trigger', 'cstring')"
        " AND prorettype::regtype::text NOT LIKE '%_handler' AND NOT 'internal'::regtype = ANY (proargtypes)"
        " AND NOT 'cstring'::regtype = ANY (proargtypes)"
        " AND proname !~ '^(pg_stat_|binary_upgrade_|pg_restore_|pg_replication|pg_logical)'"
    )
    operators = text(
        "SELECT DISTINCT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace"
    )
    everything = text("SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace")
    with engine.connect() as connection:
        assert set(connection.scalars(operators)) == OPERATORS
        there = set(connection.scalars(everything))
        assert sorted(FUNCTIONS - there) == []
        newer = set(connection.scalars(functions)) - FUNCTIONS
        version = connection.dialect.server_version_info[0]  # type: ignore[index]
    if version == 15:
        assert sorted(newer) == GONE_AFTER_15


def test_what_other_types_bring_is_left_where_it_is() -> None:
    """Their operators stand in the schema of their extension; qualified, citext would compare as text."""

    class Base(DeclarativeBase): ...

    class Emails(TypeDecorator[list[str]]):
        impl = ARRAY(CITEXT)
        cache_ok = True

    class Strange(Base):
        __tablename__ = "strange"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(10))
        email: Mapped[str] = mapped_column(CITEXT)
        pairs: Mapped[Any] = mapped_column(HSTORE)
        emails: Mapped[list[str]] = mapped_column(ARRAY(CITEXT))
        other_emails: Mapped[list[str]] = mapped_column(Emails)
        numbers: Mapped[list[int]] = mapped_column(ARRAY(Integer))

    def written(when: Any) -> str:
        return compiled(when, Strange)

    assert written(lambda new: new.email == "A") == "new.email = 'A'"
    assert written(lambda new: new.email.in_(["A", "B"])) == "new.email IN ('A', 'B')"
    assert written(lambda new: new.email.not_in(["A"])) == "new.email NOT IN ('A')"
    assert written(lambda new: new.email.like("A%")) == "new.email LIKE 'A%'"
    assert written(lambda new: new.email.between("A", "B")) == "new.email BETWEEN 'A' AND 'B'"
    assert written(lambda new: new.email.is_distinct_from("A")) == "new.email IS DISTINCT FROM 'A'"
    assert written(lambda new: func.lower(new.email) == "a") == (
        "pg_catalog.lower(new.email) OPERATOR(pg_catalog.=) 'a'"
    )
    assert written(lambda new: func.strpos(new.email, "a") == 1).startswith("strpos(new.email, 'a') ")
    assert written(lambda new: any_(new.emails) == "A") == "'A' = ANY (new.emails)"
    assert written(lambda new: any_(new.other_emails) == new.name) == "new.name = ANY (new.other_emails)"
    assert written(lambda new: any_(new.numbers) == 5) == "5 OPERATOR(pg_catalog.=) ANY (new.numbers)"
    split = written(lambda new: any_(func.string_to_array(new.name, ",")) == "x")
    assert split == "'x' OPERATOR(pg_catalog.=) ANY (pg_catalog.string_to_array(new.name, ','))"
    assert written(lambda new: new.pairs.has_key("k")) == "new.pairs ? 'k'"
    # pg_trgm and intarray have operators for types of pg_catalog, of names that it has for others.
    assert written(lambda new: new.name.op("%")("x")) == "CAST(new.name AS TEXT) % 'x'"
    assert (
        written(lambda new: new.name.op("<%")(new.name)) == "CAST(new.name AS TEXT) <% CAST(new.name AS TEXT)"
    )
    assert written(lambda new: new.numbers.op("@@")("1&2")) == "new.numbers @@ '1&2'"
    assert written(lambda new: func.similarity(new.name, "x") > 0.3).startswith(
        "similarity(new.name, 'x') OPERATOR("
    )
    assert written(lambda new: func.app.length(new.name) > 3).startswith("app.length(new.name) OPERATOR(")
