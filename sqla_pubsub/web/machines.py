"""Who works, and what the database has to carry."""

from __future__ import annotations

from starlette.requests import Request

from sqla_pubsub.web.access import Person
from sqla_pubsub.web.desk import Desk
from sqla_pubsub.web.pages import Page


def workers(desk: Desk, request: Request, person: Person) -> Page:
    """Show the supervisors that run, and what they have in hand."""
    found = desk.shared.see("workers", desk.reader.workers)
    return Page(
        template="workers",
        values={
            "workers": found,
            "in_hand": [(worker, one) for worker in found.value or () for one in worker.in_hand],
            "idle": [row for row in desk.status().value or () if row.declared and row.workers == 0],
        },
    )


def system(desk: Desk, request: Request, person: Person) -> Page:
    """Show the state of the tables."""
    return Page(
        template="system",
        values={
            "system": desk.shared.see("system", desk.reader.system, seconds=5.0),
            "differences": desk.differences(),
        },
    )
