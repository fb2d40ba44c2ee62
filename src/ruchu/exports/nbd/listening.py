"""Sockets that clients connect to, and who may.

A unix socket is for this user: 0600, in a directory that nobody else enters. TCP is for clients with
a certificate, or from networks that were named.
"""

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from ruchu.errors import AlreadyExists, ExportError, UsageError

# Clients that connect at the same moment; more wait in the kernel.
_BACKLOG: Final = 64
# struct sockaddr_un holds 108 bytes, the last of them zero.
_PATH_BYTES_MAX: Final = 107

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Listener(Protocol):
    """A socket that clients connect to."""

    tls: ssl.SSLContext | None

    def accept(self) -> socket.socket | None:
        """Return the next client, or None for one that was turned away.

        Raises:
            OSError: there is none; `closed` tells whether there will be any.
        """

    @property
    def closed(self) -> bool:
        """Whether `stop` was called."""

    def stop(self) -> None:
        """Accept no more, and have `accept` return; called by another thread."""

    def close(self) -> None:
        """Give back the socket and its name; `accept` is not called any more."""


class _Socket:
    def __init__(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self._listening = listening
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def stop(self) -> None:
        self._closed = True
        # On Linux this wakes up whoever waits in `accept`.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.stop()
        self._listening.close()


class UnixListener(_Socket):
    """A unix socket at a path.

    The path is owned by whoever holds the lock of the file beside it, so of two servers that find
    the socket of a dead one, one replaces it and the other is refused.

    Raises:
        UsageError: others may enter the directory, or the path is too long.
        AlreadyExists: a server lives there, or it is no socket.
        ExportError: the socket could not be made.
    """

    def __init__(self, path: Path, tls: ssl.SSLContext | None = None) -> None:
        if len(os.fsencode(path)) > _PATH_BYTES_MAX:
            raise UsageError(f"({path} is too long for a socket)", hint="Choose a shorter path.")
        self.path = path
        _check_directory(path.parent)
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._lock = _claim(self._lock_path)
        try:
            super().__init__(self._listen(), tls)
        except BaseException:
            self._release()
            raise

    def _listen(self) -> socket.socket:
        _remove_stale(self.path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(os.fspath(self.path))
            # Nobody can connect before `listen`.
            self.path.chmod(0o600)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise ExportError(f"({self.path}: {error.strerror})") from None
        return listening

    def accept(self) -> socket.socket | None:
        """Return the next client."""
        return self._listening.accept()[0]

    def close(self) -> None:
        """Remove the socket."""
        super().close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._release()

    def _release(self) -> None:
        # While the lock is held, so that nobody else's is removed.
        with contextlib.suppress(FileNotFoundError):
            self._lock_path.unlink()
        os.close(self._lock)


def _check_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ExportError(f"({directory}: {error.strerror})") from None
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"({directory} is no directory)")
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        hint = f"Choose a directory of your own, or `chmod 700 {directory}`."
        raise UsageError(f"({directory} can be entered by others)", hint=hint)


def _claim(path: Path) -> int:
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A server that ended meanwhile took the file away; then it is not ours.
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        raise ExportError(f"({path}: {error.strerror})") from None
    os.close(descriptor)
    raise AlreadyExists(f"(a server on {path})", hint="Stop it, or choose another path.")


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AlreadyExists(f"({path}, and it is no socket)")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        # Only this answer says that nobody listens.
        if probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
            raise AlreadyExists(f"(a server on {path})", hint="Stop it, or choose another path.")
    path.unlink()


class TcpListener(_Socket):
    """A TCP socket for clients that prove who they are, or come from named networks.

    Args:
        host: address to listen on.
        port: 0 for any that is free.
        tls: context with our certificate; it asks for client certificates unless `clients` says
            who may connect.
        clients: networks such as `192.0.2.0/24`; others are turned away.

    Raises:
        UsageError: everybody could connect, or a network is none.
        ExportError: the socket could not be made.
    """

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None, clients: Iterable[str] = ()
    ) -> None:
        self._networks = _networks(clients)
        proven = tls is not None and tls.verify_mode is ssl.CERT_REQUIRED
        if not proven and not self._networks:
            hint = "Ask for client certificates, or name the networks of the clients."
            raise UsageError("(everybody could connect)", hint=hint)
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            listening = socket.create_server(
                address[:2], family=family, backlog=_BACKLOG, reuse_port=False
            )
        except OSError as error:
            raise ExportError(f"({host}:{port}: {error.strerror})") from None
        super().__init__(listening, tls)
        self.port = int(listening.getsockname()[1])

    def accept(self) -> socket.socket | None:
        """Return the next client, or None for one that was turned away."""
        connected, address = self._listening.accept()
        if not self._networks or self._allowed(address[0]):
            return connected
        connected.close()
        return None

    def _allowed(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"({error})", hint="A network is written as 192.0.2.0/24.") from None
