"""Files compressed by the Windows Overlay Filter: `compact /exe` and CompactOS.

The content is in the stream `WofCompressedData`: a table of where chunks end, then the chunks.
Sources: MS-FSCC 2.1.2.1 (tag), the wimlib documentation of WIM resources, which have this form.
No Windows was at hand: verified with chunks that wimlib made.
"""

import functools
import struct

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.ntfs import lzx, xpress
from ruchu.guests.ntfs.keeping import Kept
from ruchu.guests.ntfs.streams import Layout, StreamReader

STREAM = "WofCompressedData"
"""Where the content is; Windows does not show this stream."""

_INFORMATION = struct.Struct("<8xIIII")
_FILE_PROVIDER = 2
_LZX_CHUNK = 32768
_CHUNKS = {0: 4096, 1: _LZX_CHUNK, 2: 8192, 3: 16384}
"""All but 1 are XPRESS."""
_CHUNKS_ROOM = 4 << 20


def chunk_size(data: bytes) -> int:
    """Return the bytes that a chunk becomes, from the reparse data of a file.

    Raises:
        GuestUnsupported: it lies in a WIM, or is compressed in a way that is not known.
    """
    if len(data) < _INFORMATION.size:
        raise GuestUnsupported("(a file of the Windows Overlay Filter, of an unknown form)")
    _, provider, _, algorithm = _INFORMATION.unpack_from(data)
    if provider != _FILE_PROVIDER or algorithm not in _CHUNKS:
        way = f"algorithm {algorithm}" if provider == _FILE_PROVIDER else "a WIM"
        raise GuestUnsupported(f"(content kept by the Windows Overlay Filter by {way})")
    return _CHUNKS[algorithm]


class OverlayReader:
    """Reads compressed content. Safe in several threads."""

    def __init__(self, streams: StreamReader) -> None:
        self._streams = streams
        self._chunks: Kept[tuple[int, int], bytes] = Kept(_CHUNKS_ROOM, len)

    def read_into(
        self, node: int, packed: Layout, sizes: tuple[int, int], start: int, buffer: memoryview
    ) -> None:
        """Fill the buffer with content from `start`.

        Args:
            node: record of the file.
            packed: its stream `STREAM`.
            sizes: bytes of the content, and of a chunk.
            start: first byte wanted.
            buffer: where it goes.

        Raises:
            GuestDamaged: the range is outside the content, or the content is damaged.
        """
        size, step = sizes
        if start < 0 or start + len(buffer) > size:
            raise GuestDamaged(f"({len(buffer)} bytes at {start} of content of {size})")
        done = 0
        while done < len(buffer):
            number, offset = divmod(start + done, step)
            wanted = min(step, size - number * step)
            where = self._place(packed, number, -(-size // step), 4 if size < 1 << 32 else 8)
            make = functools.partial(self._chunk, packed, where, wanted, by_lzx=step == _LZX_CHUNK)
            chunk = self._chunks.get((node, number), make)
            part = chunk[offset : offset + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def _place(self, packed: Layout, number: int, count: int, width: int) -> tuple[int, int]:
        """Return where a chunk begins and ends: the first begins behind the table."""
        behind = (count - 1) * width
        edges = []
        for edge in (number, number + 1):
            if edge in {0, count}:
                edges.append(0 if edge == 0 else packed.size - behind)
            else:
                told = self._streams.read(packed, (edge - 1) * width, width)
                edges.append(int.from_bytes(told, "little"))
        return behind + edges[0], behind + edges[1]

    def _chunk(self, packed: Layout, place: tuple[int, int], wanted: int, *, by_lzx: bool) -> bytes:
        start, end = place
        # What does not shrink is stored as it is.
        if not 0 < end - start <= wanted:
            raise GuestDamaged(f"(a compressed chunk of {end - start} bytes for {wanted})")
        content = self._streams.read(packed, start, end - start)
        if len(content) == wanted:
            return content
        unpack = lzx.decompressed if by_lzx else xpress.decompressed
        return unpack(content, wanted)
