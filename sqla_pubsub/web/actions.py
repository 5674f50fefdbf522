"""What an operator does: each action is a form that is posted, is logged with who sent it, and leads back to a page."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from sqla_pubsub.errors import ConfigurationError, NotSettled
from sqla_pubsub.operate.dead_letters import Letters
from sqla_pubsub.web.access import Person
from sqla_pubsub.web.desk import Desk
from sqla_pubsub.web.filters import Unreadable, filter_of, id_of
from sqla_pubsub.web.jobs import DONE, Deed
from sqla_pubsub.web.letters import ids_of

logger = logging.getLogger(__name__)

Form = Mapping[str, Sequence[str]]
MOST_NOTE = 500
_PATIENCE = 5.0
"""Seconds for which one request makes retries due; what is left is left for the next one."""
_STEP = 500


def pause(desk: Desk, form: Form, person: Person) -> str:
    """Pause a listener."""
    listener, note = _listener(desk, form), _one(form, "note").strip()[:MOST_NOTE] or None
    changed = desk.actor.pause(listener, note, by=person.name)
    desk.shared.forget()
    _log(
        "pause",
        person,
        "listener %r, note %r%s",
        listener,
        note,
        "" if changed else ": it was paused already",
    )
    return _back(form, listener, "paused")


def resume(desk: Desk, form: Form, person: Person) -> str:
    """Let a paused listener go on."""
    listener = _listener(desk, form)
    changed = desk.actor.resume(listener)
    desk.shared.forget()
    _log("resume", person, "listener %r%s", listener, "" if changed else ": it was not paused")
    return _back(form, listener, "resumed")


def retry_now(desk: Desk, form: Form, person: Person) -> str:
    """Make the waiting retries of a listener due."""
    listener, count, began = _listener(desk, form), 0, time.monotonic()
    while moved := desk.actor.retry_now(listener, limit=_STEP):
        count += moved
        if time.monotonic() - began >= _PATIENCE:
            break
    desk.shared.forget()
    _log("retry_now", person, "%s retries of listener %r are due now", count, listener)
    return _back(form, listener, "due", count)


def retry(desk: Desk, form: Form, person: Person) -> str:
    """Move dead letters back into the outbox."""
    return _carry_out("retry", desk, form, person)


def discard(desk: Desk, form: Form, person: Person) -> str:
    """Delete dead letters for good."""
    return _carry_out("discard", desk, form, person)


def retry_entry(desk: Desk, form: Form, person: Person) -> str:
    """Make an entry that waits for its retry due."""
    entry_id = _id(form)
    count = desk.actor.retry_entry(entry_id)
    desk.shared.forget()
    _log("retry_entry", person, "entry %s%s", entry_id, "" if count else ": it did not wait")
    return f"entry?id={entry_id}&done={'due' if count else 'none'}"


def discard_entry(desk: Desk, form: Form, person: Person) -> str:
    """Delete an entry for good, unless a worker has it in hand."""
    entry_id = _id(form)
    count = desk.actor.discard_entry(entry_id)
    desk.shared.forget()
    _log("discard_entry", person, "entry %s%s", entry_id, "" if count else ": it was not free")
    return "./?done=discarded" if count else f"entry?id={entry_id}&done=none"


def stop_job(desk: Desk, form: Form, person: Person) -> str:
    """Stop a mass action between two steps."""
    job = desk.jobs.get(_one(form, "id"))
    if job is None:
        raise Unreadable("This process runs no such job.")
    job.stop.set()
    _log("stop_job", person, "%s begun by %s: %s", job.deed, job.who, job.said())
    return f"job?{job.filter.query(id=job.id)}"


def _carry_out(deed: Deed, desk: Desk, form: Form, person: Person) -> str:
    ids = ids_of(list(form.get("id", ())))
    chosen = filter_of({name: values[0] for name, values in form.items() if values})
    if not ids:
        # Never by a form without ids alone: nothing chosen would be everything.
        if _one(form, "all") != "1":
            raise Unreadable("Nothing is chosen. Go back, and choose dead letters.")
        job = desk.jobs.start(deed, chosen, person.name)
        return f"job?{job.filter.query(id=job.id)}"
    step = desk.actor.retry if deed == "retry" else desk.actor.discard
    count = step(Letters(ids=ids), limit=len(ids))
    desk.shared.forget()
    _log(deed, person, "%s of %s dead letters %s: %s", count, len(ids), DONE[deed], ", ".join(map(str, ids)))
    if deed == "retry" and 0 < count < len(ids):
        _say_what_stays(desk, ids, count)
    return f"letters?{chosen.query(done=DONE[deed], count=count)}"


def _say_what_stays(desk: Desk, ids: tuple[int, ...], count: int) -> None:
    """Raise what keeps the others of *ids* from being moved; nothing where somebody else was quicker."""
    try:
        desk.actor.retry(Letters(ids=ids), limit=len(ids))
    except NotSettled as error:
        raise NotSettled(f"{count} of {len(ids)} dead letters retried; {error}", error.entries) from error


def _listener(desk: Desk, form: Form) -> str:
    name, status = _one(form, "listener"), desk.status()
    if status.value is None:
        raise ConfigurationError(status.problem or "")
    if desk.status_of(name) is None:
        raise Unreadable(f"There is no listener {name[:200]!r}.")
    return name


def _id(form: Form) -> int:
    found = id_of(_one(form, "id"))
    if found is None:
        raise Unreadable("No id is given.")
    return found


def _back(form: Form, listener: str, done: str, count: int | None = None) -> str:
    if _one(form, "back") == "overview":
        return f"./?{urlencode({'done': done})}"
    more = {} if count is None else {"count": count}
    return f"listener?{urlencode({'name': listener, 'done': done, **more})}"


def _one(form: Form, name: str) -> str:
    return next(iter(form.get(name, ())), "").replace("\0", "")


def _log(deed: str, person: Person, what: str, *values: object) -> None:
    logger.info(
        "dashboard.acted: %s by %s: %s",
        deed,
        person.name,
        what % values,
        extra={"deed": deed, "who": person.name},
    )
