"""The trees of a Btrfs: how they are found, and which of them are subvolumes.

Source: btrfs.readthedocs.io, "On-disk Format", ROOT_ITEM, ROOT_REF, ROOT_BACKREF.
"""

import struct
import threading
from dataclasses import dataclass

from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests.btrfs import chunks
from ruchu.guests.btrfs.chunks import ChunkMap
from ruchu.guests.btrfs.superblock import LEVEL_MAX, Root, Superblock
from ruchu.guests.btrfs.trees import NodeReader, Tree
from ruchu.guests.volume_reading import VolumeReader

ROOT_TREE_DIRECTORY = 6
EXTENT_TREE, TOP_SUBVOLUME = 2, 5
FIRST_FREE, LAST_FREE = 256, (1 << 64) - 256
ROOT_ITEM, ROOT_REF, DIR_ITEM, DIR_INDEX = 132, 156, 84, 96
U64_MAX = (1 << 64) - 1
_TREE_OF_CHUNKS = 256
# What every version of the item has.
_ROOT_ITEM_MIN = 239
_ROOT_FIELDS = struct.Struct("<QQQQQQQI")
_REF = struct.Struct("<QQH")
_DEFAULT_NAME_HASH = 2378154706  # CRC-32C of `default`, as directories hash names
# Trees that are kept open.
_OPEN_MAX = 4096


@dataclass(frozen=True, slots=True)
class TreeFacts:
    """What a ROOT_ITEM says: where the tree is; the generation of its last snapshot."""

    root: Root
    directory: int
    last_snapshot: int


def parse_root_item(item: bytes) -> TreeFacts:
    """Return what a ROOT_ITEM says.

    Raises:
        GuestDamaged: it is cut short or the tree is too high.
    """
    if len(item) < _ROOT_ITEM_MIN:
        raise GuestDamaged("the root of a Btrfs tree is cut short")
    generation, directory, address, _, _, last_snapshot, _, _ = _ROOT_FIELDS.unpack_from(item, 160)
    level = item[238]
    if level > LEVEL_MAX:
        raise GuestDamaged("a Btrfs tree is too high")
    return TreeFacts(Root(address, level, generation), directory, last_snapshot)


class Forest:
    """All trees of a file system. Safe in several threads."""

    def __init__(self, volume: VolumeReader, superblock: Superblock) -> None:
        """Read the chunks.

        Raises:
            GuestDamaged, GuestUnsupported: they cannot be read, or lie on several devices.
        """
        self.superblock = superblock
        system = list(chunks.of_system(superblock))
        boot = NodeReader(volume, superblock, ChunkMap(system))
        first = (_TREE_OF_CHUNKS, chunks.CHUNK_ITEM, 0)
        last = (_TREE_OF_CHUNKS, chunks.CHUNK_ITEM, U64_MAX)
        listed = [
            chunks.parse(start, item, superblock)
            for _, _, start, item in Tree(boot, superblock.chunk_root).items(first, last)
        ]
        self.reader = NodeReader(volume, superblock, ChunkMap(system + listed))
        self._roots = Tree(self.reader, superblock.root)
        self._open: dict[int, tuple[TreeFacts, Tree]] = {}
        self._lock = threading.Lock()

    def tree(self, number: int) -> Tree:
        """Return a tree.

        Raises:
            NotFound: there is none of this number.
            GuestDamaged: its root is damaged.
        """
        return self._opened(number)[1]

    def about(self, number: int) -> TreeFacts:
        """Return where a tree is; raises as `tree`."""
        return self._opened(number)[0]

    def is_named(self, parent: int, child: int, directory: int, name: bytes) -> bool:
        """Return whether a subvolume is really in this directory of another.

        A snapshot copies the names of subvolumes inside it, but not these: they show as empty
        directories.
        """
        item = self._roots.get((parent, ROOT_REF, child))
        if item is None or len(item) < _REF.size:
            return False
        place, _, length = _REF.unpack_from(item)
        return place == directory and item[_REF.size : _REF.size + length] == name

    def default_subvolume(self) -> int:
        """Return the number of the subvolume that is mounted where none is named."""
        item = self._roots.get((ROOT_TREE_DIRECTORY, DIR_ITEM, _DEFAULT_NAME_HASH))
        if item is None or len(item) < 8:
            return TOP_SUBVOLUME
        return int.from_bytes(item[:8], "little")

    def subvolumes(self) -> int:
        """Return how many subvolumes and snapshots there are below the top one."""
        return sum(
            1
            for number, kind, _, _ in self._roots.items(
                (FIRST_FREE, 0, 0), (LAST_FREE, 255, U64_MAX)
            )
            if kind == ROOT_ITEM and number >= FIRST_FREE
        )

    def _opened(self, number: int) -> tuple[TreeFacts, Tree]:
        with self._lock:
            found = self._open.get(number)
        if found is not None:
            return found
        item = None
        for _, _, _, content in self._roots.items(
            (number, ROOT_ITEM, 0), (number, ROOT_ITEM, U64_MAX)
        ):
            item = content
        if item is None:
            raise NotFound(f"(Btrfs tree {number})")
        facts = parse_root_item(item)
        opened = facts, Tree(self.reader, facts.root)
        with self._lock:
            if len(self._open) >= _OPEN_MAX:
                self._open.clear()
            self._open[number] = opened
        return opened
