"""Record marking of RFC 5531, section 11: a stream of bytes becomes records, without I/O."""

from typing import Final

from ruchu.exports.nfs.xdr import U32
from ruchu.units import KIB, MIB

LAST_FRAGMENT: Final = 1 << 31
# The largest call is a WRITE of 1 MiB; some clients round up. The head is credentials and handle.
RECORD_MAX: Final = 2 * MIB + 4 * KIB
# No client cuts a call into more than a few; an empty fragment costs a sender only four bytes.
FRAGMENTS_MAX: Final = 1024
# Holds hundreds of small calls; it grows to the size of a large one when that comes.
SPACE_MIN: Final = 64 * KIB
_MARK = 4


class BrokenRecord(Exception):
    """The bytes cannot be told apart into calls; only closing the connection helps."""


class RecordBuffer:
    """Receives bytes and hands out whole records.

    A record is a view of the buffer: it is good until `space` is called the next time.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(SPACE_MIN)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        # Fragments before the last one of a record, which few clients send.
        self._fragments = bytearray()
        self._fragment_count = 0

    def space(self) -> memoryview:
        """Return where the next bytes are to be received; it is never empty."""
        rest = self._end - self._start
        needed = max(SPACE_MIN, _MARK + self._announced())
        if needed > len(self._buffer):
            grown = bytearray(needed)
            grown[:rest] = self._view[self._start : self._end]
            self._buffer, self._view = grown, memoryview(grown)
            self._start, self._end = 0, rest
        elif self._start and (not rest or self._start + needed > len(self._buffer)):
            self._view[:rest] = self._view[self._start : self._end]
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Note that so many bytes were put into `space`."""
        self._end += count

    def next_record(self) -> memoryview | None:
        """Return the next record, or None if it is not complete.

        Raises:
            BrokenRecord: a record is too large, or in too many fragments.
        """
        while self._end - self._start >= _MARK:
            (mark,) = U32.unpack_from(self._buffer, self._start)
            length = mark & ~LAST_FRAGMENT
            if length + len(self._fragments) > RECORD_MAX:
                raise BrokenRecord(f"a record of more than {RECORD_MAX} bytes")
            begin = self._start + _MARK
            if self._end - begin < length:
                return None
            self._start = begin + length
            fragment = self._view[begin : self._start]
            if mark & LAST_FRAGMENT:
                return self._finish(fragment) if self._fragment_count else fragment
            self._collect(fragment)
        return None

    def _announced(self) -> int:
        if self._end - self._start < _MARK:
            return 0
        (mark,) = U32.unpack_from(self._buffer, self._start)
        return min(int(mark) & ~LAST_FRAGMENT, RECORD_MAX)

    def _collect(self, fragment: memoryview) -> None:
        self._fragments += fragment
        self._fragment_count += 1
        if self._fragment_count >= FRAGMENTS_MAX:
            raise BrokenRecord(f"a record of more than {FRAGMENTS_MAX} fragments")

    def _finish(self, fragment: memoryview) -> memoryview:
        whole = memoryview(self._fragments + fragment)
        self._fragments = bytearray()
        self._fragment_count = 0
        return whole
