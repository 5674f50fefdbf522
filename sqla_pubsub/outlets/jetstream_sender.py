"""Sends the events of one listener into one stream of JetStream, each with a confirmation.

JetStream answers each message alone, and one that fails does not keep back the next. So of the events with one key, and in
strict mode of those in one lane, the next is sent when the one before it is confirmed: these are *waves*. What has different
keys goes together, in one wave where no key comes twice.

Source: https://docs.nats.io/nats-concepts/jetstream/streams
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from datetime import timedelta

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Confirmed,
    Fate,
    Outgoing,
    OutletSettings,
    OutletUnavailable,
    Refused,
    Sender,
    Unsettled,
)
from sqla_pubsub.outlets.jetstream_connection import Answer, Connection, Forbidden
from sqla_pubsub.outlets.jetstream_doubts import Doubts
from sqla_pubsub.outlets.jetstream_message import Last, Target
from sqla_pubsub.outlets.jetstream_stream import Api, Stored, check, weaknesses, window
from sqla_pubsub.outlets.loop import LoopThread
from sqla_pubsub.outlets.waves import parts, waves

_OTHERS_WROTE = (10_071, 10_164)
"""The server's numbers for: the last message of the subject is another one than expected."""
_IN_PROCESS = 10_158
_TOO_LARGE = (10_054, 10_097)
_SECONDS = 10.0
_SOON = timedelta(seconds=1)

logger = logging.getLogger(__name__)


class JetStreamSender(Sender):
    """Sends into one stream, over one connection."""

    def __init__(self, target: Target, settings: OutletSettings) -> None:
        self._target = target
        self._connection = Connection(settings, f"sqla-pubsub {target.listener}")
        self._seconds = float(settings.options.get("timeout", _SECONDS))
        self._api = Api(
            connection=self._connection, domain=settings.options.get("domain"), seconds=self._seconds
        )
        self._loop: LoopThread | None = None
        self._stream = ""
        self._window = 0.0
        self._limit = 0
        self._last: dict[int, Last] = {}
        self._doubts = Doubts()
        self._forbidden: Forbidden | None = None

    def open(self) -> Sequence[str]:
        """Connect, and look at the stream."""
        self.close()
        if self._forbidden is not None:
            forbidden, self._forbidden = self._forbidden, None
            raise ConfigurationError(f"{forbidden}. Let the user publish to {self._target.subjects()[-1]!r}.")
        self._loop = LoopThread(f"nats-{self._target.listener}")
        try:
            return self._loop.run(self._open(), self._seconds)
        except BaseException:
            self.close()
            raise

    def take(self, lane: int) -> int | None:
        """Begin to send in *lane*; where strict, by reading how far it has come."""
        loop = self._running()
        if not self._target.strict:
            return None
        last = self._last[lane] = loop.run(self._read(lane), self._seconds)
        return last.number or None

    def has(self, message: Outgoing) -> bool:
        """Where strict, read it."""
        last = self._last.get(message.lane)
        return last is None or self._running().run(self._is_in(last, message), self._seconds)

    def leave(self, lane: int) -> None:
        """Forget a lane."""
        self._last.pop(lane, None)
        self._doubts.leave(lane)

    def refuses(self, message: Outgoing) -> str | None:
        """Return why the message can never be stored: more bytes than the server or the stream takes."""
        return self._target.too_large(message, self._limit)

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        """Send in waves, and return what became of each."""
        loop = self._running()
        if not messages:
            return []
        begun = time.monotonic()
        fates: list[Fate | None] = [None] * len(messages)
        unanswered: set[int] = set()
        try:
            # The time is kept inside; what is longer than that hangs.
            loop.run(self._send(messages, fates, unanswered, begun + self._seconds), 2 * self._seconds)
        finally:
            self._doubts.note(messages, fates, unanswered, begun)
        lost = self._connection.lost
        if isinstance(lost, Forbidden):
            self._forbidden = lost
        left = Unsettled(reason=str(lost or "not sent yet"))
        if not any(isinstance(fate, Confirmed | Refused) for fate in fates):
            reasons = (fate.reason for fate in fates if isinstance(fate, Unsettled))
            raise OutletUnavailable(str(lost or next(reasons, left.reason)))
        return [fate or left for fate in fates]

    def close(self) -> None:
        """Give up the connection."""
        loop, self._loop = self._loop, None
        self._last.clear()
        if loop is None:
            return
        try:
            loop.run(self._connection.close(), 1.0)
        except Exception as error:
            # With a server that takes nothing any more, there is no orderly end.
            logger.debug("nats.close_failed", extra={"failure": type(error).__name__})
        loop.close()

    def _running(self) -> LoopThread:
        if self._loop is None or self._connection.lost is not None:
            lost = self._connection.lost if self._loop is not None else None
            raise OutletUnavailable(str(lost or "not connected"))
        return self._loop

    async def _open(self) -> list[str]:
        strict = self._target.strict
        await self._connection.open(self._seconds)
        self._limit = self._connection.max_payload
        try:
            config = await self._api.stream_of(self._target.subjects())
        except Forbidden as error:
            if strict:
                raise ConfigurationError(
                    f"{error}. strict=True needs $JS.API.STREAM.> to be allowed."
                ) from error
            self._connection.forgive()
            self._window = 0.0
            return [
                "the user may not read the settings of the stream ($JS.API.STREAM.>): how durable it is, is not known."
            ]
        check(config, strict=strict)
        self._stream = config["name"]
        self._window = window(config)
        if config.get("max_msg_size", -1) > 0:
            self._limit = min(self._limit, config["max_msg_size"])
        return [*weaknesses(config, strict=strict), *self._late(strict)]

    def _late(self, strict: bool) -> list[str]:
        """Say which events may be stored twice when they are sent again: the stream has forgotten their ids."""
        late = self._doubts.older_than(self._window) if not strict else []
        if not late:
            return []
        age, first = late[0]
        said = (
            f"{len(late)} events were sent up to {age:.0f} s ago and never confirmed. Stream {self._stream} knows ids again "
            f"for {self._window:g} s: those that had arrived will stand there twice. The first is event {first}."
        )
        return [said]

    async def _read(self, lane: int) -> Last:
        return _last(await self._api.last(self._stream, self._target.subject_of(lane)))

    async def _send(
        self, messages: Sequence[Outgoing], fates: list[Fate | None], unanswered: set[int], deadline: float
    ) -> None:
        """Fill in *fates*, and in *unanswered* the places of what was sent in vain."""
        groups: list[Hashable] = [m.lane if self._target.strict else m.key for m in messages]
        sizes = [len(m.data) for m in messages]
        stopped: set[Hashable] = set()
        if self._target.strict:
            stopped |= await self._recall(messages, fates)
        message, last = self._target.message, self._last.get
        for wave in waves(groups):
            free = [index for index in wave if fates[index] is None and groups[index] not in stopped]
            for part in parts(free, sizes):
                if self._connection.lost is not None or time.monotonic() > deadline:
                    return
                ready = [message(messages[index], last(messages[index].lane)) for index in part]
                answers = await self._connection.publish(ready, deadline)
                for index, answer in zip(part, answers, strict=True):
                    if answer is not None and answer.error is None and not self._target.strict:
                        fates[index] = CONFIRMED
                        continue
                    fate = fates[index] = self._fate(messages[index], answer)
                    if answer is None:
                        unanswered.add(index)
                    if fate is not CONFIRMED and groups[index] is not None:
                        stopped.add(groups[index])

    async def _recall(self, messages: Sequence[Outgoing], fates: list[Fate | None]) -> set[Hashable]:
        """Confirm what is there already, and return the lanes whose subject somebody else has written to."""
        lanes: dict[int, list[int]] = {}
        for index, message in enumerate(messages):
            lanes.setdefault(message.lane, []).append(index)
        foreign: set[Hashable] = set()
        for lane, indices in lanes.items():
            if lane not in self._last:
                self._last[lane] = await self._read(lane)
            last = self._last[lane]
            there = [index for index in indices if messages[index].number <= last.number]
            if not there:
                continue
            fate: Fate = CONFIRMED
            if not await self._is_in(last, messages[there[-1]]):
                foreign.add(lane)
                fate = Unsettled(
                    reason=f"the last message of {self._target.subject_of(lane)!r} is number {last.number}, which this "
                    "listener has not sent. Give each listener and each database a subject of its own"
                )
            for index in there:
                fates[index] = fate
        return foreign

    async def _is_in(self, last: Last, message: Outgoing) -> bool:
        """Whether *message* is in its lane, and not another one of its number. Each message there names the one before."""
        while last.number > message.number:
            before = await self._api.at(self._stream, last.before) if last.before else None
            if before is None:
                # The stream keeps no more: who has written the rest, has written that.
                return last.origin == self._target.origin(message)
            last = _last(before)
        return last.number == message.number and last.id == self._target.id(message)

    def _fate(self, message: Outgoing, answer: Answer | None) -> Fate:
        strict = self._target.strict
        if answer is not None and answer.error is None:
            if strict:
                before = self._last.get(message.lane, Last()).seq
                self._last[message.lane] = Last(answer.seq, message.number, self._target.id(message), before)
            return CONFIRMED
        # What the subject ends with is to be read again.
        self._last.pop(message.lane, None)
        if answer is None or answer.error is None:
            return Unsettled(reason=f"NATS did not answer within {self._seconds:g} s")
        error = answer.error
        reason = f"NATS answers {error.code}: {error.description}"
        if strict and error.err_code in _OTHERS_WROTE:
            return Unsettled(reason=f"another worker has sent in lane {message.lane} meanwhile")
        if error.err_code in _TOO_LARGE:
            return Refused(reason=reason, final=True)
        if error.code == 429 or error.code >= 500 or error.err_code == _IN_PROCESS:
            return Unsettled(reason=reason, after=_SOON)
        return Refused(reason=reason)


def _last(stored: Stored | None) -> Last:
    return Last() if stored is None else Last.read(stored.seq, stored.headers)
