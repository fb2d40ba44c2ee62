"""Pictures of displays become PNG of a size that a page shows."""

import struct
import zlib

import pytest

from ruchu.errors import PlatformError
from ruchu.platforms import pictures


def ppm(width, height, colour=lambda x, y: (x % 256, y % 256, 7)):
    pixels = bytes(each for y in range(height) for x in range(width) for each in colour(x, y))
    return b"P6\n# made by a test\n%d %d\n255\n" % (width, height) + pixels


def decoded(content):
    """Return width, height and lines of pixels of a PNG as `pictures` writes it."""
    assert content.startswith(pictures.PNG_SIGNATURE)
    at, parts = 8, {}
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        (check,) = struct.unpack(">I", content[at + 8 + length : at + 12 + length])
        assert check == zlib.crc32(kind + data)
        parts[kind] = data
        at += 12 + length
    width, height, depth, colours = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert (depth, colours) == (8, 2)
    lines = zlib.decompress(parts[b"IDAT"])
    step = width * 3 + 1
    assert len(lines) == step * height
    return width, height, [lines[row * step + 1 : (row + 1) * step] for row in range(height)]


def test_every_pixel_is_where_it_was():
    width, height, lines = decoded(pictures.png(ppm(5, 3)))
    assert (width, height) == (5, 3)
    assert lines[2] == bytes(each for x in range(5) for each in (x, 2, 7))


def test_a_large_display_comes_smaller():
    width, height, lines = decoded(pictures.png(ppm(2000, 40)))
    assert (width, height) == (1000, 20)
    assert lines[1][:6] == bytes((0, 2, 7, 2, 2, 7))


def test_png_stays_as_it_is():
    content = pictures.png(ppm(1, 1))
    assert pictures.png(content) == content


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", ppm(4, 4)[:-1], b"P6 0 0 255\n", b"P6 99999 99999 255\nxxx"]
)
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(PlatformError):
        pictures.png(content)
