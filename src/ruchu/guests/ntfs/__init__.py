"""NTFS, read-only: which clusters count, and every file of it."""

from ruchu.blocks.devices import BlockReader
from ruchu.guests.ntfs import boot_sector
from ruchu.guests.ntfs.clusters import allocation
from ruchu.guests.ntfs.file_system import Ntfs

__all__ = ["Ntfs", "allocation", "open_file_system", "recognise"]


def recognise(device: BlockReader) -> str:
    """Return `ntfs` if the device begins with its boot sector, else an empty text."""
    if device.size < boot_sector.BOOT_BYTES:
        return ""
    head = bytearray(boot_sector.BOOT_BYTES)
    device.read_into(0, memoryview(head))
    return "ntfs" if boot_sector.looks_like_ntfs(bytes(head)) else ""


def open_file_system(device: BlockReader) -> Ntfs:
    """Open an NTFS volume for browsing.

    Raises:
        GuestDamaged, GuestUnsupported: see `Ntfs`.
    """
    return Ntfs(device)
