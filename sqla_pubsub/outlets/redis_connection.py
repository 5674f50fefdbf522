"""A connection to Redis for an outlet: how it is made, what is weak about the server, and errors in our words.

Whether the server belongs to a cluster is asked, so that nobody has to say it.

Source: https://redis.io/docs/latest/commands/hello/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletSettings, OutletUnavailable
from sqla_pubsub.outlets.optional import imported

OPTIONS: dict[str, type | tuple[type, ...]] = {
    "username": str,
    "password": str,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "timeout": (int, float),
}
_TIMEOUT = 10.0


class RedisConnection:
    """One server, or one cluster. Not connected until `open`.

    Args:
        settings: Where it is.

    Raises:
        ConfigurationError: The client library is missing, or a setting cannot be.
    """

    def __init__(self, settings: OutletSettings) -> None:
        settings.check(OPTIONS)
        redis = self._redis = imported("redis", "redis")
        self._errors = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)
        self._settings = settings
        self._client: Any = None
        self._cluster = False
        try:
            # Makes an object only: what is wrong with the address is said before anything runs.
            self._connect().connection_pool.make_connection()
        except (ValueError, TypeError):
            # Without what the library says, which may quote a password.
            raise ConfigurationError(
                f"url of [tool.sqla-pubsub.outlets.{settings.name}] is no address of Redis, or another setting does not "
                "fit it. Give one such as redis://localhost:6379/0, rediss://... for TLS, or unix:///path/to/socket."
            ) from None

    def open(self) -> list[str]:
        """Connect, and return sentences about what is weak."""
        with self.understood():
            client = self._client = self._connect()
            # No rights are needed for this one.
            hello = _named(client.execute_command("HELLO"))
            self._cluster = hello["mode"] == "cluster"
            if not self._cluster and hello["role"] != "master":
                raise OutletUnavailable(
                    "this Redis is a replica, which takes no events. Give the address of its master, or promote it."
                )
            weak = self._weaknesses(client)
            if self._cluster:
                client.close()
                self._client = self._redis.RedisCluster.from_url(self._settings.url, **self._options())
        return weak

    def close(self) -> None:
        """Give it up. Never raises."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(*self._errors):
                client.close()

    def run(self, script: str, calls: Mapping[str, Sequence[str | bytes | int]]) -> list[Any]:
        """Run *script* for each key with its arguments, in one round trip where all are on one server."""
        if self._cluster:
            return [self._client.eval(script, 1, key, *given) for key, given in calls.items()]
        with self._client.pipeline(transaction=False) as pipeline:
            for key, given in calls.items():
                pipeline.eval(script, 1, key, *given)
            # Else the library raises with the command, which is what is sent.
            answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return list(answers)

    def stream(self, name: str) -> tuple[str, str, Mapping[bytes, bytes]] | None:
        """Return the last id of a stream, and id and fields of the last entry that is there; None for no such stream."""
        try:
            info = self._client.xinfo_stream(name)
        except self._redis.ResponseError as error:
            if "no such key" in str(error):
                return None
            if str(error).startswith("WRONGTYPE"):
                raise ConfigurationError(
                    f"{name!r} in Redis is no stream. Give the outlet another name, or delete that key."
                ) from error
            raise
        entry = info.get("last-entry")
        last = _text(info["last-generated-id"])
        return (last, _text(entry[0]), entry[1]) if entry else (last, "", {})

    @contextmanager
    def understood(
        self, refused: type[ConfigurationError | OutletUnavailable] = ConfigurationError
    ) -> Iterator[None]:
        """Say in our words what the client library raises."""
        errors = self._redis.exceptions
        try:
            yield
        except (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError) as error:
            raise refused(
                f"Redis refuses this user: {error}. It needs XADD, XRANGE, XINFO, XTRIM, EXISTS and EVAL on the streams."
            ) from error
        except self._errors as error:
            if "DB index" in str(error) or "unknown command" in str(error):
                raise refused(f"Redis refuses this: {error}. It must be of version 6 or newer.") from error
            raise OutletUnavailable(f"Redis is away or takes nothing: {error}") from error

    def _connect(self) -> Any:
        return self._redis.Redis.from_url(
            self._settings.url,
            # The relay tries again, and says so.
            retry=self._redis.retry.Retry(self._redis.backoff.NoBackoff(), 0),
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        given = dict(self._settings.options)
        seconds = given.pop("timeout", _TIMEOUT)
        return {**given, "socket_timeout": seconds, "socket_connect_timeout": seconds}

    def _weaknesses(self, client: Any) -> list[str]:
        try:
            said = client.config_get("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")
        except self._redis.ResponseError:
            return ["this user of Redis may not CONFIG GET: whether it writes what it confirms is not known"]
        found = []
        if said["appendonly"] == "no":
            found.append(
                "Redis confirms events that it has in memory only (appendonly no): those since its last snapshot are "
                "lost when it crashes. Set appendonly yes and appendfsync always."
            )
        elif said["appendfsync"] != "always":
            found.append(
                f"Redis confirms events before it has written them (appendfsync {said['appendfsync']}): the last "
                f"{'second' if said['appendfsync'] == 'everysec' else 'seconds'} are lost when its machine crashes. "
                "Set appendfsync always."
            )
        if said["maxmemory"] != "0" and said["maxmemory-policy"].startswith("allkeys"):
            found.append(
                f"Redis may delete a whole stream when its memory is full (maxmemory-policy {said['maxmemory-policy']}). "
                "Set noeviction, or one that begins with volatile."
            )
        return found


def _named(answer: Any) -> dict[str, str]:
    """Return what HELLO says, which is a map or a flat list."""
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
