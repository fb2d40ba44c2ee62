"""Pictures of displays: what hypervisors give, as PNG of a size that a page shows.

Hypervisors give PPM, which no browser shows. Nothing here takes more than is announced, whatever
the picture says of itself.
"""

import re
import struct
import zlib

from ruchu.errors import PlatformError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A display of 7680 by 4320 pixels is about 100 MB; what is larger is no display of a server.
SOURCE_BYTES_MAX = 128 << 20
# A page shows it smaller than this.
WIDTH_MAX, HEIGHT_MAX = 1280, 1024
# As text it still fits into one frame of the channel.
PNG_BYTES_MAX = 4 << 20
_HEADER = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+255\s")
_RGB, _PIXEL = 2, 3


def png(content: bytes) -> bytes:
    """Return a picture as PNG; one that is too large comes smaller.

    Raises:
        PlatformError: it is neither PPM nor PNG, or is cut off, or too large.
    """
    if content.startswith(PNG_SIGNATURE):
        return _limited(content)
    found = _HEADER.match(content[:200])
    if found is None:
        raise PlatformError("(the picture of the display is of no known format)")
    width, height = int(found[1]), int(found[2])
    pixels = memoryview(content)[found.end() :]
    if not width or not height or len(pixels) < width * height * _PIXEL:
        raise PlatformError("(the picture of the display is cut off)")
    step = max(-(-width // WIDTH_MAX), -(-height // HEIGHT_MAX))
    shown = -(-width // step)
    lines = bytearray()
    for row in range(0, height, step):
        line = pixels[row * width * _PIXEL : (row + 1) * width * _PIXEL]
        lines.append(0)  # no filter
        lines += line if step == 1 else _thinned(bytes(line), step, shown)
    return _limited(_png(shown, -(-height // step), bytes(lines)))


def _thinned(line: bytes, step: int, shown: int) -> bytes:
    """Return every so-manieth pixel of a line."""
    found = bytearray(shown * _PIXEL)
    for colour in range(_PIXEL):
        found[colour::_PIXEL] = line[colour :: _PIXEL * step]
    return bytes(found)


def _png(width: int, height: int, lines: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _limited(content: bytes) -> bytes:
    if len(content) > PNG_BYTES_MAX:
        raise PlatformError(f"(a picture of the display of {len(content)} bytes)")
    return content
