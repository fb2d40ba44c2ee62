"""XPRESS with Huffman codes, as the Windows Overlay Filter compresses system files.

Source: MS-XCA, sections 2.1 and 2.2. Verified against what wimlib compresses.
"""

from ruchu.errors import GuestDamaged

_LENGTHS_BYTES = 256
_CODE_BITS = 15
_MASK = 0xFFFFFFFF


class _Bits:
    """Bits in the order of the format: 32 are looked at, words of 16 are taken in turn."""

    def __init__(self, packed: bytes) -> None:
        # The last words may be looked at without being used.
        self._packed = packed + bytes(8)
        self.at = _LENGTHS_BYTES + 4
        self.next = self._word(_LENGTHS_BYTES) << 16 | self._word(_LENGTHS_BYTES + 2)
        self._extra = 16

    def drop(self, count: int) -> None:
        """Go on by up to 16 bits."""
        self.next = self.next << count & _MASK
        self._extra -= count
        if self._extra < 0:
            self.next |= self._word(self.at) << -self._extra
            self._extra += 16
            self.at += 2

    def plain(self, count: int) -> int:
        """Return the number in the next bytes, which stand between the words."""
        self.at += count
        if self.at > len(self._packed):
            raise GuestDamaged("(compressed data is cut off)")
        return int.from_bytes(self._packed[self.at - count : self.at], "little")

    def _word(self, at: int) -> int:
        if at + 2 > len(self._packed):
            raise GuestDamaged("(compressed data is cut off)")
        return self._packed[at] | self._packed[at + 1] << 8


def decompressed(packed: bytes, size: int) -> bytes:
    """Return the `size` bytes that `packed` holds.

    Raises:
        GuestDamaged: it is cut off, refers to what is not there, or holds more than `size`.
    """
    table = _table(packed[:_LENGTHS_BYTES])
    bits, out = _Bits(packed), bytearray()
    while len(out) < size:
        entry = table[bits.next >> (32 - _CODE_BITS)]
        if not entry:
            raise GuestDamaged("(compressed data has a code that is none)")
        bits.drop(entry & 15)
        symbol = entry >> 4
        if symbol < 256:
            out.append(symbol)
        else:
            _refer(out, bits, symbol - 256, size)
    return bytes(out)


def _refer(out: bytearray, bits: _Bits, symbol: int, size: int) -> None:
    length, distance_bits = symbol & 15, symbol >> 4
    if length == 15:
        length = bits.plain(1) + 15
        if length == 255 + 15:
            length = bits.plain(2) or bits.plain(4)
    length += 3
    distance = 1 << distance_bits
    if distance_bits:
        distance |= bits.next >> (32 - distance_bits)
        bits.drop(distance_bits)
    if distance > len(out) or len(out) + length > size:
        raise GuestDamaged("(compressed data refers to what is not there)")
    pattern = bytes(out[-distance:])
    out += (pattern * (length // distance + 1))[:length]


def _table(lengths: bytes) -> list[int]:
    """Return symbol * 16 + bits for every 15 bits that may come next; 0 for no code."""
    by_bits: list[list[int]] = [[] for _ in range(16)]
    for index, pair in enumerate(lengths):
        by_bits[pair & 15].append(2 * index)
        by_bits[pair >> 4].append(2 * index + 1)
    table: list[int] = []
    for width in range(1, _CODE_BITS + 1):
        for symbol in by_bits[width]:
            table += [symbol << 4 | width] * (1 << (_CODE_BITS - width))
    if len(table) > 1 << _CODE_BITS:
        raise GuestDamaged("(compressed data has too many codes)")
    return table + [0] * ((1 << _CODE_BITS) - len(table))
