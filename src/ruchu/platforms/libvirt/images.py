"""Disk images on the host: served by qemu-nbd, made and asked by qemu-img.

qemu-nbd is started without `--persistent`: it ends when its last client leaves, so the one
connection that is always open ties its life to ours, also through ssh and after a `kill -9`.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruchu import commands
from ruchu.blocks import nbd
from ruchu.clock import Clock
from ruchu.errors import CommandFailed, NbdError, PlatformError
from ruchu.platforms.libvirt import naming
from ruchu.platforms.libvirt.hosts import Host

# qemu-nbd opens a long backing chain in well under a second; slow storage gets this.
START_LIMIT_S = 30.0
# It flushes what the host has cached when it ends.
STOP_LIMIT_S = 120.0
POLL_S = 0.02
# Connections to one image: those of a disk, of its map queries, and room for some more.
SHARED = 16
FORMATS = frozenset({"qcow2", "raw"})


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A persistent bitmap of an image, and whether it may be believed."""

    name: str
    consistent: bool


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What qemu-img says of an image: size, format, backing file and format, bitmaps."""

    size: int
    format: str
    backing: str
    backing_format: str
    bitmaps: dict[str, Bitmap]


@dataclass(frozen=True, slots=True)
class Opening:
    """How an image is opened.

    Attributes:
        path: of the image.
        format: its format; never guessed.
        bitmaps: persistent bitmaps to offer as `qemu:dirty-bitmap:<name>`.
        writable: open it for writing.
    """

    path: str
    format: str
    bitmaps: tuple[str, ...] = ()
    writable: bool = False


def information(host: Host, path: str, image_format: str) -> ImageInfo:
    """Return what an image is.

    Raises:
        CommandFailed: it cannot be opened, or is in use by a writer.
        PlatformError: the answer cannot be understood.
    """
    said = host.run(["qemu-img", "info", "--output=json", "-f", image_format, path]).stdout
    try:
        found: dict[str, Any] = json.loads(said)
        data = (found.get("format-specific") or {}).get("data", {})
        bitmaps = {
            entry["name"]: Bitmap(entry["name"], "in-use" not in entry["flags"])
            for entry in data.get("bitmaps", [])
        }
        backing = found.get("full-backing-filename") or found.get("backing-filename", "")
        below = found.get("backing-filename-format") or "raw"
        return ImageInfo(int(found["virtual-size"]), found["format"], backing, below, bitmaps)
    except (KeyError, TypeError, ValueError) as error:
        raise PlatformError(f"qemu-img info {path}: {error!r}") from error


def create(host: Host, path: str, image_format: str, size: int) -> None:
    """Create an empty image at a path where nothing is.

    Raises:
        CommandFailed: it could not be created.
        PlatformError: there is something already.
    """
    if image_format not in FORMATS:
        raise PlatformError(f"images are written as {', '.join(sorted(FORMATS))} only")
    if host.exists(path):
        raise PlatformError(f"{path} exists already")
    host.run(["qemu-img", "create", "-q", "-f", image_format, path, str(size)])
    # It will hold all of a machine's data; libvirt gives it to QEMU when the machine starts.
    host.run(["chmod", "600", path])


@contextlib.contextmanager
def served(host: Host, clock: Clock, image: Opening, mark: str) -> Iterator[nbd.NbdDisk]:
    """Serve an image with qemu-nbd and yield it as a disk. Everything ends with the context.

    Args:
        host: where the image is.
        clock: for time limits.
        image: what is served how.
        mark: directory and mark of the socket and the pid file.

    Raises:
        CommandFailed: qemu-nbd did not start, or failed at its end (what was written may be lost).
    """
    socket = f"{mark}.sock"
    check_socket(socket)
    args = ["qemu-nbd", f"--socket={socket}", f"--format={image.format}", f"--shared={SHARED}"]
    args += [f"--pid-file={mark}.pid", *(f"--bitmap={name}" for name in image.bitmaps)]
    args += ["--cache=writeback", "--discard=unmap"] if image.writable else ["--read-only"]
    try:
        with host.start([*args, "--", image.path]) as process:
            with _reached(host, clock, process, socket) as disk:
                yield disk
            # Without clients it ends by itself; its status says whether all reached the disk.
            if status := process.wait(STOP_LIMIT_S):
                said = process.said()
                raise CommandFailed(f"qemu-nbd {image.path}: exit status {status}: {said}")
    finally:
        host.remove(socket)
        host.remove(f"{mark}.pid")


@contextlib.contextmanager
def _reached(
    host: Host, clock: Clock, process: commands.Process, socket: str
) -> Iterator[nbd.NbdDisk]:
    deadline = clock.monotonic() + START_LIMIT_S
    while not host.exists(socket):
        if process.status() is not None or clock.monotonic() > deadline:
            raise CommandFailed(f"{' '.join(process.args)}: {process.said()}")
        clock.sleep(POLL_S)
    with host.socket(socket) as local:
        while (disk := _connected(local, process)) is None:
            if clock.monotonic() > deadline:
                raise NbdError(f"{socket} does not answer")
            clock.sleep(POLL_S)
        with disk:
            yield disk


def _connected(path: str, process: commands.Process) -> nbd.NbdDisk | None:
    """Return the disk, None if the server is not yet ready for it."""
    try:
        return nbd.NbdDisk(nbd.Address(path=path))
    except NbdError as error:
        # qemu-nbd listens before it opens the image: what it said tells more than a closed socket.
        if process.status() is not None:
            raise CommandFailed(f"{' '.join(process.args)}: {process.said()}") from error
        return None


def check_socket(path: str) -> None:
    """Refuse a socket path that the kernel would cut off.

    Raises:
        PlatformError: it is too long.
    """
    if len(path.encode()) > naming.SOCKET_PATH_MAX:
        raise PlatformError(f"the socket path {path} is too long", hint="Use a shorter directory.")
