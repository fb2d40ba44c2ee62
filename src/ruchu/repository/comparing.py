"""Where two points of one chain differ: from the maps alone, no data is read.

Equal blocks have equal chunk ids within a chain; the map holds the first 8 bytes of each. Only
segments whose own ids differ are read.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ruchu.model.extents import Extent
from ruchu.repository import maps
from ruchu.repository.chains import Chain
from ruchu.repository.disk_maps import DiskMap
from ruchu.repository.heads import DiskEntry, Head

_Flags = npt.NDArray[np.bool_]


def size_of(head: Head, name: str) -> int | None:
    """Return the size of a disk by its name; None if the point does not have it."""
    entry = _entry(head, name)
    return entry.size if entry is not None else None


def differences(chain: Chain, one: Head, other: Head, name: str) -> list[Extent]:
    """Return the extents in which a disk differs, in whole blocks, sorted.

    What only one of the points has, a disk or the end of one, differs.
    """
    entries = (_entry(one, name), _entry(other, name))
    sizes = [entry.size for entry in entries if entry is not None]
    if len(sizes) < 2:
        return [Extent(0, sizes[0])] if sizes and sizes[0] else []
    found = [
        chain.disk_map(head, entry)
        for head, entry in zip((one, other), entries, strict=True)
        if entry is not None
    ]
    runs = _runs(found[0], found[1], chain.block_size)
    return list(_joined(runs, chain.block_size, max(sizes)))


def _entry(head: Head, name: str) -> DiskEntry | None:
    return next((disk for disk in head.disks if disk.name == name), None)


def _runs(one: DiskMap, other: DiskMap, block: int) -> Iterator[tuple[int, int]]:
    """Yield first and last (exclusive) block of each run that differs."""
    shared = min(one.size, other.size) // block if one.size != other.size else None
    for segment in range(max(one.segment_count, other.segment_count)):
        first = segment * maps.SEGMENT_BLOCKS
        flags = _flags(one, other, segment)
        if shared is not None and first + maps.SEGMENT_BLOCKS > shared:
            whole = np.zeros(maps.segment_length(max(one.size, other.size), block, segment), bool)
            # A segment of zeros has no slots, so the flags may be those of the smaller disk.
            if flags is not None:
                whole[: len(flags)] = flags
            flags = whole
            flags[max(0, shared - first) :] = True
        if flags is None:
            continue
        edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
        for start, end in edges.reshape(-1, 2).tolist():
            yield first + start, first + end


def _flags(one: DiskMap, other: DiskMap, segment: int) -> _Flags | None:
    """Return which blocks of a segment differ; None if none does."""
    if _segment_id(one, segment) == _segment_id(other, segment):
        return None
    slots = one.segment(segment), other.segment(segment)
    length = max(len(each) for each in slots if each is not None)
    prefixes = [_prefixes(each, length) for each in slots]
    stored = [_stored(each, length) for each in slots]
    flags: _Flags = (prefixes[0] != prefixes[1]) | (stored[0] != stored[1])
    return flags


def _segment_id(disk: DiskMap, segment: int) -> bytes:
    branch = disk.branch(segment)
    return b"" if branch is None else bytes(branch["id"].tobytes())


def _prefixes(slots: maps.Slots | None, length: int) -> npt.NDArray[np.uint64]:
    found = np.zeros(length, "<u8")
    if slots is not None:
        found[: len(slots)] = slots["prefix"]
    return found


def _stored(slots: maps.Slots | None, length: int) -> _Flags:
    found = np.zeros(length, np.bool_)
    if slots is not None:
        found[: len(slots)] = slots["stored"] > 0
    return found


def _joined(runs: Iterator[tuple[int, int]], block: int, size: int) -> Iterator[Extent]:
    begin = end = -1
    for first, last in runs:
        if first == end:
            end = last
            continue
        if end > begin:
            yield _extent(begin, end, block, size)
        begin, end = first, last
    if end > begin:
        yield _extent(begin, end, block, size)


def _extent(first: int, last: int, block: int, size: int) -> Extent:
    return Extent(first * block, min(last * block, size) - first * block)
