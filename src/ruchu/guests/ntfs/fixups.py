"""Update sequence numbers: how NTFS notices that a record was written in part only.

The last two bytes of every 512 bytes are kept aside and replaced by a number that is the same in
all of them. Source: the Linux-NTFS documentation, `Fixup`.
"""

import struct

from ruchu.errors import GuestDamaged

STRIDE = 512
"""Whatever the size of a sector is: NTFS counts in 512 bytes here."""

_WHERE = struct.Struct("<4xHH")


def undone(block: bytes, what: str) -> bytearray:
    """Return a block as it was before it was written: the bytes kept aside are put back.

    Raises:
        GuestDamaged: the numbers do not agree (a torn write), or the table is not in its place.
    """
    table, count = _WHERE.unpack_from(block)
    strides = len(block) // STRIDE
    if count != strides + 1 or table + 2 * count > STRIDE * strides - 2 or table < 8:
        raise GuestDamaged(f"({what}: its update sequence table cannot be)")
    whole = bytearray(block)
    number = block[table : table + 2]
    for index in range(1, count):
        end = index * STRIDE
        if block[end - 2 : end] != number:
            raise GuestDamaged(f"({what} was written in part only)")
        whole[end - 2 : end] = block[table + 2 * index : table + 2 * index + 2]
    return whole
