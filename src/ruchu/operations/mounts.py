"""Mounts and iSCSI exports of points: both show the disks through FUSE."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruchu.clock import since_start
from ruchu.errors import NotFound
from ruchu.exports import iscsi
from ruchu.exports.fuse import mounting
from ruchu.exports.fuse.tree import RawDisk, Tree
from ruchu.guests.browsing import Browser
from ruchu.operations.exports import Ready, Request, Serving, bracketed, serving
from ruchu.operations.storages import Storages

# The organisation of a target's name is whoever owned a domain then; this one is reserved for
# examples, so it is nobody else's (RFC 2606).
_TARGET = "iqn.2026-01.invalid.ruchu"


@dataclass(frozen=True, slots=True)
class Target:
    """An iSCSI portal: address, and who may connect."""

    host: str
    port: int
    user: str
    password: str
    initiators: tuple[str, ...]


def mount(
    storages: Storages,
    request: Request,
    directory: Path,
    ready: Ready,
    cancelled: Callable[[], bool],
    *,
    allow_other: bool,
) -> None:
    """Mount a point until somebody unmounts it, or it is cancelled.

    Args:
        storages: where the point is.
        request: what is shown; never writable.
        directory: an empty directory.
        ready: told when it is mounted: disks, volumes, and why others cannot be shown.
        cancelled: asked now and then.
        allow_other: other users may look.
    """
    with serving(storages, replace(request, writable=None)) as open_disks:
        browser = Browser({disk.key: disk.reader for disk in open_disks.disks})
        systems, problems = {}, {}
        for found in browser.trees():
            if isinstance(found, tuple):
                problems[found[0]] = str(found[1])
            else:
                systems[found.name] = found.system
        tree = Tree(_disks(open_disks), systems)
        answer = {
            "directory": str(directory),
            "seconds": round(since_start(), 3),
            "point": open_disks.point,
            "disks": sorted(name.decode() for name in tree.disks),
            "volumes": sorted(systems),
            "problems": problems,
        }
        mounting.serve(
            directory,
            tree,
            ready=lambda: open_disks.announce(answer, ready),
            cancelled=lambda: cancelled() or open_disks.stop.is_set(),
            allow_other=allow_other,
        )


def serve_iscsi(
    storages: Storages,
    request: Request,
    target: Target,
    ready: Ready,
    cancelled: Callable[[], bool],
) -> None:
    """Serve disks over iSCSI, by tgt, until it is cancelled or told to end."""
    with serving(storages, request) as open_disks, _mounted(open_disks) as directory:
        units = [
            iscsi.Unit(directory / f"{disk.key}.raw", disk.overlay is not None)
            for disk in open_disks.disks
        ]
        access = iscsi.Access(target.user, target.password, target.initiators)
        name = f"{_TARGET}:{open_disks.point}"
        listen = (target.host, target.port)
        with iscsi.exported(units, access, target=name, listen=listen) as urls:
            open_disks.announce(_answer(open_disks, target, name, urls), ready)
            open_disks.wait(cancelled)


@contextlib.contextmanager
def _mounted(open_disks: Serving) -> Iterator[Path]:
    """Mount the disks alone in a directory of their own, for tgtd."""
    with tempfile.TemporaryDirectory(prefix="ruchu-iscsi-") as name:
        directory = Path(name)
        with mounting.mounted(directory, Tree(_disks(open_disks), {})):
            yield directory


def _disks(open_disks: Serving) -> list[RawDisk]:
    return [RawDisk(disk.key, disk.device, disk.overlay) for disk in open_disks.disks]


def _answer(open_disks: Serving, target: Target, name: str, urls: list[str]) -> dict[str, Any]:
    return {
        "url": urls[0],
        "urls": urls,
        "portal": f"{bracketed(target.host)}:{target.port}",
        "target": name,
        "seconds": round(since_start(), 3),
        "point": open_disks.point,
        "disks": [disk.key for disk in open_disks.disks],
        "writable": any(disk.overlay is not None for disk in open_disks.disks),
    }


def secret_of(path: Path) -> str:
    """Return the first line of a file.

    Raises:
        NotFound: it cannot be read.
    """
    try:
        with path.open() as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"({path}: {error})") from None
