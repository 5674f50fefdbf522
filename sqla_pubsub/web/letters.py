"""Dead letters: by listener and error, filtered by the URL, page by page; and what may be done with all that match."""

from __future__ import annotations

from starlette.requests import Request

from sqla_pubsub.operate.dead_letters import STEP, DeadGroup, DeadLetterView
from sqla_pubsub.web.access import Person
from sqla_pubsub.web.desk import Desk
from sqla_pubsub.web.filters import Filter, Unreadable, filter_of, id_of
from sqla_pubsub.web.jobs import Deed
from sqla_pubsub.web.pages import Page
from sqla_pubsub.web.shared import Seen

PAGE = 50
"""Letters on a page."""
MOST_COUNTED = 10_000
"""Letters that are counted for a page that is looked at again and again."""
MOST_IDS = 500
"""Letters of one form."""


def show(desk: Desk, request: Request, person: Person) -> Page:
    """Show one page of dead letters, the newest first."""
    chosen = _allowed(request, person)
    before = id_of(request.query_params.get("before"))
    letters, see, reader = chosen.letters(), desk.shared.see, desk.reader
    listed = see(
        ("letters", chosen, before), lambda: reader.dead_letters(letters, before=before, limit=PAGE + 1)
    )
    found = listed.value or []
    groups = chosen.with_(error="")
    # Where nothing fits there is no group, and to find none takes as long as to find one.
    nothing = listed.value == [] and before is None and not chosen.error
    grouped: Seen[list[DeadGroup]] = (
        Seen(value=[])
        if nothing
        else see(("groups", groups), lambda: reader.dead_groups(groups.letters()), seconds=5.0)
    )
    return Page(
        template="letters",
        values={
            "filter": chosen,
            "before": before,
            "listed": listed,
            "letters": found[:PAGE],
            "ids": [one.id for one in found[:PAGE]],
            "next": found[PAGE - 1].id if len(found) > PAGE else None,
            "groups": grouped,
            "matching": _count(desk, chosen) if before is not None or len(found) > PAGE else _listed(listed),
            "most": MOST_COUNTED,
            "listeners": sorted(
                {*desk.registry.listeners, *(group.listener for group in grouped.value or ())}
            ),
            "jobs": desk.jobs.running(),
            "told": lambda source, text: desk.told(person, source, text),
            "done": request.query_params.get("done"),
            "count": id_of(request.query_params.get("count")),
        },
    )


def _allowed(request: Request, person: Person) -> Filter:
    """Return the filter of a page; what a person must not see must not be found by asking for it, value by value."""
    chosen = filter_of(request.query_params)
    if chosen.context and not person.operates:
        raise Unreadable("To choose by context is for who may operate the dashboard. Leave out the context.")
    return chosen


def _count(desk: Desk, chosen: Filter) -> Seen[int]:
    """Count what fits, up to a bound: this is done for as long as somebody looks."""
    letters = chosen.letters()
    return desk.shared.see(("count", chosen), lambda: desk.reader.count_dead(letters, cap=MOST_COUNTED))


def _listed(listed: Seen[list[DeadLetterView]]) -> Seen[int]:
    """Return how many there are where one page has them all."""
    count = None if listed.value is None else len(listed.value)
    return Seen(value=count, age=listed.age, problem=listed.problem)


def confirm(desk: Desk, request: Request, deed: Deed) -> Page:
    """Ask before letters are discarded, and before all that match are retried."""
    query = request.query_params
    chosen, ids = filter_of(query), ids_of(query.getlist("id"))
    count: int | None = len(ids)
    if not ids:
        if query.get("all") != "1":
            raise Unreadable("Nothing is chosen. Go back, and choose dead letters.")
        letters = chosen.letters()
        count = desk.shared.see(("exact", chosen), lambda: desk.reader.count_dead(letters)).value
    return Page(
        template="confirm",
        values={
            "deed": deed,
            "ids": ids,
            "filter": chosen,
            "count": count,
            "entry": False,
            "action": deed,
            "step": STEP,
            "back": f"letter?id={ids[0]}" if len(ids) == 1 else f"letters?{chosen.query()}",
        },
    )


def job(desk: Desk, request: Request, person: Person) -> Page:
    """Show how far a mass action is."""
    query = request.query_params
    found = desk.jobs.get(query.get("id", ""))
    chosen = filter_of(query) if found is None else found.filter
    if not person.operates:
        chosen = chosen.with_(context="")
    left = _count(desk, chosen)
    return Page(
        template="job",
        status=200 if found is not None else 404,
        values={
            "job": found,
            "filter": chosen,
            "left": left,
            "most": MOST_COUNTED,
        },
    )


def ids_of(texts: list[str]) -> tuple[int, ...]:
    """Return the ids in the fields of a form.

    Raises:
        Unreadable: One is none, or they are too many.
    """
    if len(texts) > MOST_IDS:
        raise Unreadable(f"{len(texts)} letters are chosen. Choose {MOST_IDS} at most, or all that match.")
    return tuple(found for text in texts if (found := id_of(text)) is not None)
