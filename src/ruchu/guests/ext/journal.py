"""The journal (jbd2): whether there is anything in it that is not in place.

Source: Documentation/filesystems/ext4/journal.rst of the Linux kernel. All its numbers are
big-endian.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests.ext import mapping
from ruchu.guests.ext.inodes import InodeTable
from ruchu.guests.ext.superblock import Superblock
from ruchu.guests.volume_reading import VolumeReader

MAGIC = 0xC03B3998
_HEAD = struct.Struct(">3I5I2I")
_TYPES = {3, 4}


@dataclass(frozen=True, slots=True)
class State:
    """What the superblock of a journal says.

    Attributes:
        start: block of the journal where the log begins; 0 if it is empty.
        error: number of the error that the file system was stopped for; 0 if there is none.
    """

    start: int
    error: int


def state(volume: VolumeReader, superblock: Superblock, table: InodeTable) -> State:
    """Return the state of the journal within the file system.

    Raises:
        GuestDamaged: it cannot be found, or is none.
    """
    try:
        inode = table.read(superblock.journal)
    except NotFound:
        raise GuestDamaged("the journal of ext4 is not there") from None
    runs = mapping.runs(volume, superblock, inode)
    if not len(runs) or runs[0, mapping.LOGICAL]:
        raise GuestDamaged("the journal of ext4 is empty")
    place = int(runs[0, mapping.PHYSICAL]) * superblock.block
    head = _HEAD.unpack(volume.read(place, _HEAD.size))
    if head[0] != MAGIC or head[1] not in _TYPES:
        raise GuestDamaged("the journal of ext4 has no superblock")
    return State(start=head[7], error=head[8])
