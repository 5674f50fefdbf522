"""Notes whose events leave for a file."""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from sqla_pubsub import Listener
from tests.deliver.notes import Notes
from tests.outlets.files import sent


class Relayed:
    """Notes that go to a file."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.notes = Notes(engine)
        self.folder = folder / "engine"
        self.folder.mkdir()
        self.path = self.folder / "file"

    @property
    def outlets(self) -> dict[str, dict[str, Any]]:
        return {"file": {"url": str(self.path)}}

    def listener(self, **options: Any) -> Listener:
        self.notes.install()
        return Listener(self.notes.engine, self.notes.metadata, outlets=self.outlets, **options)

    def drain(self) -> int:
        return self.listener().drain()

    @property
    def sent(self) -> list[dict[str, Any]]:
        return sent(self.path)

    @property
    def waiting(self) -> int:
        return int(self.notes.scalar("SELECT count(*) FROM pubsub_outbox"))
