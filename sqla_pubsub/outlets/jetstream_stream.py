"""The stream that a subject belongs to: how it is found, and what its settings mean for who relies on it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletUnavailable
from sqla_pubsub.outlets.jetstream_connection import NO_STREAM, Connection

_SECOND = 1_000_000_000
_NO_MESSAGE = 10_037
_ADVISED_WINDOW = 120
"""Seconds: what a server takes where nobody said another one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it stands in a stream: its place there and its headers."""

    seq: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The requests that JetStream answers.

    Attributes:
        connection: What they are sent on.
        domain: The domain of JetStream, where the server is a leaf node.
        seconds: How long an answer may take.
    """

    connection: Connection
    domain: str | None
    seconds: float

    async def stream_of(self, subjects: Sequence[str]) -> Mapping[str, Any]:
        """Return the settings of the stream that listens on all *subjects*.

        Raises:
            ConfigurationError: There is none, or more than one.
        """
        names = {subject: await self._name_of(subject) for subject in subjects}
        if len({*names.values()}) > 1:
            raise ConfigurationError(
                f"{' and '.join(names)} are in different streams: {', '.join(names.values())}. Give them one."
            )
        answer = await self._ask(f"STREAM.INFO.{names[subjects[0]]}")
        config: Mapping[str, Any] = answer["config"]
        return config

    async def last(self, stream: str, subject: str) -> Stored | None:
        """Return the last message of a subject."""
        return await self._message(stream, b'{"last_by_subj":"%b"}' % subject.encode())

    async def at(self, stream: str, seq: int) -> Stored | None:
        """Return the message at a place."""
        return await self._message(stream, b'{"seq":%d}' % seq)

    async def _message(self, stream: str, which: bytes) -> Stored | None:
        answer = await self._ask(f"STREAM.MSG.GET.{stream}", which)
        if "error" in answer:
            return None
        found = answer["message"]
        lines = b64decode(found.get("hdrs", "")).decode().split("\r\n")
        headers = (line.partition(":") for line in lines if ":" in line)
        return Stored(found["seq"], {name.strip(): value.strip() for name, _, value in headers})

    async def _name_of(self, subject: str) -> str:
        answer = await self._ask("STREAM.NAMES", b'{"subject":"%b"}' % subject.encode())
        names: list[str] = answer.get("streams") or []
        if not names:
            raise ConfigurationError(
                f"no stream listens on the subject {subject!r}. Make one, such as with: "
                f"nats stream add NAME --subjects {subject!r} --storage file --replicas 3 --defaults"
            )
        return names[0]

    async def _ask(self, request: str, payload: bytes = b"") -> dict[str, Any]:
        prefix = f"$JS.{self.domain}.API" if self.domain else "$JS.API"
        answer = await self.connection.request(f"{prefix}.{request}", payload, self.seconds)
        error = answer.get("error")
        if error is None or error.get("err_code") == _NO_MESSAGE:
            return answer
        if error.get("err_code") == NO_STREAM:
            raise ConfigurationError(f"there is no stream for {request}: {error['description']}.")
        if error["code"] == 503 and not self.connection.server.get("jetstream"):
            raise ConfigurationError(
                "the server has no JetStream. Start it with -js, or give domain= where it is a leaf node."
            )
        raise OutletUnavailable(f"JetStream answers {error['code']}: {error.get('description')}")


def window(config: Mapping[str, Any]) -> float:
    """Return for how many seconds a stream knows ids again."""
    return float(config["duplicate_window"]) / _SECOND


def check(config: Mapping[str, Any], *, strict: bool) -> None:
    """Compare a stream with what it has to do.

    Raises:
        ConfigurationError: It cannot: nothing may be written there, or nothing is confirmed.
    """
    for setting, why in {
        "no_ack": "it confirms nothing",
        "sealed": "nothing can be written there any more",
        "mirror": "it holds what another stream has",
        "allow_msg_counter": "it counts, and keeps no messages",
    }.items():
        if config.get(setting):
            raise ConfigurationError(f"events cannot go into the stream {config['name']}: {why} ({setting}).")
    if strict and config["retention"] != "limits":
        raise ConfigurationError(
            f"strict=True needs to read what it has sent last, and the stream {config['name']} removes what was consumed "
            f"(retention {config['retention']}). Give it the retention limits, or leave out strict=True."
        )


def weaknesses(config: Mapping[str, Any], *, strict: bool) -> list[str]:
    """Return what is weaker than it should be, a sentence each."""
    name = f"stream {config['name']}"
    found = []
    if config["storage"] == "memory":
        found.append(f"{name} is kept in memory: what it has confirmed is lost when its server ends.")
    elif config.get("persist_mode") == "async":
        found.append(f"{name} confirms before it has written anything (persist_mode async).")
    elif config["num_replicas"] == 1:
        found.append(
            f"{name} has one replica, and a server confirms before its disk has it: a crash of its machine loses up to two "
            "minutes, unless it is set to sync_interval: always, which cannot be seen from here. Three replicas are safe."
        )
    limits = [
        f"{limit} {config[limit]}"
        for limit in ("max_msgs", "max_bytes", "max_msgs_per_subject")
        if config.get(limit, -1) > 0
    ]
    if limits and config["discard"] == "old":
        found.append(
            f"{name} drops its oldest messages, read or not, beyond {' and '.join(limits)} (discard old)."
        )
    if strict and config.get("max_age"):
        found.append(
            f"{name} drops messages after {config['max_age'] / _SECOND:g} s: what is sent again after a longer outage may "
            "stand there twice."
        )
    if not strict and window(config) < _ADVISED_WINDOW:
        found.append(
            f"{name} knows ids again for {window(config):g} s (duplicate_window): what is sent again after a longer outage "
            "may stand there twice. Give it 2 minutes or more, or use strict=True."
        )
    return found
