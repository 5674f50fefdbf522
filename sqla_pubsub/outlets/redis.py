"""Redis Streams as an outlet: the number of an event is the id of its stream entry, which Redis takes only once.

An entry with the id ``number-0`` is added only after lower ones, so what is sent again is recognized. Two things are
left to us, and one script per lane does both in one step. First, nothing may pass what was refused: a server that is
out of memory for a moment would refuse 5-0 and take 6-0, and 5-0 never again. A script is refused as a whole. Second,
that a higher id is there does not say that the event is: a stranger may have written it. So what is not added must be
found, with the id and the time of the event.

Sources: https://redis.io/docs/latest/commands/xadd/,
https://redis.io/docs/latest/develop/programmability/eval-intro/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import get_args

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import (
    CONFIRMED,
    Fate,
    Formats,
    Outgoing,
    Outlet,
    OutletSettings,
    OutletUnavailable,
    Sender,
    Unsettled,
)
from sqla_pubsub.outlets.cloudevents import encode
from sqla_pubsub.outlets.redis_connection import RedisConnection

# Per message: its number, how many arguments follow, and these: its fields, of which the id is the first and the time
# the second. Returns nothing where all is there, else the number at which it stopped, and what was found instead.
_ADD = """
local stream, last, at = KEYS[1], 0, 2
if redis.call('EXISTS', stream) == 1 then
    local info = redis.call('XINFO', 'STREAM', stream)
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = tonumber(string.match(info[i + 1], '^%d+')) end
    end
end
while at < #ARGV do
    local id, width = ARGV[at] .. '-0', tonumber(ARGV[at + 1])
    if tonumber(ARGV[at]) > last then
        redis.call('XADD', stream, id, unpack(ARGV, at + 2, at + 1 + width))
        last = tonumber(ARGV[at])
    else
        local found = redis.call('XRANGE', stream, id, id)[1]
        if not found then return {ARGV[at], 'nothing'} end
        if found[2][2] ~= ARGV[at + 3] or found[2][4] ~= ARGV[at + 5] then return {ARGV[at], 'another'} end
    end
    at = at + 2 + width
end
if ARGV[1] ~= '' then redis.call('XTRIM', stream, 'MAXLEN', '~', ARGV[1]) end
return {}
"""
# One script holds up the whole server while it runs.
_BYTES_AT_ONCE = 4 * 2**20
# Ids that Redis gives by itself are milliseconds since 1970; our numbers do not get there.
_FIRST_TIMESTAMP = 10**12
# A value may have 512 MiB, unless proto-max-bulk-len says otherwise; base64 and the attributes of an event need room.
_LONGEST = 256 * 2**20


@dataclass(frozen=True)
class RedisStream(Outlet):
    """A stream of Redis; with more lanes one for each: ``shop.comments``, ``shop.comments:1``, ``shop.comments:2``...

    Ids grow within a stream, so events of two lanes cannot share one. A consumer reads all of them.

    .. versionadded:: 0.3.0

    Args:
        stream: Name of the stream; that of other lanes than the first has their number behind it.
        format: How an event is written: the fields ``id``, ``time``, ``key``, ``content-type`` and ``data``, and with
            ``"binary"`` one for each attribute of a CloudEvent.
        maxlen: How many entries each stream keeps, roughly, whether they were read or not; None keeps all.
    """

    stream: str
    format: Formats = field(default="structured", kw_only=True)
    maxlen: int | None = field(default=None, kw_only=True)
    lanes: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        Outlet.__post_init__(self)
        if type(self.stream) is not str or not self.stream:
            raise ConfigurationError(
                f"stream={self.stream!r} of a RedisStream: give a name, such as 'shop.comments'."
            )
        if self.format not in get_args(Formats):
            raise ConfigurationError(
                f"format={self.format!r} is unknown. Give 'structured', 'binary' or 'json'."
            )
        if self.maxlen is not None and (type(self.maxlen) is not int or self.maxlen < 1):
            raise ConfigurationError(
                f"maxlen={self.maxlen!r} of a RedisStream: give a number from 1, or None to keep all."
            )

    @property
    def engine(self) -> str:
        """``redis``."""
        return "redis"

    @property
    def contract(self) -> str:
        """What is promised, in one sentence."""
        return "exactly once into the stream, as far as Redis writes what it confirms: appendonly yes, appendfsync always"

    def sender(self, settings: OutletSettings, listener: str) -> Sender:
        """Return a sender, not connected yet."""
        return _Sender(self, RedisConnection(settings))

    def stream_of(self, lane: int) -> str:
        """Return the name of the stream that has the events of *lane*, the same however many lanes there are."""
        return self.stream if lane == 0 else f"{self.stream}:{lane}"


class _Sender(Sender):
    def __init__(self, outlet: RedisStream, connection: RedisConnection) -> None:
        self._outlet = outlet
        self._connection = connection
        self._taken: dict[int, int] = {}
        self._fields: dict[int, Mapping[bytes, bytes]] = {}
        """Of the last entry of each lane; none where it was deleted."""

    def open(self) -> Sequence[str]:
        self.close()
        try:
            weak = self._connection.open()
            for lane in range(self._outlet.lanes):
                self._last(lane)
        except BaseException:
            self.close()
            raise
        return weak

    def take(self, lane: int) -> int | None:
        number, self._fields[lane] = self._last(lane)
        self._taken[lane] = number
        return number

    def has(self, message: Outgoing) -> bool:
        fields = self._fields.get(message.lane)
        if not fields or message.number != self._taken[message.lane]:
            return True
        return (fields[b"id"], fields.get(b"time")) == (b"%d" % message.id, _time(message).encode())

    def leave(self, lane: int) -> None:
        self._taken.pop(lane, None)
        self._fields.pop(lane, None)

    def refuses(self, message: Outgoing) -> str | None:
        if len(message.data) > _LONGEST:
            return f"it has {len(message.data)} bytes, and Redis takes no more than {_LONGEST}"
        return None

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        stopped: dict[int, tuple[int, Unsettled]] = {}
        with self._connection.understood(OutletUnavailable):
            for part in _parts(messages):
                self._add(part, stopped)
        return [
            stopped[message.lane][1]
            if message.lane in stopped and message.number >= stopped[message.lane][0]
            else CONFIRMED
            for message in messages
        ]

    def close(self) -> None:
        self._connection.close()

    def _add(self, messages: Sequence[Outgoing], stopped: dict[int, tuple[int, Unsettled]]) -> None:
        calls: dict[int, list[str | bytes | int]] = {}
        for message in messages:
            if message.lane not in stopped:
                calls.setdefault(message.lane, [self._outlet.maxlen or ""]).extend(self._arguments(message))
        by_stream = {self._outlet.stream_of(lane): given for lane, given in calls.items()}
        for lane, found in zip(calls, self._connection.run(_ADD, by_stream), strict=True):
            if found:
                number = int(found[0])
                stopped[lane] = number, self._why(lane, number, another=found[1] == b"another")

    def _arguments(self, message: Outgoing) -> list[str | bytes | int]:
        headers, data = encode(message, self._outlet.format, "")
        fields: list[str | bytes] = ["id", str(message.id), "time", _time(message)]
        if message.key is not None:
            fields += ("key", message.key)
        for pair in headers.items():
            if pair[0] not in ("id", "time"):
                fields += pair
        fields += ("data", data)
        return [message.number, len(fields), *fields]

    def _why(self, lane: int, number: int, *, another: bool) -> Unsettled:
        stream = self._outlet.stream_of(lane)
        if not another and number > self._taken.get(lane, 0):
            # It was there when another sender had sent it, and was read and deleted; or a stranger wrote a higher id.
            # Which it was is seen when the lane is taken again.
            raise OutletUnavailable(f"stream {stream!r} got higher ids than {number}-0 from another sender")
        found = "has another event as" if another else "has higher ids than, and does not have,"
        return Unsettled(
            reason=f"stream {stream!r} {found} {number}-0: another database or listener writes to it, or this database was "
            "set back to an earlier time. Give this outlet a stream of its own, or rename or delete this one; then resume.",
            pause=True,
        )

    def _last(self, lane: int) -> tuple[int, Mapping[bytes, bytes]]:
        """Return the highest number in the stream of a lane, 0 where there is none, and the fields of that entry."""
        stream = self._outlet.stream_of(lane)
        with self._connection.understood():
            found = self._connection.stream(stream)
        if found is None:
            return 0, {}
        last, at, fields = found
        time, _, sequence = last.partition("-")
        if sequence != "0" or int(time) >= _FIRST_TIMESTAMP or (fields and b"id" not in fields):
            raise ConfigurationError(
                f"stream {stream!r} has entries of somebody else: its last id is {last}. Ids of events must be higher "
                "than all before. Give this outlet a stream of its own, or rename or delete that one."
            )
        return int(time), fields if at == last else {}


def _time(message: Outgoing) -> str:
    return message.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _parts(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Yield them in parts that one script takes at a time."""
    start = size = 0
    for place, message in enumerate(messages):
        size += len(message.data)
        if size > _BYTES_AT_ONCE and place > start:
            yield messages[start:place]
            start, size = place, len(message.data)
    yield messages[start:]
