"""Exports: disks of a point served until somebody ends it."""

import contextlib
import gc
import os
import pwd
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu.clock import since_start
from ruchu.errors import NotFound, RuchuError, UsageError
from ruchu.exports.control import ControlServer, Handler
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import NbdServer
from ruchu.operations import points
from ruchu.operations.storages import Storages
from ruchu.recovery import exporting
from ruchu.recovery.exporting import OpenedDisk

Ready = Callable[[dict[str, Any]], None]
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """What every export is told.

    Attributes:
        point: beginning of its id.
        disks: numbers or names; empty means all.
        writable: a write cache (a directory of them for several disks); None serves read-only.
        cache_bytes: memory for decoded blocks.
        control: path of a control socket; None for none.
    """

    point: str
    disks: tuple[str, ...]
    writable: Path | None
    cache_bytes: int
    control: Path | None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a TLS server: its certificate and key, and who signs its clients."""

    certificate: Path
    key: Path
    clients: Path

    def context(self) -> ssl.SSLContext:
        """Return a context that wants a certificate of each client.

        Raises:
            UsageError: the files cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.clients)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"(TLS: {error})") from None
        return context


class Serving:
    """Disks that are open, and the event that ends it all."""

    def __init__(self, point: str, disks: list[OpenedDisk], control: "_Control") -> None:
        self.point = point
        self.disks = disks
        self.stop = control.stop
        self._control = control

    def announce(self, answer: dict[str, Any], ready: Ready) -> None:
        """Say, also by the control socket, that clients may come."""
        # What was made until now stays: to look through it for garbage again and again, between
        # requests, would hold each of them up.
        gc.freeze()
        self._control.serving = True
        ready(answer)

    def wait(self, cancelled: Callable[[], bool]) -> None:
        """Return when somebody wants the export to end."""
        while not self.stop.wait(POLL_S):
            if cancelled():
                return

    def nbd(self) -> NbdServer:
        """Return a server of the disks, each under its key; the first one also under no name."""
        exports = [NbdExport(disk.key, disk.device) for disk in self.disks]
        if self.disks and all(disk.key for disk in self.disks):
            exports.insert(0, NbdExport("", self.disks[0].device))
        return NbdServer(exports)


def prepare(storages: Storages, prefix: str) -> None:
    """Open the storage of a point, so that serving it takes less later."""
    # What is wrong is told when the point is to be served.
    with contextlib.suppress(RuchuError):
        points.find(storages, prefix)


@contextlib.contextmanager
def serving(storages: Storages, request: Request) -> Iterator[Serving]:
    """Open what is to be served; the control socket answers as long as anything is open."""
    found = points.find(storages, request.point)
    entries = exporting.chosen(found.head, request.disks)
    caches = exporting.cache_paths(entries, request.writable)
    control = _Control()
    with contextlib.ExitStack() as stack:
        # Before anything that has threads, and before files and sockets that must end with us.
        decoders = stack.enter_context(exporting.decoders_of(found.chain, found.head, entries))
        if request.control is not None:
            stack.enter_context(ControlServer(request.control, control.handlers))
        opened = exporting.opened(
            found.chain,
            found.head,
            entries,
            caches,
            cache_bytes=request.cache_bytes,
            decoders=decoders,
        )
        disks = stack.enter_context(opened)
        control.open(disks)
        yield Serving(found.head.point, disks, control)


class _Control:
    """The handlers of the control socket; before the disks are open, only `stop` is."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.serving = False
        self.handlers: dict[str, Handler] = {"stop": self._end}

    def open(self, disks: list[OpenedDisk]) -> None:
        handlers = exporting.Handlers(disks)
        self.handlers |= {
            "status": lambda request: handlers.status(request) | {"serving": self.serving},
            "flush": handlers.flush,
            "round": handlers.round,
        }

    def _end(self, request: dict[str, Any]) -> dict[str, Any]:
        del request
        self.stop.set()
        return {}


def serve_nbd_socket(
    storages: Storages,
    request: Request,
    socket: Path,
    owner: str,
    ready: Ready,
    cancelled: Callable[[], bool],
) -> None:
    """Serve disks over NBD on a unix socket, until it is cancelled or told to end.

    Args:
        storages: where the point is.
        request: what is served.
        socket: in a directory of this user only.
        owner: user who may connect, too, such as QEMU's; empty for none.
        ready: told when it answers.
        cancelled: asked now and then.
    """
    with serving(storages, request) as open_disks, open_disks.nbd() as server:
        server.listen_unix(socket)
        give_to(socket, owner)
        name = f"nbd+unix:///?socket={urllib.parse.quote(str(socket))}"
        open_disks.announce(_answer(open_disks, name), ready)
        open_disks.wait(cancelled)


def serve_nbd_tcp(
    storages: Storages,
    request: Request,
    listen: tuple[str, int],
    access: tuple[TlsFiles | None, tuple[str, ...]],
    ready: Ready,
    cancelled: Callable[[], bool],
) -> None:
    """Serve disks over NBD on TCP: with TLS and client certificates, or for listed networks."""
    tls, networks = access
    with serving(storages, request) as open_disks, open_disks.nbd() as server:
        host, port = listen
        context = tls.context() if tls is not None else None
        port = server.listen_tcp(host, port, tls=context, clients=networks)
        name = f"nbd{'s' if tls else ''}://{bracketed(host)}:{port}/"
        open_disks.announce(_answer(open_disks, name), ready)
        open_disks.wait(cancelled)


def _answer(open_disks: Serving, url: str) -> dict[str, Any]:
    return {
        "url": url,
        "seconds": round(since_start(), 3),
        "point": open_disks.point,
        "disks": [disk.key for disk in open_disks.disks],
        "writable": any(disk.overlay is not None for disk in open_disks.disks),
    }


def address_of(text: str) -> tuple[str, int]:
    """Return host and port of a text such as `127.0.0.1:10809` or `[::1]:0`.

    Raises:
        UsageError: it is none.
    """
    host, sign, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not sign or not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"(address {text!r})", hint="Such as 127.0.0.1:10809.")
    return host, int(port)


def give_to(socket: Path, owner: str) -> None:
    """Let another user connect to a socket in a directory of its own.

    Raises:
        NotFound: there is no such user.
        UsageError: only root can do that.
    """
    if not owner:
        return
    try:
        user = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise NotFound(f"(user {owner!r})") from None
    try:
        for path in (socket, socket.parent):
            os.chown(path, user, -1)
    except OSError as error:
        raise UsageError(f"(--socket-owner {owner}: {error.strerror})") from None


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
