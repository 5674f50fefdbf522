"""What Python would decide once, for every row, is refused; what is the same for every row is named."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, and_, false, func, or_, true
from sqlalchemy.orm import DeclarativeBase, Mapped, class_mapper, mapped_column

from sqla_pubsub import ConfigurationError, PubSub, after_insert, after_update, check
from sqla_pubsub.declare.conditions.compiling import compile_condition
from sqla_pubsub.declare.conditions.fields import constant
from tests.declare.entries import nothing

STATES = ("paid", "sent")
MINIMUM = 3


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    note: Mapped[str | None]


def compiled(when: Any, operation: str = "UPDATE") -> str | None:
    return compile_condition(when, class_mapper(Order, configure=False), operation, "watch")


def in_tuple(new: Any) -> Any:
    return new.state in STATES


def in_set(new: Any) -> Any:
    return (new.id > MINIMUM) & (new.state in {"paid", "sent"})


def is_not_none(new: Any) -> Any:
    return (new.id > MINIMUM) & (new.note is not None)


def not_paid(new: Any) -> Any:
    return (new.id > MINIMUM) & (not new.state == "paid")  # noqa: SIM201


def by_state(new: Any) -> Any:
    if new.state == "paid":
        return new.id > MINIMUM
    return new.id < MINIMUM


def looked_up(new: Any) -> Any:
    return {"paid": 1}.get(new.state) == 1


class Branching:
    def __call__(self, new: Any) -> Any:
        return new.state == "paid" or new.id > MINIMUM


REFUSED: list[tuple[Any, str]] = [
    (lambda new: new.state in ("paid", "sent"), r"uses 'in', which Python decides.*new\.state\.in_\("),
    (lambda new: new.state in STATES, r"uses 'in'.*in_\("),
    (lambda new: new.state in {"paid", "sent"}, r"uses 'in'"),
    (lambda new: func.lower(new.state) in STATES, r"uses 'in'"),
    (lambda new: new.state not in STATES, r"uses 'not in'.*not_in\("),
    (lambda new: new.note is None, r"uses 'is',.*is_\(None\)"),
    (lambda new: new.note is not None, r"uses 'is not'.*is_not\(None\)"),
    (lambda new: (new.note is not None) & (new.id > 1), r"uses 'is not'"),
    (lambda new: not new.note, "uses 'not'.*Write ~"),
    (lambda new: not new.state == "paid", "uses 'not'"),  # noqa: SIM201
    (lambda new: any(new.state == state for state in STATES), r"any\(\).*or_\(\*conditions\)"),
    (lambda new: all([new.state == "paid", new.note == "x"]), r"all\(\)"),
    (lambda new: (new.id > 1) | any(new.state == state for state in STATES), r"any\(\)"),
    (lambda new: bool(new.state == "paid"), r"bool\(\)"),
    (lambda new: (new.state == "paid").__bool__(), r"bool\(\)"),
    (lambda new: new.note == f"{new.state}!", "makes a text of a column"),
    (lambda new: new.note == f"{func.lower(new.state)}!", "makes a text of a column"),
    (lambda new: new.note == "%s!" % new.state, "makes a text of a column"),  # noqa: UP031
    (lambda new: new.note == "{}!".format(new.state), "makes a text of a column"),  # noqa: UP032
    (lambda new: new.note == str(new.state), "makes a text of a column"),
    (lambda old, new: old != new, "compares the whole row 'old'"),
    (lambda old, new: old == new, "compares the whole row 'old'"),
    (lambda new: new in STATES, "uses 'in'"),
    (lambda new: {"paid": 1}.get(new.state) == 1, "reads columns and returns False"),
    (lambda new: isinstance(new.state, str), "reads columns and returns False"),
    (lambda new: new.state.lower() == "paid", r"has an attribute 'lower'.*func\.lower"),
    (lambda new: len(new.state) > 1, r"has no len\(\)"),
    (lambda new: new.state[0] == "p", "'getitem' is not supported"),
    (lambda new: and_(new.id > 1, object()), "failed"),  # type: ignore[arg-type]
    (lambda new: new, "returned .*Row object"),
    (in_tuple, "uses 'in'"),
    (in_set, "uses 'in'"),
    (is_not_none, "uses 'is not'"),
    (not_paid, "asks whether a comparison of columns is true"),
    (by_state, "asks whether a comparison of columns is true"),
    (looked_up, "reads columns and returns False"),
    (Branching(), "asks whether a comparison of columns is true"),
    (functools.partial(in_tuple), "asks whether a comparison of columns is true"),
]


@pytest.mark.parametrize(("when", "words"), REFUSED)
def test_what_python_would_decide_for_all_rows_is_refused_with_the_right_spelling(
    when: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        compiled(when)


def chosen(new: Any) -> Any:
    """Python decides about its own values in a def function."""
    if "sent" in STATES and MINIMUM is not None:
        return new.id > MINIMUM
    return new.id < MINIMUM


@pytest.mark.parametrize(
    "when",
    [
        lambda new: new.state.in_(
            [state for state in STATES if state in ("paid", "x") and state is not None]
        ),
        lambda new: new.state.in_([state.lower() for state in STATES if not state == "x"]),  # noqa: SIM201
        lambda new: or_(*(new.state == state for state in STATES)),
        lambda new: new.note == f"{STATES[0]}!",
        lambda new: new.state.is_(None) & ~(new.id == MINIMUM),
        chosen,
    ],
)
def test_what_python_decides_about_its_own_values_is_left_to_it(when: Callable[..., Any]) -> None:
    text = compiled(when)
    assert text is not None
    assert constant(text) is None


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("true", "always true"),
        ("((TRUE))", "always true"),
        ("false", "never true"),
        ("NULL", "never true"),
        ("1 = 2", "the same for every row"),
        ("'a' = 'b' -- new.x", "the same for every row"),
        ("NOT false", "the same for every row"),
        ("new.id > 0", None),
        ("old", None),
        ('"state" = 1', None),
        ("current_user = 'x'", None),
        ("now() > '2030-01-01'", None),
    ],
)
def test_a_condition_without_names_is_the_same_for_every_row(condition: str, words: str | None) -> None:
    assert constant(condition) == words


CONSTANT: list[tuple[Any, str | None]] = [
    (lambda: False, "never true"),
    (lambda: True, "always true"),
    (lambda: STATES[0] == "state", "never true"),
    (lambda new: true(), "always true"),
    (lambda new: and_(new.id > MINIMUM, false()), "never true"),
    (lambda new: new.state.in_([]), "never true"),
    (lambda new: new.state.not_in([]), "always true"),
    (lambda new: and_(new.id > MINIMUM, new.state.in_([])), "never true"),
    ("1 = 0", "the same for every row"),
    ("false", "never true"),
    ("new.id > 0", None),
    (lambda new: new.id > 0, None),
    (None, None),
]


@pytest.mark.one_driver
@pytest.mark.parametrize(("when", "words"), CONSTANT)
def test_check_names_a_condition_that_no_row_changes(engine: Engine, when: Any, words: str | None) -> None:
    class Base(DeclarativeBase): ...

    class Order(PubSub, Base):
        __tablename__ = "order"
        id: Mapped[int] = mapped_column(primary_key=True)
        state: Mapped[str]

    class Urgent(Order):
        __mapper_args__ = {"polymorphic_identity": "urgent", "polymorphic_on": "state"}  # noqa: RUF012

    after_insert(Order, name="plain", when=lambda new: new.id > 1)(nothing)
    after_update(Urgent, name="odd", when=when)(nothing)
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        found = [str(difference) for difference in check(connection, Base.metadata)]
    if words is None:
        assert found == []
    else:
        (sentence,) = found
        assert sentence.startswith(f"when= of listener 'odd' on UPDATE of table 'order' is {words}. It ")
