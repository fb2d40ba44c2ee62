"""Btrfs on one device: which bytes count, browsing, reading."""

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestError
from ruchu.guests.btrfs import superblock
from ruchu.guests.btrfs.allocation import allocation
from ruchu.guests.btrfs.file_system import BtrfsFileSystem
from ruchu.guests.volume_reading import VolumeReader

__all__ = ["BtrfsFileSystem", "allocation", "open_file_system", "recognise"]


def recognise(device: BlockReader) -> str:
    """Return `btrfs` if there is one, of whatever shape, else an empty text."""
    try:
        return "btrfs" if superblock.present(VolumeReader(device)) else ""
    except GuestError:
        return ""


def open_file_system(device: BlockReader) -> BtrfsFileSystem:
    """Open it for browsing; raises as `BtrfsFileSystem`."""
    return BtrfsFileSystem(device)
