"""The state directory of a server."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruchu.errors import ControlError, StorageError


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

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep a second server away from this directory.

        Raises:
            ControlError: another one runs.
            StorageError: the directory cannot be used.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.directory / "server.lock", flags, 0o600)
        except OSError as error:
            raise StorageError(f"({self.directory}: {error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            hint = "End it first, or give another --state."
            raise ControlError(f"(another server runs in {self.directory})", hint=hint) from None
        try:
            yield
        finally:
            os.close(lock)
