"""Disks of a point, opened to be served: verified, cached, with a write cache if asked for."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu.blocks import decoding
from ruchu.blocks.caching import CachedReader
from ruchu.blocks.decoding import DecodedAhead, Decoders
from ruchu.blocks.devices import BlockDevice, PeekingReader
from ruchu.blocks.overlay import Overlay, Round
from ruchu.errors import NotFound, UsageError
from ruchu.recovery.running import leased
from ruchu.repository.chains import Chain
from ruchu.repository.heads import DiskEntry, Head

CACHE_BYTES_DEFAULT = 256 << 20


@dataclass(frozen=True, slots=True)
class OpenedDisk:
    """A disk of a point: its key, and the device; it is written into `overlay` if there is one."""

    key: str
    reader: CachedReader
    overlay: Overlay | None

    @property
    def device(self) -> PeekingReader | BlockDevice:
        """What is served."""
        return self.reader if self.overlay is None else self.overlay


def chosen(head: Head, wanted: Sequence[str]) -> tuple[DiskEntry, ...]:
    """Return disks of a point by number or name; all of them if none is named.

    Raises:
        NotFound: there is no such disk.
    """
    if not wanted:
        return head.disks
    found: dict[str, DiskEntry] = {}
    for name in wanted:
        entry = head.disk(name)
        if entry is None:
            names = ", ".join(f"{each.number} ({each.name})" for each in head.disks)
            raise NotFound(f"(disk {name!r} of point {head.point[:8]}; there are: {names})")
        found[entry.name] = entry
    return tuple(found.values())


def cache_paths(entries: Sequence[DiskEntry], path: Path | None) -> Mapping[str, Path]:
    """Return where the write caches are: the file itself for one disk, else files in a directory.

    Raises:
        UsageError: there are several disks, and the path is no directory.
    """
    if path is None:
        return {}
    if path.is_dir():
        return {entry.name: path / f"{entry.name}.cache" for entry in entries}
    if len(entries) > 1:
        hint = "Make a directory for them, or choose one disk: --disk."
        raise UsageError(f"(--writable {path}: a write cache for each of several disks)", hint=hint)
    return {entry.name: path for entry in entries}


@contextlib.contextmanager
def opened(
    chain: Chain,
    head: Head,
    entries: Sequence[DiskEntry],
    caches: Mapping[str, Path],
    *,
    cache_bytes: int = CACHE_BYTES_DEFAULT,
    decoders: Decoders | None = None,
) -> Iterator[list[OpenedDisk]]:
    """Open disks of a point, with a lease on it for as long.

    Args:
        chain: the chain of the point.
        head: the point.
        entries: its disks.
        caches: disk name → write cache; a new one is made where there is none. Disks that are not
            in it are read-only.
        cache_bytes: memory for decoded blocks, over all disks.
        decoders: of `decoding` for the same disks; None decodes by threads.

    Raises:
        NotFound: the point was deleted.
        CacheMismatch, CacheDamaged, ExportError, StorageError: a write cache cannot be used.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(leased(chain, head, "export"))
        share = cache_bytes // max(1, len(entries))
        disks = []
        for number, entry in enumerate(entries):
            ahead = DecodedAhead(decoders, number) if decoders and decoders.count else None
            reader = stack.enter_context(_reader(chain, head, entry, share, ahead))
            path = caches.get(entry.name)
            overlay = None
            if path is not None:
                overlay = stack.enter_context(_overlay(chain, head, entry, reader, path))
            disks.append(OpenedDisk(entry.name, reader, overlay))
        yield disks


@contextlib.contextmanager
def opened_cache(chain: Chain, head: Head, entry: DiskEntry, path: Path) -> Iterator[Overlay]:
    """Open the write cache of a disk over its point, to read what is in it.

    Raises:
        NotFound: there is none.
        CacheMismatch, CacheDamaged, ExportError: it cannot be used.
    """
    identity = _identity(chain, head, entry)
    with (
        _reader(chain, head, entry, CACHE_BYTES_DEFAULT) as reader,
        Overlay.open(path, reader, identity=identity) as overlay,
    ):
        yield overlay


def _identity(chain: Chain, head: Head, entry: DiskEntry) -> str:
    return f"{chain.id}/{head.point}/{entry.name}"


def decoders_of(chain: Chain, head: Head, entries: Sequence[DiskEntry]) -> Decoders:
    """Return processes that decode disks of a point ahead of their readers, to be closed.

    There are none where they bring nothing or could not work: with one core, in a process that has
    threads already, or on a storage whose connections a forked process may not share.
    """
    count = decoding.wanted() if chain.reader.forkable else 0
    return Decoders(count, lambda number: chain.disk(head, entries[number]))


def _reader(
    chain: Chain,
    head: Head,
    entry: DiskEntry,
    cache_bytes: int,
    ahead: DecodedAhead | None = None,
) -> CachedReader:
    return CachedReader(
        chain.disk(head, entry),
        cache_bytes=cache_bytes,
        block=chain.block_size,
        ahead=ahead,
    )


def _overlay(
    chain: Chain, head: Head, entry: DiskEntry, reader: CachedReader, path: Path
) -> Overlay:
    identity = _identity(chain, head, entry)
    if path.exists():
        return Overlay.open(path, reader, identity=identity)
    return Overlay.create(path, reader, identity=identity)


class Handlers:
    """What the control socket of an export answers."""

    def __init__(self, disks: Sequence[OpenedDisk]) -> None:
        self._overlays = {disk.key: disk.overlay for disk in disks if disk.overlay is not None}
        self._number = 0
        self._rounds: dict[str, Round] = {}
        # Somebody began anew and has not acknowledged since: all that is in the caches counts.
        self._anew = False

    def status(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return how much is in the write caches."""
        del request
        return {"cache_bytes": sum(each.written_bytes for each in self._overlays.values())}

    def flush(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make everything that was written durable."""
        del request
        for overlay in self._overlays.values():
            overlay.flush()
        return {}

    def round(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what was written since the round that is acknowledged; see `Overlay`.

        `acknowledge`: number of the latest round, whose content is where it should be.
        `anew`: all that is in the caches counts, whatever was acknowledged.
        """
        if (acknowledged := request.get("acknowledge")) is not None:
            if acknowledged != self._number:
                raise UsageError(f"(round {acknowledged} is not the latest, {self._number})")
            for key, each in self._rounds.items():
                self._overlays[key].acknowledge(each)
            self._anew = False
        self._anew = self._anew or bool(request.get("anew"))
        self._number += 1
        self._rounds = {key: each.begin_round() for key, each in self._overlays.items()}
        disks = {}
        for key, overlay in self._overlays.items():
            extents = overlay.written() if self._anew else self._rounds[key].extents
            disks[key] = [[extent.start, extent.length] for extent in extents]
        return {"round": self._number, "disks": disks}
