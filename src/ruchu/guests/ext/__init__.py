"""ext2, ext3, ext4: which blocks count, browsing, reading files. Satisfies `Opener`."""

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestError
from ruchu.guests.ext import superblock
from ruchu.guests.ext.allocation import allocation
from ruchu.guests.ext.file_system import ExtFileSystem
from ruchu.guests.volume_reading import VolumeReader

__all__ = ["ExtFileSystem", "allocation", "open_file_system", "recognise"]


def recognise(device: BlockReader) -> str:
    """Return `ext2`, `ext3` or `ext4`, as libblkid tells them apart, else an empty text."""
    try:
        return superblock.recognise(VolumeReader(device))
    except GuestError:
        return ""


def open_file_system(device: BlockReader) -> ExtFileSystem:
    """Open it for browsing.

    Raises:
        GuestDamaged: its superblock or its groups contradict themselves.
        GuestUnsupported: it uses features that are not understood.
    """
    return ExtFileSystem(device)
