"""FAT12, FAT16, FAT32 (with long names) and exFAT: which clusters count, browsing, reading."""

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged
from ruchu.guests.contract import Allocation, FileSystem
from ruchu.guests.fat import exfat_boot, exfat_volume, fat_boot, fat_volume
from ruchu.guests.volume_reading import VolumeReader


def recognise(device: BlockReader) -> str:
    """Return `fat12`, `fat16`, `fat32`, `exfat`, or an empty text."""
    volume = VolumeReader(device)
    if exfat_boot.is_exfat(volume):
        return "exfat"
    try:
        return fat_boot.read_geometry(volume).kind
    except GuestDamaged:
        return ""


def open_file_system(device: BlockReader) -> FileSystem:
    """Open it for browsing.

    Raises:
        GuestDamaged: it contradicts itself.
        GuestUnsupported: it uses something that is not understood.
    """
    if exfat_boot.is_exfat(VolumeReader(device)):
        return exfat_volume.ExfatFileSystem(device)
    return fat_volume.FatFileSystem(device)


def allocation(device: BlockReader, *, frozen: bool) -> Allocation:
    """Return which bytes count. That the guest was frozen does not help: neither can be frozen."""
    del frozen
    if exfat_boot.is_exfat(VolumeReader(device)):
        return exfat_volume.allocation(device)
    return fat_volume.allocation(device)
