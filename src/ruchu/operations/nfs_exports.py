"""NFS exports: disks of a point as files that hypervisors mount."""

import asyncio
import ipaddress
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ruchu.blocks.formats import presenting
from ruchu.clock import since_start
from ruchu.errors import StorageError, UsageError
from ruchu.exports.nfs.exporting import ExportedDisk, NfsExport
from ruchu.exports.nfs.server import NfsServer
from ruchu.operations.exports import Ready, Request, Serving, bracketed, give_to, serving
from ruchu.operations.storages import Storages

SECRET_BYTES = 32
_BESIDE = ".nfs"
# The others compute their tables from the disk, which must not change then.
_WRITABLE_FORMATS = ("raw", "vmdk")


@dataclass(frozen=True, slots=True)
class Place:
    """Where and to whom disks are served.

    Attributes:
        host, port: TCP address; port 0 takes any that is free.
        path: what clients mount; empty makes one that nobody guesses.
        clients: networks that may connect; empty: the address itself.
        portmapper: answer on port 111, too.
        image_format: what the disks are shown as: raw, or vmdk, vhd, vhdx, qcow2.
        nbd_socket: serve the same disks there over NBD, for a migration; None: do not.
        socket_owner: see `exports.serve_nbd_socket`.
    """

    host: str
    port: int
    path: str
    clients: tuple[str, ...]
    portmapper: bool
    image_format: str = "raw"
    nbd_socket: Path | None = None
    socket_owner: str = ""


def serve_nfs(
    storages: Storages,
    request: Request,
    place: Place,
    ready: Ready,
    cancelled: Callable[[], bool],
) -> None:
    """Serve disks over NFS until it is cancelled or told to end.

    What clients create beside the disks, and what keeps their file handles valid, lies beside the
    write cache.
    """
    with serving(storages, request) as open_disks:
        export = _export(open_disks, request, place)
        if place.nbd_socket is None:
            asyncio.run(_run(export, open_disks, place, ready, cancelled))
            return
        with open_disks.nbd() as server:
            server.listen_unix(place.nbd_socket)
            give_to(place.nbd_socket, place.socket_owner)
            asyncio.run(_run(export, open_disks, place, ready, cancelled))


async def _run(
    export: NfsExport,
    open_disks: Serving,
    place: Place,
    ready: Ready,
    cancelled: Callable[[], bool],
) -> None:
    async with NfsServer(export) as server:
        addresses = await server.start(place.host, place.port, portmapper=place.portmapper)
        host, port = addresses[0]
        open_disks.announce(
            {
                "url": f"nfs://{bracketed(host)}:{port}{export.path}",
                "seconds": round(since_start(), 3),
                "point": open_disks.point,
                "disks": [disk.key for disk in open_disks.disks],
                "files": [disk.name for disk in export.disks],
                "writable": any(disk.overlay is not None for disk in open_disks.disks),
            },
            ready,
        )
        await asyncio.get_running_loop().run_in_executor(None, open_disks.wait, cancelled)


def _export(open_disks: Serving, request: Request, place: Place) -> NfsExport:
    beside = _beside(request.writable)
    clients = place.clients or (place.host,)
    try:
        networks = tuple(ipaddress.ip_network(each, strict=False) for each in clients)
    except ValueError as error:
        raise UsageError(f"(--allow: {error})", hint="Such as 192.0.2.7 or 192.0.2.0/24.") from None
    disks, files = _shown(open_disks, place.image_format)
    return NfsExport(
        path=place.path or f"/ruchu-{secrets.token_hex(16)}",
        disks=disks,
        files=files,
        scratch=beside / "files" if beside is not None else None,
        secret=_secret(beside),
        clients=networks,
    )


def _shown(
    open_disks: Serving, image_format: str
) -> tuple[tuple[ExportedDisk, ...], dict[str, bytes]]:
    """Return the files of the disks: those that are large, and those that are texts.

    Raises:
        UsageError: disks that are written to cannot be shown in that format.
    """
    disks: list[ExportedDisk] = []
    files: dict[str, bytes] = {}
    for disk in open_disks.disks:
        if disk.overlay is not None and image_format not in _WRITABLE_FORMATS:
            hint = f"Without --writable, or as {' or '.join(_WRITABLE_FORMATS)}."
            raise UsageError(f"(--format {image_format} of a disk that is written to)", hint=hint)
        shown = presenting.present(disk.device, image_format, disk.key)
        for name, content in shown.files.items():
            if isinstance(content, bytes):
                files[name] = content
            else:
                disks.append(ExportedDisk(name, content))
    return tuple(disks), files


def _beside(writable: Path | None) -> Path | None:
    """Return the directory for what is kept beside a write cache."""
    if writable is None:
        return None
    return writable / _BESIDE if writable.is_dir() else writable.with_name(writable.name + _BESIDE)


def _secret(beside: Path | None) -> bytes:
    """Return what keeps file handles valid over a restart; a new one where there is none."""
    if beside is None:
        return secrets.token_bytes(SECRET_BYTES)
    path = beside / "handles.key"
    try:
        beside.mkdir(mode=0o700, exist_ok=True)
        (beside / "files").mkdir(mode=0o700, exist_ok=True)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123 - a mode
                file.write(secrets.token_bytes(SECRET_BYTES))
        except FileExistsError:
            pass
        found = path.read_bytes()
    except OSError as error:
        raise StorageError(f"({path}: {error.strerror})") from None
    if len(found) != SECRET_BYTES:
        raise UsageError(f"({path} is not what Ruchu wrote)", hint="Remove it: clients mount anew.")
    return found
