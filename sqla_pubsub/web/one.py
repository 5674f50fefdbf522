"""One entry or one dead letter: the difference that it tells of, its context, what failed, and why it does not move."""

from __future__ import annotations

from starlette.requests import Request

from sqla_pubsub.operate.entries import EntryView
from sqla_pubsub.operate.error_classes import error_class
from sqla_pubsub.operate.why import Why
from sqla_pubsub.web.access import Person
from sqla_pubsub.web.desk import Desk
from sqla_pubsub.web.filters import Filter, Unreadable, id_of
from sqla_pubsub.web.pages import Page


def entry(desk: Desk, request: Request, person: Person) -> Page:
    """Show an entry that waits."""
    entry_id = _id(request)
    found = desk.shared.see(("entry", entry_id), lambda: desk.reader.entry(entry_id, payload=False))
    if found.value is None and found.problem is None:
        dead = desk.shared.see(
            ("letter", entry_id), lambda: desk.reader.dead_letter(entry_id, payload=False)
        ).value
        return Page(
            template="gone", status=404, values={"id": entry_id, "dead": dead is not None, "waits": False}
        )
    one = found.value
    why = desk.shared.see(("why", entry_id), lambda: desk.reader.why(entry_id))
    return Page(
        template="entry",
        values={
            "id": entry_id,
            "seen": found,
            "entry": one,
            "why": why,
            "reasons": [] if one is None or why.value is None else reasons(why.value, one, person),
            "error_class": None if one is None else error_class(one.error),
            "payload": None if one is None else desk.payload(entry_id, one.source, person, dead=False),
            "error": None if one is None else desk.told(person, one.source, one.last_error),
            "done": request.query_params.get("done"),
        },
    )


def reasons(why: Why, one: EntryView, person: Person) -> list[str]:
    """Return the sentences about an entry; the text of its error, which one of them quotes, as this person may see it."""
    hidden = "" if person.operates else f": {one.error}"
    return [sentence.replace(hidden, "") if hidden else sentence for sentence in why.sentences]


def confirm_discard(desk: Desk, request: Request) -> Page:
    """Ask before an entry is deleted."""
    entry_id = _id(request)
    return Page(
        template="confirm",
        values={
            "deed": "discard", "ids": (entry_id,), "filter": Filter(), "count": 1, "entry": True,
            "action": "discard-entry", "step": 1, "back": f"entry?id={entry_id}",
        },
    )  # fmt: skip


def letter(desk: Desk, request: Request, person: Person) -> Page:
    """Show a dead letter."""
    entry_id = _id(request)
    found = desk.shared.see(("letter", entry_id), lambda: desk.reader.dead_letter(entry_id, payload=False))
    if found.value is None and found.problem is None:
        waits = desk.shared.see(("entry", entry_id), lambda: desk.reader.entry(entry_id, payload=False)).value
        return Page(
            template="gone", status=404, values={"id": entry_id, "dead": False, "waits": waits is not None}
        )
    one = found.value
    return Page(
        template="letter",
        values={
            "id": entry_id,
            "seen": found,
            "letter": one,
            "payload": None if one is None else desk.payload(entry_id, one.source, person, dead=True),
            "reason": None if one is None else desk.told(person, one.source, one.reason),
            "traceback": None if one is None else desk.told(person, one.source, one.traceback),
        },
    )


def _id(request: Request) -> int:
    found = id_of(request.query_params.get("id", "").strip())
    if found is None:
        raise Unreadable("No id is given. Give that of an entry or a dead letter.")
    return found
