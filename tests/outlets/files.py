"""An outlet of a user's own: a file, to which each worker appends. What it holds is what was sent."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqla_pubsub.outlet import CONFIRMED, Fate, Outgoing, Outlet, OutletSettings, OutletUnavailable, Sender


@dataclass(frozen=True)
class File(Outlet):
    """Lines of JSON in a file.

    Args:
        tells: Whether the file says which number of a lane it has, as Kafka does.
        judge: What becomes of a message, before it is written.
    """

    tells: bool = False
    judge: Callable[[Outgoing], Fate] = field(default=lambda _: CONFIRMED, compare=False)
    warning: str | None = None
    largest: int = 10**9

    @property
    def engine(self) -> str:
        return "file"

    @property
    def contract(self) -> str:
        return "exactly once" if self.tells else "at least once"

    def sender(self, settings: OutletSettings, listener: str) -> "FileSender":
        settings.check({})
        return FileSender(self, Path(settings.url))


class FileSender(Sender):
    """Its folder is there while the engine is."""

    def __init__(self, outlet: File, path: Path) -> None:
        self._outlet = outlet
        self._path = path

    def open(self) -> Sequence[str]:
        if not self._path.parent.is_dir():
            raise OutletUnavailable("there is no folder")
        return [self._outlet.warning] if self._outlet.warning is not None else []

    def take(self, lane: int) -> int | None:
        if not self._outlet.tells:
            return None
        return max((line["number"] for line in sent(self._path) if line["lane"] == lane), default=0)

    def has(self, message: Outgoing) -> bool:
        place = (message.lane, message.number)
        return all(
            line["id"] == message.id for line in sent(self._path) if (line["lane"], line["number"]) == place
        )

    def refuses(self, message: Outgoing) -> str | None:
        return "it is too large" if len(message.data) > self._outlet.largest else None

    def send(self, messages: Sequence[Outgoing]) -> Sequence[Fate]:
        if not self._path.parent.is_dir():
            raise OutletUnavailable("there is no folder")
        fates = [self._outlet.judge(message) for message in messages]
        lines = [
            json.dumps(
                {
                    "id": message.id, "lane": message.lane, "number": message.number, "key": message.key,
                    "operation": message.operation, "data": json.loads(message.data),
                }
            )
            for message, fate in zip(messages, fates, strict=True)
            if fate == CONFIRMED
        ]  # fmt: skip
        with self._path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        return fates

    def close(self) -> None:
        pass


def sent(path: Path) -> list[dict[str, Any]]:
    """Return what a file has, in its order."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
