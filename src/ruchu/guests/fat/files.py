"""What FAT and exFAT have in common once a directory entry was understood."""

import abc
import bisect
import datetime
import functools
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests import ranges
from ruchu.guests.contract import NodeKind, Ranges, Stat
from ruchu.guests.fat.clusters import Chains, Heap, Run
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Content, Extent

READ_ONLY, VOLUME_LABEL, DIRECTORY = 0x01, 0x08, 0x10
SLOT = 32
"""Bytes of a directory entry; a node's number is the position of its entry in these."""
ROOT = 0
"""Node of the root directory: the boot sector lies where its entry would be."""
# A directory is read whole; exFAT allows 256 MiB, FAT 2 MiB (2^16 entries).
DIRECTORY_BYTES_MAX = 256 << 20
# Where files lie is kept for as many as may be read in turn.
_PLACES_KEPT = 256
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Record:
    """A directory entry.

    Attributes:
        stat: what is known of it.
        first: first cluster; 0 if it has none.
        contiguous: its clusters follow one another; the table is not to be asked (exFAT).
        valid: bytes of content that were written; the rest reads as zeros (exFAT).
    """

    stat: Stat
    first: int
    contiguous: bool = False
    valid: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where content lies: position of each run on the volume and in the file, in bytes."""

    size: int
    valid: int
    runs: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]


class ClusterFiles(abc.ABC):
    """Reading of files in clusters. Safe in several threads."""

    root = ROOT

    def __init__(self, device: BlockReader, heap: Heap) -> None:
        self._volume = VolumeReader(device)
        self._heap = heap
        self._places: OrderedDict[int, _Place] = OrderedDict()
        self._lock = threading.Lock()

    @property
    @abc.abstractmethod
    def _chains(self) -> Chains:
        """The table of clusters."""

    @abc.abstractmethod
    def _record(self, node: int) -> Record:
        """Return the directory entry of a node."""

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""
        return self._record(node).stat

    def extents(self, node: int, stream: str = "") -> Iterator[Extent]:
        """Yield DATA for what was written, HOLE for what was only set aside behind it."""
        place = self._place(node, stream)
        if place.valid:
            yield Extent(0, place.valid)
        if place.size > place.valid:
            yield Extent(place.valid, place.size - place.valid, Content.HOLE)

    def read_into(self, node: int, start: int, buffer: memoryview, stream: str = "") -> None:
        """Fill the buffer with content from `start`."""
        place = self._place(node, stream)
        if start < 0 or start + len(buffer) > place.size:
            raise GuestDamaged(f"{len(buffer)} bytes at {start} of a file of {place.size}")
        valid = max(0, min(len(buffer), place.valid - start))
        index = bisect.bisect_right(place.starts, start) - 1
        done = 0
        while done < valid:
            position, length = place.runs[index]
            skip = start + done - place.starts[index]
            part = buffer[done : min(valid, done + length - skip)]
            self._volume.read_into(position + skip, part)
            done += len(part)
            index += 1
        buffer[valid:] = bytes(len(buffer) - valid)

    def placed(self, node: int, stream: str = "") -> Ranges | None:
        """Return the clusters of a file."""
        place = self._place(node, stream)
        return ranges.of_pairs([(at, at + length) for at, length in place.runs])

    def link_target(self, node: int) -> bytes:
        """Raise NotFound: there are no symbolic links."""
        raise NotFound(f"(node {node} is no symbolic link)")

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return nothing: there are no extended attributes."""
        self._record(node)
        return {}

    def streams(self, node: int) -> Mapping[str, int]:
        """Return nothing: there are no streams."""
        self._record(node)
        return {}

    def _runs(self, first: int, clusters: int, *, contiguous: bool) -> list[Run]:
        """Return the runs of `clusters` clusters at most."""
        if not clusters:
            return []
        return [(first, clusters)] if contiguous else self._chains.runs(first, clusters)

    def _pieces(self, first: int, clusters: int, *, contiguous: bool) -> list[tuple[int, int]]:
        """Return position and bytes of the runs of `clusters` clusters at most."""
        runs = self._runs(first, clusters, contiguous=contiguous)
        return [
            (self._heap.position(number, count), count * self._heap.cluster)
            for number, count in runs
        ]

    def _place(self, node: int, stream: str) -> _Place:
        if stream:
            raise NotFound(f"(node {node} has no streams)")
        with self._lock:
            if (found := self._places.get(node)) is not None:
                self._places.move_to_end(node)
                return found
        record = self._record(node)
        if record.stat.kind is not NodeKind.FILE:
            raise NotFound(f"(node {node} is no file)")
        found = self._placed(record)
        with self._lock:
            self._places[node] = found
            if len(self._places) > _PLACES_KEPT:
                self._places.popitem(last=False)
        return found

    def _placed(self, record: Record) -> _Place:
        size = record.stat.size
        clusters = -(-size // self._heap.cluster)
        if clusters > self._heap.count:
            raise GuestDamaged(f"a file of {size} bytes in {self._heap.count} clusters")
        pieces = self._pieces(record.first, clusters, contiguous=record.contiguous)
        starts = [0, *itertools.accumulate(length for _, length in pieces)]
        if starts[-1] < size:
            raise GuestDamaged(f"a file of {size} bytes with clusters for {starts[-1]}")
        return _Place(size, record.valid, tuple(pieces), tuple(starts[:-1]))


@functools.lru_cache(maxsize=8192)
def moment(date: int, time: int, hundredths: int = 0) -> int | None:
    """Return nanoseconds since 1970 of a DOS date and time; None if there is no such date.

    DOS keeps local time without saying where; it is taken as UTC.
    """
    try:
        when = datetime.datetime(
            1980 + (date >> 9),
            date >> 5 & 15,
            date & 31,
            time >> 11,
            time >> 5 & 63,
            (time & 31) * 2,
            tzinfo=datetime.UTC,
        )
    except ValueError:
        return None
    seconds = (when - _EPOCH) // datetime.timedelta(seconds=1)
    return seconds * 10**9 + hundredths * 10**7


def checked_name(name: bytes) -> bytes:
    """Return a name that an operating system would take.

    Raises:
        GuestDamaged: it is empty, a way (`..`), or has a slash or NUL.
    """
    if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise GuestDamaged(f"a file name {name!r}")
    return name
