"""The state directory of a server."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ruchu import process


@dataclass(frozen=True, slots=True)
class ServerState:
    """Where a server keeps what it knows."""

    directory: Path

    @property
    def database(self) -> Path:
        """The database, unless it is on PostgreSQL."""
        return self.directory / "ruchu.db"

    @property
    def jobs(self) -> Path:
        """The database of the workflow engine, unless it is on PostgreSQL."""
        return self.directory / "jobs.db"

    @property
    def anchors(self) -> Path:
        """Where the audit trail is anchored outside of the database."""
        return self.directory / "audit.anchors"

    @property
    def node(self) -> Path:
        """The state of the embedded node."""
        return self.directory / "node"

    def claimed(self) -> AbstractContextManager[None]:
        """Keep a second server away from this directory.

        Raises:
            ControlError: another one runs.
            StorageError: the directory cannot be used.
        """
        return process.only_one(self.directory / "server.lock")
