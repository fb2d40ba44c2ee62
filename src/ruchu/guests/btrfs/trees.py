"""Trees of Btrfs: nodes that are verified as they are read, search, and iteration.

Each node carries its checksum, its own address, the UUID of the file system and its generation,
and its parent says its first key. All of it is checked; keys must grow from item to item and from
node to node, so nothing is visited twice and no loop is possible. Of metadata that is kept twice,
the copy that is right is taken. Source: btrfs.readthedocs.io, "On-disk Format" and "Trees".
"""

import bisect
import operator
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from ruchu.errors import GuestDamaged
from ruchu.guests.btrfs import checksums
from ruchu.guests.btrfs.chunks import ChunkMap
from ruchu.guests.btrfs.superblock import LEVEL_MAX, Root, Superblock
from ruchu.guests.volume_reading import VolumeReader

Key = tuple[int, int, int]
"""Object, type, offset."""
Item = tuple[int, int, int, bytes]
"""Object, type, offset, content."""

HEADER = 101
HEADER_STRUCT = struct.Struct("<32s16sQQ16sQQIB")
LAST_KEY: Key = ((1 << 64) - 1, 255, (1 << 64) - 1)
_LEAF_ITEM = struct.Struct("<QBQII")
_POINTER = struct.Struct("<QBQQQ")
# Parsed nodes that are kept: this much of them, raw; parsed they take about four times the room.
_KEPT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """A node whose checksum, address and order of keys are right.

    Attributes:
        level: 0 for a leaf.
        generation: when it was written.
        items: of a leaf: object, type, offset, first byte and length of the content, counted from
            the end of the header; of others: object, type, offset, address, generation.
        raw: all of its bytes.
    """

    level: int
    generation: int
    items: list[tuple[int, int, int, int, int]]
    raw: bytes

    def item(self, index: int) -> Item:
        """Return an item of a leaf."""
        first, kind, offset, at, length = self.items[index]
        return first, kind, offset, self.raw[HEADER + at : HEADER + at + length]


class NodeReader:
    """Reads nodes by their logical address. Safe in several threads."""

    def __init__(self, volume: VolumeReader, superblock: Superblock, chunks: ChunkMap) -> None:
        self.volume = volume
        self.superblock = superblock
        self.chunks = chunks
        self._kept: OrderedDict[int, Node] = OrderedDict()
        self._kept_max = max(64, _KEPT_BYTES // superblock.node)
        self._lock = threading.Lock()

    def node(self, address: int) -> Node:
        """Return the node at a logical address.

        Raises:
            GuestDamaged: no copy of it is whole.
        """
        with self._lock:
            found = self._kept.get(address)
            if found is not None:
                self._kept.move_to_end(address)
                return found
        found = parse(self.raw(address))
        with self._lock:
            self._kept[address] = found
            if len(self._kept) > self._kept_max:
                self._kept.popitem(last=False)
        return found

    def raw(self, address: int) -> bytes:
        """Return the bytes of the node: of the first copy that is whole.

        Raises:
            GuestDamaged: none is.
        """
        size = self.superblock.node
        if address % self.superblock.sector:
            raise GuestDamaged(f"a Btrfs node at {address}")
        for place in self.chunks.places(address, size):
            raw = self.volume.read(place, size)
            _, uuid, own, *_ = HEADER_STRUCT.unpack_from(raw)
            if own != address or uuid != self.superblock.node_uuid:
                continue
            if checksums.right_one(raw, self.superblock.checksum):
                return raw
        raise GuestDamaged(f"the Btrfs node at {address} is not what it should be")


def parse(raw: bytes) -> Node:
    """Return what a node holds.

    Raises:
        GuestDamaged: its items leave it or are not in order.
    """
    *_, generation, _, count, level = HEADER_STRUCT.unpack_from(raw)
    record = _POINTER if level else _LEAF_ITEM
    room = len(raw) - HEADER
    if level > LEVEL_MAX or count * record.size > room or (level and not count):
        raise GuestDamaged(f"a Btrfs node of level {level} with {count} items")
    listed = raw[HEADER : HEADER + count * record.size]
    items: list[tuple[int, int, int, int, int]] = list(record.iter_unpack(listed))
    keys = [item[:3] for item in items]
    if not all(map(operator.lt, keys, keys[1:])):
        raise GuestDamaged("the keys of a Btrfs node are not in order")
    if not level and any(at + length > room for *_, at, length in items):
        raise GuestDamaged("an item of a Btrfs leaf leaves it")
    return Node(level, generation, items, raw)


class Tree:
    """One tree. Safe in several threads."""

    def __init__(self, reader: NodeReader, root: Root) -> None:
        self._reader = reader
        self._root = root
        # The leaf that was searched last, and the keys that it spans: what is asked for next is
        # mostly near. Set in one step, so that threads need no lock.
        self._recent: tuple[Key, Key, Node] | None = None

    def get(self, key: Key) -> bytes | None:
        """Return the content of the item with this key.

        Raises:
            GuestDamaged: of this and every method: a node on the way is damaged.
        """
        leaf = self._leaf(key)[2]
        index = bisect.bisect_left(leaf.items, key)
        if index < len(leaf.items) and leaf.items[index][:3] == key:
            return leaf.item(index)[3]
        return None

    def items(self, first: Key, last: Key, *, floor: bool = False) -> Iterator[Item]:
        """Yield the items with keys from first to last, both included, in order.

        Args:
            first: where to begin.
            last: where to end.
            floor: begin with the last item before `first` if none has exactly this key.
        """
        _, end, near = self._leaf(first)
        # Most ranges lie in one leaf.
        for leaf in (near,) if last < end else self.leaves(first):
            listed = leaf.items
            index = bisect.bisect_left(listed, first)
            if floor and index and (index == len(listed) or listed[index][:3] != first):
                index -= 1
            # The leaves behind the first begin after `first`, so their floor is their first item.
            floor = False
            raw = leaf.raw
            for place in range(index, len(listed)):
                one, kind, offset, at, length = listed[place]
                if (one, kind, offset) > last:
                    return
                yield one, kind, offset, raw[HEADER + at : HEADER + at + length]

    def leaves(self, first: Key = (0, 0, 0)) -> Iterator[Node]:
        """Yield leaves in order, beginning with the one where `first` would be."""
        return (node for _, node in self.nodes(first) if not node.level)

    def nodes(self, first: Key = (0, 0, 0)) -> Iterator[tuple[int, Node]]:
        """Yield address and content of the nodes from the leaf of `first` on, parents first."""
        top, top_end = self._top()
        yield self._root.address, top
        # What remains below each node on the way down: the node, the next slot, where it ends.
        path = [(top, _slot(top, first), top_end)] if top.level else []
        while path:
            node, slot, end = path.pop()
            if slot >= len(node.items):
                continue
            path.append((node, slot + 1, end))
            below, below_end = self._child(node, slot, end)
            yield node.items[slot][3], below
            if below.level:
                path.append((below, _slot(below, first), below_end))

    def _leaf(self, key: Key) -> tuple[Key, Key, Node]:
        """Return the leaf where a key is or would be; the keys it spans: first, and behind all."""
        recent = self._recent
        if recent is not None and recent[0] <= key < recent[1]:
            return recent
        node, end = self._top()
        first = (0, 0, 0)
        while node.level:
            slot = _slot(node, key)
            first = max(first, node.items[slot][:3])
            node, end = self._child(node, slot, end)
        # Not read back: another thread may have set it meanwhile.
        found = first, end, node
        self._recent = found
        return found

    def _top(self) -> tuple[Node, Key]:
        node = self._reader.node(self._root.address)
        if node.level != self._root.level or node.generation != self._root.generation:
            raise GuestDamaged("the root node of a Btrfs tree is another one")
        return node, LAST_KEY

    def _child(self, node: Node, slot: int, end: Key) -> tuple[Node, Key]:
        """Return the node that a pointer leads to, and the key that it ends before."""
        *key, address, generation = node.items[slot]
        if slot + 1 < len(node.items):
            end = node.items[slot + 1][:3]
        child = self._reader.node(address)
        if child.level != node.level - 1 or child.generation != generation:
            raise GuestDamaged(f"the Btrfs node at {address} is another one")
        if not child.items or list(child.items[0][:3]) != key or child.items[-1][:3] >= end:
            raise GuestDamaged(f"the Btrfs node at {address} holds keys of another")
        return child, end


def _slot(node: Node, key: Key) -> int:
    """Return which pointer leads to where a key would be; the first for what is before all."""
    first, kind, offset = key
    after = (first, kind, offset + 1)
    return max(bisect.bisect_left(node.items, after) - 1, 0)
