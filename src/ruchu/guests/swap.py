"""Swap space of Linux: only its header counts, if it is what it says.

The signature is ten bytes at the end of the first page, and what is put into a volume later may
leave them where they are. So the header before it is held against the volume. Source:
`union swap_header` in `include/linux/swap.h` of the Linux kernel.
"""

import struct

from ruchu.blocks.devices import BlockReader
from ruchu.guests import probing, ranges
from ruchu.guests.contract import Allocation, everything
from ruchu.guests.volume_reading import VolumeReader

_HEADER_AT = 1024
_HEADER = "III"
"""Version, last page, number of bad pages, in the order of bytes of the guest."""
_PAGES_LEAST = 10
_MBR = (510, b"\x55\xaa")


def allocation(device: BlockReader) -> Allocation:
    """Return which bytes of swap space count: its header, and what lies behind it."""
    if probing.hibernated(device):
        doubt = "it holds the memory of a hibernated system"
        return everything(device.size, doubt, suspended=True)
    page = probing.swap_page(device)
    end = _end(VolumeReader(device), page)
    if not end:
        return everything(device.size, "its header of swap space is not understood")
    return Allocation(ranges.of_pairs([(0, page), (end, device.size)]))


def _end(volume: VolumeReader, page: int) -> int:
    """Return where the space ends; 0 if its header cannot be."""
    at, mark = _MBR
    if not page or volume.read(at, len(mark)) == mark:
        return 0
    raw = volume.read(_HEADER_AT, struct.calcsize(_HEADER))
    for order in "<>":
        version, last, bad = struct.unpack(order + _HEADER, raw)
        if version == 1 and last + 1 >= _PAGES_LEAST and bad <= last:
            end = (last + 1) * page
            return end if end <= volume.size else 0
    return 0
