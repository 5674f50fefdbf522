"""What a person reads about a difference between what is declared and what is installed."""

from __future__ import annotations

from sqla_pubsub.declare.diff import REMEDY, Difference


def sentence(difference: Difference) -> str:
    """Return what differs and what to do, which may be to name more modules and not to migrate.

    A migration written without a module that declares listeners drops their captures.
    """
    undeclared = sorted(set(difference.captured) - set(difference.listeners))
    if not undeclared or difference.by_hand is not None:
        return str(difference)
    names = ", ".join(map(repr, undeclared))
    return (
        f"{difference.detail}. Name all modules that declare listeners. Only if {names} "
        f"{'was' if len(undeclared) == 1 else 'were'} removed, {REMEDY[0].lower()}{REMEDY[1:]}"
    )
