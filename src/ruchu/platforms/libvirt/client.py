"""The connection to libvirt, and libvirt's errors in our words."""

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import libvirt

from ruchu.errors import (
    AlreadyExists,
    GuestAgentError,
    NotFound,
    PlatformError,
    RuchuError,
    SourceBusy,
    Unreachable,
    Unsupported,
)

# libvirt-python has no types; these names say what is meant.
Domain = Any
Connection = Any
Checkpoint = Any

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KINDS: dict[int, type[RuchuError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: NotFound,
    libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT: NotFound,
    libvirt.VIR_ERR_DOM_EXIST: AlreadyExists,
    libvirt.VIR_ERR_NO_CONNECT: Unreachable,
    libvirt.VIR_ERR_INVALID_CONN: Unreachable,
    libvirt.VIR_ERR_RPC: Unreachable,
    libvirt.VIR_ERR_AUTH_FAILED: Unreachable,
    libvirt.VIR_ERR_AUTH_CANCELLED: Unreachable,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Unreachable,
    libvirt.VIR_ERR_UNKNOWN_HOST: Unreachable,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: SourceBusy,
    libvirt.VIR_ERR_RESOURCE_BUSY: SourceBusy,
    libvirt.VIR_ERR_BLOCK_COPY_ACTIVE: SourceBusy,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: GuestAgentError,
    libvirt.VIR_ERR_AGENT_UNSYNCED: GuestAgentError,
    libvirt.VIR_ERR_NO_SUPPORT: Unsupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Unsupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Unsupported,
}


class Client:
    """One connection to a libvirt daemon, opened when needed, and again after it broke.

    Safe to use from several threads, as libvirt's connections are.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        # Otherwise libvirt prints each error to standard error as well.
        libvirt.registerErrorHandler(_silent, None)

    def connection(self) -> Connection:
        """Return a living connection.

        Raises:
            Unreachable: the daemon does not answer.
        """
        with self._lock:
            if self._connection is None or not self._is_alive(self._connection):
                with translated(self.uri, default=Unreachable):
                    self._connection = libvirt.open(self.uri)
            return self._connection

    def domain(self, machine: str) -> Domain:
        """Return a machine by its id or its name.

        Raises:
            NotFound: there is none.
            Unreachable: the daemon does not answer.
        """
        connection = self.connection()
        with translated(f"machine {machine!r}"):
            if _UUID.fullmatch(machine):
                return connection.lookupByUUIDString(machine)
            return connection.lookupByName(machine)

    def find(self, machine: str) -> Domain | None:
        """Return a machine by its id or its name, None if there is none."""
        try:
            return self.domain(machine)
        except NotFound:
            return None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                # It may have broken before; there is nothing to lose then.
                with contextlib.suppress(libvirt.libvirtError):
                    connection.close()

    @staticmethod
    def _is_alive(connection: Connection) -> bool:
        try:
            return bool(connection.isAlive())
        except libvirt.libvirtError:
            return False


@contextlib.contextmanager
def translated(what: str, default: type[RuchuError] = PlatformError) -> Iterator[None]:
    """Raise libvirt's errors as ours, with `what` in front."""
    try:
        yield
    except libvirt.libvirtError as error:
        kind = _KINDS.get(error.get_error_code(), default)
        raise kind(f"{what}: {error}") from error


def _silent(_context: object, _error: object) -> None:
    """Take an error that the exception tells as well."""
