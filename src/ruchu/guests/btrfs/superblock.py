"""The superblock of Btrfs and its copies.

Source: btrfs.readthedocs.io, Developer documentation, "On-disk Format" and "Superblock copies".
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.btrfs import checksums
from ruchu.guests.volume_reading import VolumeReader

SIZE = 4096
PLACES = (64 << 10, 64 << 20, 256 << 30)
MAGIC = b"_BHRfS_M"
# The kernel never allocates here: room for boot loaders and the first superblock.
RESERVED = 1 << 20

FLAG_ERROR = 1 << 2
FLAG_SEEDING = 1 << 32
FLAG_CHANGING_FSID_V2 = 1 << 36
# WRITTEN and RELOC of tree headers, kept for old kernels; MIXED_BACKREF is not a flag here.
FLAGS_KNOWN = 0b11 | FLAG_ERROR | FLAG_SEEDING | FLAG_CHANGING_FSID_V2

METADATA_UUID = 1 << 10
ZONED = 1 << 12
_INCOMPAT_NAMES = {
    ZONED: "zoned",
    1 << 13: "extent-tree-v2",
    1 << 14: "raid-stripe-tree",
    1 << 17: "remap-tree",
}
# Bits 0-11 and 16: backrefs, default subvolume, mixed groups, lzo, zstd, big metadata, extended
# references, RAID, skinny metadata, no holes, metadata UUID, simple quotas.
_INCOMPAT_KNOWN = 0xFFF | 1 << 16
# Free space tree and that it is valid, verity, block group tree.
COMPAT_RO_KNOWN = 0xF

NODE_MAX = 64 << 10
LEVEL_MAX = 7
_SYSTEM_ARRAY_MAX = 2048
_FIELDS = struct.Struct("<16sQQ8sQQQQQQQQQIIIIIQQQQHBBB")


@dataclass(frozen=True, slots=True)
class Root:
    """Where a tree begins: logical address, level and generation of its root node."""

    address: int
    level: int
    generation: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a superblock says.

    Attributes:
        uuid: of the file system; `node_uuid` is the one that its nodes carry.
        flags, incompat, compat_ro: as the format has them.
        generation: of the last commit.
        root, chunk_root: of the tree of trees and of the tree of chunks.
        log_root: of the tree of log trees; address 0 if there is none.
        bytes_used: logical bytes that the extent tree lists.
        devices, device: how many there are, and the number of this one.
        device_size: bytes of this device that the file system spans.
        sector, node: bytes of a block of data and of a node.
        checksum: kind, as in `checksums`.
        label: without the zeros behind it.
        system_chunks: keys and items of the chunks that hold the chunk tree.
        copy: which of the copies this was read from; 0 is the first.
    """

    uuid: bytes
    node_uuid: bytes
    flags: int
    incompat: int
    compat_ro: int
    generation: int
    root: Root
    chunk_root: Root
    log_root: Root
    bytes_used: int
    devices: int
    device: int
    device_size: int
    sector: int
    node: int
    checksum: int
    label: bytes
    system_chunks: bytes
    copy: int


def present(volume: VolumeReader) -> bool:
    """Return whether the first superblock is there, right or wrong."""
    start = PLACES[0]
    return volume.size >= start + SIZE and volume.read(start + 64, 8) == MAGIC


def load(volume: VolumeReader) -> Superblock:
    """Return the first superblock, or the first copy that is whole.

    Raises:
        GuestDamaged: none is whole, or it contradicts itself.
        GuestUnsupported: it needs a feature that is not understood.
    """
    first_error: GuestDamaged | None = None
    for copy, place in enumerate(PLACES):
        if place + SIZE > volume.size:
            break
        try:
            found = parse(volume.read(place, SIZE), place, copy)
        except GuestDamaged as error:
            first_error = first_error or error
            continue
        _check_features(found)
        _check_room(found, volume.size)
        return found
    raise first_error or GuestDamaged("there is no room for a Btrfs superblock")


def parse(raw: bytes, place: int, copy: int) -> Superblock:
    """Return what the 4096 bytes of a superblock say.

    Raises:
        GuestDamaged: checksum, magic, place or sizes are wrong.
        GuestUnsupported: its kind of checksum is not known.
    """
    if raw[64:72] != MAGIC:
        raise GuestDamaged("a Btrfs superblock has no magic number")
    (checksum,) = struct.unpack_from("<H", raw, 196)
    if not checksums.right_one(raw, checksum):
        raise GuestDamaged("the checksum of a Btrfs superblock is wrong")
    fields = _FIELDS.unpack_from(raw, 32)
    uuid, address, flags, _, generation, root, chunk_root, log_root = fields[:8]
    bytes_used, _, devices, sector, node, _, _, system_size = fields[10:18]
    chunk_generation, _, compat_ro, incompat, _, level, chunk_level, log_level = fields[18:]
    if address != place:
        raise GuestDamaged("a Btrfs superblock says that it lies elsewhere")
    if not _power_of_two(sector, 512, NODE_MAX) or not _power_of_two(node, sector, NODE_MAX):
        raise GuestDamaged(f"Btrfs sectors of {sector} bytes, nodes of {node}")
    if node < SIZE or system_size > _SYSTEM_ARRAY_MAX:
        raise GuestDamaged(f"Btrfs nodes of {node} bytes, {system_size} bytes of system chunks")
    if max(level, chunk_level, log_level) > LEVEL_MAX:
        raise GuestDamaged("a Btrfs tree is too high")
    device, device_size = struct.unpack_from("<QQ", raw, 201)
    return Superblock(
        uuid=uuid,
        node_uuid=raw[571:587] if incompat & METADATA_UUID else uuid,
        flags=flags,
        incompat=incompat,
        compat_ro=compat_ro,
        generation=generation,
        root=Root(root, level, generation),
        chunk_root=Root(chunk_root, chunk_level, chunk_generation),
        # The log belongs to the commit that has not come yet.
        log_root=Root(log_root, log_level, generation + 1),
        bytes_used=bytes_used,
        devices=devices,
        device=device,
        device_size=device_size,
        sector=sector,
        node=node,
        checksum=checksum,
        label=raw[299:555].split(b"\0", 1)[0],
        system_chunks=raw[811 : 811 + system_size],
        copy=copy,
    )


def _power_of_two(value: int, least: int, most: int) -> bool:
    return least <= value <= most and not value & (value - 1)


def _check_features(found: Superblock) -> None:
    unknown = found.incompat & ~_INCOMPAT_KNOWN
    if unknown:
        names = [
            _INCOMPAT_NAMES.get(1 << bit, f"bit {bit}") for bit in range(64) if unknown >> bit & 1
        ]
        raise GuestUnsupported(f"Btrfs features: {', '.join(names)}")
    if found.flags & ~FLAGS_KNOWN:
        raise GuestUnsupported(f"a Btrfs in the middle of a conversion (flags {found.flags:#x})")
    if found.devices != 1:
        raise GuestUnsupported(f"a Btrfs over {found.devices} devices")


def _check_room(found: Superblock, size: int) -> None:
    if not RESERVED < found.device_size <= size:
        raise GuestDamaged(f"a Btrfs of {found.device_size} bytes on a volume of {size}")
