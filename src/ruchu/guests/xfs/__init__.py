"""XFS: what counts on a volume, and reading it. The module is an `Opener`."""

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestError
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import superblock
from ruchu.guests.xfs.allocation import allocation
from ruchu.guests.xfs.file_system import XfsFileSystem

__all__ = ["XfsFileSystem", "allocation", "open_file_system", "recognise"]


def recognise(device: BlockReader) -> str:
    """Return `xfs` if the volume begins with a superblock of XFS, else an empty text."""
    try:
        return "xfs" if superblock.recognised(VolumeReader(device)) else ""
    except GuestError:
        return ""


def open_file_system(device: BlockReader) -> XfsFileSystem:
    """Open it for browsing; raises as `XfsFileSystem`."""
    return XfsFileSystem(device)
