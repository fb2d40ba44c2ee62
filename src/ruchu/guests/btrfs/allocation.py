"""Which bytes of a Btrfs count: what the extent tree lists, all copies of it, and what is fixed.

Fixed are the first MiB of the device, which Btrfs leaves to boot loaders, and the superblocks.
Everything else that a commit needs, data and metadata of every tree, is in the extent tree of that
commit; that it adds up to what the superblock says is checked. After an fsync, a log tree holds
what the next mount replays. Neither its nodes nor what they name is in the extent tree, so the log
is walked too. Source: btrfs.readthedocs.io, "On-disk Format", EXTENT_ITEM, METADATA_ITEM.
"""

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.btrfs import checksums, superblock, trees
from ruchu.guests.btrfs.subvolumes import EXTENT_TREE, ROOT_ITEM, Forest, parse_root_item
from ruchu.guests.btrfs.superblock import Superblock
from ruchu.guests.btrfs.trees import Tree
from ruchu.guests.contract import Allocation, Ranges, everything
from ruchu.guests.volume_reading import VolumeReader

Rows = npt.NDArray[np.int64]
"""Shape (n, 2): logical first byte and the byte after the last."""

_EXTENT_ITEM, _METADATA_ITEM, _EXTENT_DATA = 168, 169, 108
_LEAF = np.dtype(
    [("object", "<u8"), ("type", "u1"), ("offset", "<u8"), ("at", "<u4"), ("length", "<u4")]
)
_POINTER = np.dtype(
    [("object", "<u8"), ("type", "u1"), ("offset", "<u8"), ("address", "<u8"), ("written", "<u8")]
)
_HEADER = np.dtype(
    [
        ("checksum", "V32"),
        ("uuid", "V16"),
        ("address", "<u8"),
        ("flags", "<u8"),
        ("chunks", "V16"),
        ("written", "<u8"),
        ("owner", "<u8"),
        ("count", "<u4"),
        ("level", "u1"),
    ]
)
# Nodes that are read and verified at once.
_BATCH_BYTES = 4 << 20
# Nodes of log trees that are followed: a log of a GiB is none that any kernel writes.
_LOG_NODES_MAX = 1 << 16
# Sums of two stay inside 63 bits.
_ADDRESS_MAX = 1 << 61
_FILE_EXTENT = struct.Struct("<QQBBHBQQQQ")


def allocation(device: BlockReader, *, frozen: bool) -> Allocation:
    """Return which bytes count; everything, with the reason, where that is in doubt.

    Args:
        device: the volume.
        frozen: makes no difference: a commit is always whole, and a log is walked if there is one.
    """
    del frozen
    try:
        volume = VolumeReader(device)
        found = superblock.load(volume)
        _refuse_doubts(found)
        forest = Forest(volume, found)
        return Allocation(_used(forest, found))
    except (GuestDamaged, GuestUnsupported) as error:
        return everything(device.size, error.detail)


def _refuse_doubts(found: Superblock) -> None:
    if found.copy:
        raise GuestDamaged("the first Btrfs superblock is damaged")
    if found.flags & superblock.FLAG_ERROR:
        raise GuestDamaged("the Btrfs is marked as having errors")
    if found.compat_ro & ~superblock.COMPAT_RO_KNOWN:
        raise GuestUnsupported(f"Btrfs features that allow reading only ({found.compat_ro:#x})")


def _used(forest: Forest, found: Superblock) -> Ranges:
    extents = _extent_rows(forest, found)
    if (extents[1:, 0] < extents[:-1, 1]).any():
        raise GuestDamaged("extents of Btrfs overlap")
    listed = ranges.total(extents)
    if listed != found.bytes_used:
        raise GuestDamaged(f"Btrfs says {found.bytes_used} bytes are used, and lists {listed}")
    if found.log_root.address:
        extents = np.concatenate((extents, _log_rows(forest, found)))
    fixed = [(place, place + superblock.SIZE) for place in superblock.PLACES]
    inside = [(first, end) for first, end in fixed if end <= found.device_size]
    return ranges.union(
        ranges.of_pairs([(0, superblock.RESERVED), *inside]),
        forest.reader.chunks.physical(extents),
    )


def _extent_rows(forest: Forest, found: Superblock) -> Rows:
    """Return what the extent tree lists, in its order; reads the tree level by level."""
    root = forest.about(EXTENT_TREE).root
    addresses = np.array([root.address], np.uint64)
    written = np.array([root.generation], np.uint64)
    firsts: npt.NDArray[np.uint64] | None = None
    for level in range(root.level, 0, -1):
        pointers = [
            np.frombuffer(raw, _POINTER, count, trees.HEADER)
            for raw, count in _nodes(forest, (addresses, written, firsts), level)
        ]
        merged = np.concatenate(pointers)
        addresses, written, firsts = merged["address"], merged["written"], merged["object"]
        # Each node has one parent, so there are not more than fit on the device.
        if len(np.unique(addresses)) != len(addresses):
            raise GuestDamaged("two parents share a node of the Btrfs extent tree")
    leaves = [
        _rows_of_leaf(np.frombuffer(raw, _LEAF, count, trees.HEADER), found.node)
        for raw, count in _nodes(forest, (addresses, written, firsts), 0)
    ]
    return np.concatenate(leaves)


def _rows_of_leaf(items: npt.NDArray[np.void], node: int) -> Rows:
    metadata = items["type"] == _METADATA_ITEM
    chosen = metadata | (items["type"] == _EXTENT_ITEM)
    firsts = items["object"][chosen]
    # The offset of a METADATA_ITEM is the level of its node.
    lengths = np.where(metadata[chosen], np.uint64(node), items["offset"][chosen])
    if len(firsts) and max(firsts.max(), lengths.max()) > _ADDRESS_MAX:
        raise GuestDamaged("an extent of Btrfs lies beyond every address")
    starts = firsts.astype(np.int64)
    return np.column_stack((starts, starts + lengths.astype(np.int64)))


def _nodes(
    forest: Forest,
    wanted: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64] | None],
    level: int,
) -> Iterator[tuple[memoryview, int]]:
    """Yield bytes and number of items of the nodes of a level, verified, in order."""
    addresses, written, firsts = wanted
    size = forest.superblock.node
    step = max(1, _BATCH_BYTES // size)
    record = _POINTER if level else _LEAF
    for begin in range(0, len(addresses), step):
        part = slice(begin, begin + step)
        raw = _read(forest, addresses[part])
        heads = raw[:, : _HEADER.itemsize].copy().view(_HEADER).reshape(-1)
        counts = heads["count"]
        wrong = (
            (heads["level"] != level)
            | (heads["written"] != written[part])
            | (counts * np.int64(record.itemsize) > size - trees.HEADER)
            | ((counts == 0) & (firsts is not None or level > 0))
        )
        if firsts is not None:
            own = raw[:, trees.HEADER : trees.HEADER + 8].copy().view("<u8").reshape(-1)
            wrong |= own != firsts[part]
        if wrong.any():
            raise GuestDamaged("a node of the Btrfs extent tree is another one")
        for row, count in zip(raw, counts.tolist(), strict=True):
            yield row.data, count


def _read(forest: Forest, addresses: npt.NDArray[np.uint64]) -> checksums.Blocks:
    """Return the nodes at these addresses, a row each, verified."""
    size, chunks = forest.superblock.node, forest.reader.chunks
    raw = np.empty((len(addresses), size), np.uint8)
    places = [chunks.places(int(address), size)[0] for address in addresses]
    begin = 0
    for end in range(1, len(places) + 1):
        # Nodes that lie one behind the other are read at once.
        if end == len(places) or places[end] != places[end - 1] + size:
            forest.reader.volume.read_into(places[begin], raw[begin:end].reshape(-1).data)
            begin = end
    heads = raw[:, : _HEADER.itemsize].copy().view(_HEADER).reshape(-1)
    good = checksums.right(raw, forest.superblock.checksum) & (heads["address"] == addresses)
    good &= heads["uuid"] == np.void(forest.superblock.node_uuid)
    for index in np.flatnonzero(~good):
        # Another copy may be whole.
        raw[index] = np.frombuffer(forest.reader.raw(int(addresses[index])), np.uint8)
    return raw


def _log_rows(forest: Forest, found: Superblock) -> Rows:
    """Return the nodes of the log trees and the extents that they name."""
    rows: list[tuple[int, int]] = []
    top = Tree(forest.reader, found.log_root)
    for address, node in top.nodes():
        rows.append((address, address + found.node))
        for index in range(0 if node.level else len(node.items)):
            _, kind, _, item = node.item(index)
            if kind == ROOT_ITEM:
                log = Tree(forest.reader, parse_root_item(item).root)
                _log_tree(log, found.node, rows)
    return np.array(rows, np.int64).reshape(-1, 2)


def _log_tree(log: Tree, size: int, rows: list[tuple[int, int]]) -> None:
    for address, node in log.nodes():
        if len(rows) > _LOG_NODES_MAX * 64 or address > _ADDRESS_MAX:
            raise GuestDamaged("a log of Btrfs is absurdly long")
        rows.append((address, address + size))
        for index in range(0 if node.level else len(node.items)):
            _, kind, _, item = node.item(index)
            # Inline content is in the node; nothing else has a place of its own.
            if kind == _EXTENT_DATA and len(item) >= _FILE_EXTENT.size and item[20]:
                place, length = _FILE_EXTENT.unpack_from(item)[6:8]
                if place > _ADDRESS_MAX or length > _ADDRESS_MAX:
                    raise GuestDamaged("an extent of Btrfs lies beyond every address")
                if place:
                    rows.append((place, place + length))
