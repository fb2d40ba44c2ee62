"""LZX with a window of 32 KiB, as `compact /exe:lzx` compresses.

Sources: the LZX part of MS-PATCH (DELTA left out) and the wimlib documentation of WIM resources,
whose form this is: blocks of Huffman codes, and x86 calls that were made absolute. Verified
against what wimlib compresses.
"""

import struct

from ruchu.errors import GuestDamaged

_SLOTS = 30
_MAIN, _LENGTHS, _PRE, _ALIGNED = 256 + 8 * _SLOTS, 249, 20, 8
_CODE_BITS = 16
_EXTRA = [max(slot // 2 - 1, 0) for slot in range(_SLOTS)]
_FIRST = [0]
for _bits in _EXTRA[:-1]:
    _FIRST.append(_FIRST[-1] + (1 << _bits))
_CALL = 0xE8
_CALLS_SPAN = 12_000_000
"""The size of a program that the compressor assumes when it makes calls absolute."""
_CALL_LEAST = 10


class _Bits:
    """Bits in words of 16, the highest first."""

    def __init__(self, packed: bytes) -> None:
        # The last code may be looked up with bits that are not there.
        self._packed = packed + bytes(4)
        self._at = 0
        self._held = self._count = 0

    def peek(self, count: int) -> int:
        """Return the next bits, up to 17, without going on."""
        while self._count < count:
            self._held = self._held << 16 | int.from_bytes(self._bytes(2), "little")
            self._count += 16
        return self._held >> (self._count - count)

    def take(self, count: int) -> int:
        """Return the next bits."""
        value = self.peek(count)
        self._count -= count
        self._held &= (1 << self._count) - 1
        return value

    def code(self, table: list[int]) -> int:
        """Return the symbol whose code comes next."""
        entry = table[self.peek(_CODE_BITS)]
        if not entry:
            raise GuestDamaged("(compressed data has a code that is none)")
        self.take(entry & 31)
        return entry >> 5

    def plain(self, count: int, *, align: bool = False) -> bytes:
        """Return bytes that stand between the words."""
        if align:
            self.peek(1)
            # Words that were looked at beyond the one begun are given back.
            self._at -= 2 * ((self._count - 1) // 16)
            self._held = self._count = 0
        return self._bytes(count)

    def _bytes(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._packed):
            raise GuestDamaged("(compressed data is cut off)")
        return self._packed[start : self._at]


class _Unpacker:
    def __init__(self, packed: bytes, size: int) -> None:
        self.bits = _Bits(packed)
        self.size = size
        self.out = bytearray()
        self.recent = [1, 1, 1]
        self.main_widths = [0] * _MAIN
        self.length_widths = [0] * _LENGTHS

    def block(self) -> None:
        kind = self.bits.take(3)
        length = 32768 if self.bits.take(1) else self.bits.take(16)
        end = len(self.out) + length
        if not length or end > self.size or kind not in {1, 2, 3}:
            raise GuestDamaged("(a block of compressed data cannot be)")
        if kind == 3:
            self.recent = list(struct.unpack("<III", self.bits.plain(12, align=True)))
            self.out += self.bits.plain(length)
            if length & 1:
                self.bits.plain(1)
            return
        aligned = None
        if kind == 2:
            aligned = _table([self.bits.take(3) for _ in range(_ALIGNED)])
        self._widths(self.main_widths, 0, 256)
        self._widths(self.main_widths, 256, _MAIN)
        self._widths(self.length_widths, 0, _LENGTHS)
        self._codes(end, aligned)

    def _codes(self, end: int, aligned: list[int] | None) -> None:
        main, lengths = _table(self.main_widths), _table(self.length_widths)
        bits, out = self.bits, self.out
        while len(out) < end:
            symbol = bits.code(main)
            if symbol < 256:
                out.append(symbol)
                continue
            length = (symbol - 256 & 7) + 2
            if length == 9:
                length += bits.code(lengths)
            distance = self._distance(symbol - 256 >> 3, aligned)
            if not 0 < distance <= len(out) or len(out) + length > end:
                raise GuestDamaged("(compressed data refers to what is not there)")
            pattern = bytes(out[-distance:])
            out += (pattern * (length // distance + 1))[:length]

    def _distance(self, slot: int, aligned: list[int] | None) -> int:
        recent = self.recent
        if slot < 3:
            recent[0], recent[slot] = recent[slot], recent[0]
            return recent[0]
        extra = _EXTRA[slot]
        if aligned is not None and extra >= 3:
            more = self.bits.take(extra - 3) << 3
            more |= self.bits.code(aligned)
        else:
            more = self.bits.take(extra)
        self.recent = [_FIRST[slot] + more - 2, recent[0], recent[1]]
        return self.recent[0]

    def _widths(self, widths: list[int], at: int, end: int) -> None:
        """Read the widths of codes: as differences to those of the block before."""
        bits = self.bits
        table = _table([bits.take(4) for _ in range(_PRE)])
        while at < end:
            symbol = bits.code(table)
            if symbol < 17:
                widths[at] = (widths[at] - symbol) % 17
                at += 1
                continue
            if symbol == 19:
                count = bits.take(1) + 4
                width = (widths[at] - bits.code(table)) % 17
            else:
                count = bits.take(4) + 4 if symbol == 17 else bits.take(5) + 20
                width = 0
            count = min(count, end - at)
            widths[at : at + count] = [width] * count
            at += count


def decompressed(packed: bytes, size: int) -> bytes:
    """Return the `size` bytes, at most 32768, that `packed` holds.

    Raises:
        GuestDamaged: it is cut off, refers to what is not there, or holds more than `size`.
    """
    unpacker = _Unpacker(packed, size)
    while len(unpacker.out) < size:
        unpacker.block()
    return bytes(_calls_made_relative(unpacker.out))


def _calls_made_relative(out: bytearray) -> bytearray:
    at, last = 0, len(out) - _CALL_LEAST
    while 0 <= (at := out.find(_CALL, at)) < last:
        place = int.from_bytes(out[at + 1 : at + 5], "little", signed=True)
        if -at <= place < _CALLS_SPAN:
            relative = place - at if place >= 0 else place + _CALLS_SPAN
            out[at + 1 : at + 5] = relative.to_bytes(4, "little", signed=True)
        at += 5
    return out


def _table(widths: list[int]) -> list[int]:
    """Return symbol * 32 + width for every 16 bits that may come next; 0 for no code."""
    by_width: list[list[int]] = [[] for _ in range(_CODE_BITS + 1)]
    for symbol, width in enumerate(widths):
        by_width[width].append(symbol)
    table: list[int] = []
    for width in range(1, _CODE_BITS + 1):
        for symbol in by_width[width]:
            table += [symbol << 5 | width] * (1 << (_CODE_BITS - width))
            if len(table) > 1 << _CODE_BITS:
                raise GuestDamaged("(compressed data has too many codes)")
    return table + [0] * ((1 << _CODE_BITS) - len(table))
