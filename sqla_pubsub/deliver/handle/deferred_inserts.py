"""What handlers only added to their session, written together at the end of the group.

A flush for each event costs more than all the rest of its delivery, and SQLAlchemy writes many rows in
one statement. So an event whose handler has added objects and asked the database nothing leaves them
here. They are written before anybody looks: ahead of the next statement of a later handler, at the latest
ahead of the acknowledgement, in the same transaction. Where that fails, halves are tried, and halves of
halves, so that the event to blame is found without calling a handler twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state

from sqla_pubsub.deliver.handle.chain import ContextSetting
from sqla_pubsub.deliver.io.own_settings import OwnSettings

_Left = tuple[int, tuple[tuple[object, dict[str, Any]], ...], str]


class DeferredSession(Session):
    """Writes on the work connection, whatever the application's sessions are bound to.

    Args:
        connection: The work connection.
        options: Those of the application's sessions.
    """

    def __init__(self, connection: Connection, **options: Any) -> None:
        super().__init__(join_transaction_mode="create_savepoint", expire_on_commit=False, **options)
        self._work = connection

    def get_bind(self, *_: Any, **__: Any) -> Connection:
        """Return the work connection."""
        return self._work


class DeferredInserts:
    """Objects by the entry whose handler added them.

    Args:
        connection: The work connection, in the transaction of the group.
        context: That of the transaction.
        own: Its settings: triggers on the users' tables may change them.
        make_session: Makes the session that writes.
    """

    def __init__(
        self,
        connection: Connection,
        context: ContextSetting,
        own: OwnSettings,
        make_session: Callable[[Connection], DeferredSession] = DeferredSession,
    ) -> None:
        self._make_session = make_session
        self._connection = connection
        self._context = context
        self._own = own
        self._left: list[_Left] = []
        self._failed: dict[int, Exception] = {}

    def keep(self, entry_id: int, instances: Collection[object], context: str) -> bool:
        """Take over objects, to be written in this *context*, if none refers to another; return whether that is so."""
        if not all(map(_alone, instances)):
            return False
        kept = tuple((each, dict(instance_state(each).dict)) for each in instances)
        self._left.append((entry_id, kept, context))
        return True

    def write(self) -> dict[int, Exception]:
        """Write all objects, under the listener's own settings.

        Returns:
            The entries whose objects could not be written, also before, with the reason; nothing of them is left.

        Raises:
            DBAPIError: The connection is lost.
        """
        if not self._left:
            return self._failed
        self._own.put_back_used()
        left, self._left = self._left, []
        for context, together in groupby(left, key=itemgetter(2)):
            self._context.be(context)
            self._write(list(together))
        return self._failed

    def _write(self, left: Sequence[_Left]) -> None:
        try:
            with self._make_session(self._connection) as session, session.begin():
                session.add_all([instance for _, instances, _ in left for instance, _ in instances])
                session.flush()
                self._own.join_release()
        except Exception as error:
            if self._connection.closed or self._connection.invalidated:
                raise
            for _, instances, _ in left:
                _forget_generated(instances)
            if len(left) == 1:
                self._failed[left[0][0]] = error
                return
            middle = len(left) // 2
            self._write(left[:middle])
            self._write(left[middle:])


def _alone(instance: object) -> bool:
    state = instance_state(instance)
    return not state.dict.keys() & state.mapper.relationships.keys()


def _forget_generated(instances: Iterable[tuple[object, dict[str, Any]]]) -> None:
    """A failed write leaves in the objects what the server and hooks gave them, which is void."""
    for instance, own in instances:
        values = instance_state(instance).dict
        values.clear()
        values.update(own)
