"""LZNT1, the compression of NTFS.

Source: MS-XCA, section 2.5. A unit is a row of chunks; each chunk holds up to 4096 bytes, as
they are or as flags, literals and references back into the same chunk.
"""

from ruchu.errors import GuestDamaged

CHUNK = 4096
"""Bytes that a chunk becomes."""


def decompressed(packed: bytes, size: int) -> bytes:
    """Return the `size` bytes that a unit holds; what it does not mention is zeros.

    Raises:
        GuestDamaged: it refers to what is not there, or holds more than `size`.
    """
    out = bytearray()
    at, end = 0, len(packed)
    while at + 2 <= end and len(out) < size:
        head = int.from_bytes(packed[at : at + 2], "little")
        if not head:
            break
        after = at + 3 + (head & 0xFFF)
        if after > end:
            raise GuestDamaged("(a compressed chunk is cut off)")
        if head & 0x8000:
            out += _chunk(packed[at + 2 : after])
        else:
            out += packed[at + 2 : after]
        at = after
        # Only the last chunk may be short: whatever follows begins on a chunk of its own.
        if len(out) % CHUNK and at + 2 <= end and packed[at : at + 2] != b"\0\0":
            out += bytes(-len(out) % CHUNK)
    if len(out) > size:
        raise GuestDamaged("(a compressed unit holds more than it may)")
    return bytes(out) + bytes(size - len(out))


def _chunk(packed: bytes) -> bytearray:
    out = bytearray()
    at, end = 0, len(packed)
    while at < end:
        flags = packed[at]
        at += 1
        if not flags:
            # Eight literals: the common case in what compresses badly.
            out += packed[at : at + 8]
            at += 8
            continue
        for bit in range(8):
            if at >= end:
                break
            if flags >> bit & 1:
                if at + 2 > end:
                    raise GuestDamaged("(a compressed chunk is cut off)")
                _refer(out, packed[at] | packed[at + 1] << 8)
                at += 2
            else:
                out.append(packed[at])
                at += 1
        if len(out) > CHUNK:
            break
    if len(out) > CHUNK:
        raise GuestDamaged("(a compressed chunk holds more than it may)")
    return out


def _refer(out: bytearray, token: int) -> None:
    """Append what a token refers to: the further in the chunk, the more bits tell the distance."""
    here = len(out)
    length_bits = 16 - max((here - 1).bit_length(), 4) if here else 12
    distance = (token >> length_bits) + 1
    length = (token & ((1 << length_bits) - 1)) + 3
    start = here - distance
    if start < 0 or here + length > CHUNK:
        raise GuestDamaged("(a compressed chunk refers to what is not there)")
    if distance >= length:
        out += out[start : start + length]
    elif distance == 1:
        out += out[-1:] * length
    else:
        pattern = out[start:]
        out += (pattern * (length // distance + 1))[:length]
