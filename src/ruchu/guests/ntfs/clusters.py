"""Which clusters count, and whether that can be believed.

Sources: the Linux-NTFS documentation, `$Bitmap`, `$Boot`, `$Volume`. What Windows itself leaves
behind was not at hand: verified with mkntfs, ntfs-3g and partclone.
"""

import numpy as np

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import ranges
from ruchu.guests.contract import Allocation, Ranges, everything
from ruchu.guests.ntfs import attributes, file_names, log_file, runs, streams
from ruchu.guests.ntfs.volume import (
    BITMAP,
    BOOT,
    FIRST_USER_RECORD,
    I30,
    LOG_FILE,
    MFT,
    MIRROR,
    ROOT,
    Volume,
)

# Bytes of the bitmap looked at together: 8 Mi clusters, some 40 MiB of memory.
_STEP = 1 << 20
# Written there, and being read back at the moment of the point.
_HIBERNATED = {b"hibr", b"HIBR", b"rstr", b"RSTR"}


def allocation(device: BlockReader, *, frozen: bool) -> Allocation:
    """Return which bytes of an NTFS volume count; see `contract.Opener`."""
    try:
        volume = Volume(device)
        doubt = trouble(volume, frozen=frozen)
        if doubt:
            return everything(device.size, doubt, suspended=_hibernated(volume))
        return Allocation(_used(volume, device.size))
    except (GuestDamaged, GuestUnsupported, NotFound) as error:
        return everything(device.size, str(error))


def trouble(volume: Volume, *, frozen: bool) -> str:
    """Return why the volume may not be in order; empty if it is.

    Args:
        volume: the volume.
        frozen: its guest had flushed it: then a log that is in use says nothing.

    Raises:
        GuestDamaged, GuestUnsupported: what tells it cannot be read.
    """
    if volume.table.from_mirror:
        return "the first record of the MFT is damaged; its copy was used"
    told = volume.state().trouble
    if told or _hibernated(volume):
        return (
            told or "Windows is hibernated (or shut down by fast startup): hiberfil.sys is in use"
        )
    if frozen:
        return ""
    return log_file.trouble(volume.streams, volume.metadata_layout(LOG_FILE))


def _hibernated(volume: Volume) -> bool:
    for block, starts in volume.names(ROOT):
        for entry in file_names.shown(block, starts, below=FIRST_USER_RECORD):
            if entry.name.lower() == b"hiberfil.sys":
                try:
                    where = volume.layout(volume.node(entry.node), attributes.DATA)
                except NotFound:
                    raise GuestDamaged("(hiberfil.sys has no content)") from None
                head = volume.streams.read(where, 0, min(4, where.size))
                return head in _HIBERNATED
    return False


def metadata(volume: Volume) -> Ranges:
    """Return where the files lie without which the volume cannot be read.

    Raises:
        GuestDamaged, GuestUnsupported: one is not there.
    """
    parts = [streams.places(volume.metadata_layout(n)) for n in (MIRROR, LOG_FILE, BITMAP, BOOT)]
    parts.append(streams.places(volume.metadata_layout(MFT)))
    root = volume.node(ROOT)
    if root.parts(attributes.INDEX_ALLOCATION, I30):
        parts.append(streams.places(volume.layout(root, attributes.INDEX_ALLOCATION, I30)))
    return ranges.union(*parts)


def _used(volume: Volume, size: int) -> Ranges:
    """Return what `$Bitmap` marks, with the end of the volume.

    Raises:
        GuestDamaged: it is too short, has holes, or calls metadata free.
    """
    geometry = volume.geometry
    bitmap = volume.metadata_layout(BITMAP)
    length = -(-geometry.clusters // 8)
    whole = bitmap.value is not None or not (bitmap.rows[:, 2] == runs.HOLE).any()
    if bitmap.initialised < length or not whole or bitmap.unit:
        raise GuestDamaged(f"($Bitmap has {bitmap.initialised} bytes of {length}, or holes)")
    found = [_tail(geometry.clusters * geometry.cluster, min(geometry.size, size))]
    for start in range(0, length, _STEP):
        packed = volume.streams.read(bitmap, start, min(_STEP, length - start))
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        first = start * 8
        bits = bits[: geometry.clusters - first]
        found.append(ranges.of_bits(bits, geometry.cluster, first * geometry.cluster))
    used = ranges.union(*found)
    if len(ranges.difference(metadata(volume), used, size)):
        raise GuestDamaged("($Bitmap calls clusters of the MFT or of itself free)")
    return used


def _tail(first: int, end: int) -> Ranges:
    """Return what no cluster covers: the rest, and the backup of the boot sector in it."""
    return ranges.of_pairs([(first, end)])
