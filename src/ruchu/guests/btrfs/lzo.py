"""LZO1X as Btrfs frames it.

The stream: Documentation/staging/lzo.rst of the Linux kernel (bitstream version 0). The frame:
btrfs.readthedocs.io, "Compression": four bytes of total length, then segments of four bytes of
length and an LZO1X stream that unpacks to at most one sector; a length never crosses the end of a
sector. All numbers are little endian.
"""

import struct

from ruchu.errors import GuestDamaged

_LENGTH = struct.Struct("<I")
# After a run of literals of its own, as the specification numbers the state.
_AFTER_RUN = 4


def unpack_frame(data: bytes, size: int, sector: int) -> bytes:
    """Return at most `size` bytes of what a frame holds.

    Raises:
        GuestDamaged: the frame or a stream in it is malformed.
    """
    if len(data) < _LENGTH.size:
        raise GuestDamaged("an LZO frame is cut short")
    total = min(_LENGTH.unpack_from(data)[0], len(data))
    at, out = _LENGTH.size, bytearray()
    while at + _LENGTH.size <= total and len(out) < size:
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if not 0 < length <= total - at:
            raise GuestDamaged(f"an LZO segment of {length} bytes")
        out += unpack(data[at : at + length], sector)
        at += length
        if sector - at % sector < _LENGTH.size:
            at += sector - at % sector
    return bytes(out[:size])


def unpack(data: bytes, size_max: int) -> bytes:
    """Return what one LZO1X stream holds.

    Raises:
        GuestDamaged: it is malformed, or holds more than `size_max` bytes.
    """
    try:
        return _unpack(data, size_max)
    except IndexError:
        raise GuestDamaged("an LZO stream is cut short") from None


def _unpack(data: bytes, size_max: int) -> bytes:
    out, at, state = bytearray(), 0, 0
    if data[0] > 17:
        state = min(data[0] - 17, _AFTER_RUN)
        at, run = 1, data[0] - 17
        at = _literals(data, at, run, out)
    while True:
        code = data[at]
        at += 1
        if code < 16 and not state:
            run, at = (code + 3, at) if code else _long(data, at, 18)
            at, state = _literals(data, at, run, out), _AFTER_RUN
        else:
            length, distance, state, at = _match(data, code, at, state)
            if not distance:
                return bytes(out)
            _repeat(out, length, distance)
            at = _literals(data, at, state, out)
        if len(out) > size_max:
            raise GuestDamaged("an LZO stream holds more than it may")


def _match(data: bytes, code: int, at: int, state: int) -> tuple[int, int, int, int]:
    """Return length, distance (0: the end), literals that follow, and where to go on."""
    if code >= 64:
        length = 5 + (code >> 5 & 3) if code >= 128 else 3 + (code >> 5 & 1)
        return length, (data[at] << 3) + (code >> 2 & 7) + 1, code & 3, at + 1
    if code < 16:
        near = (data[at] << 2) + (code >> 2)
        if state == _AFTER_RUN:
            return 3, near + 2049, code & 3, at + 1
        return 2, near + 1, code & 3, at + 1
    mask = 31 if code >= 32 else 7
    length, at = (2 + (code & mask), at) if code & mask else _long(data, at, 2 + mask)
    low = data[at] | data[at + 1] << 8
    if code >= 32:
        return length, (low >> 2) + 1, low & 3, at + 2
    distance = ((code & 8) << 11) + (low >> 2)
    return length, distance and distance + 16384, low & 3, at + 2


def _long(data: bytes, at: int, start: int) -> tuple[int, int]:
    """Return a length that did not fit its instruction, and where to go on."""
    while not data[at]:
        start += 255
        at += 1
    return start + data[at], at + 1


def _literals(data: bytes, at: int, count: int, out: bytearray) -> int:
    if at + count > len(data):
        raise GuestDamaged("an LZO stream is cut short")
    out += data[at : at + count]
    return at + count


def _repeat(out: bytearray, length: int, distance: int) -> None:
    """Append `length` bytes that stand `distance` back; they may overlap what is appended."""
    begin = len(out) - distance
    if begin < 0:
        raise GuestDamaged("an LZO stream refers to before its beginning")
    if distance >= length:
        out += out[begin : begin + length]
    else:
        out += (out[begin:] * (length // distance + 1))[:length]
