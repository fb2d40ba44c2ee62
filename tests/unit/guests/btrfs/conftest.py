"""Small Btrfs images that mkfs.btrfs fills by itself: neither a mount nor root is needed."""

import mmap
import os
import struct
import subprocess

import pytest

from ruchu.blocks import crc32c
from ruchu.model.extents import Extent

SUPERBLOCK = 64 << 10


class Image:
    """A device in memory; reading outside it is a failure. What is changed stays private."""

    preferred_io = 1 << 20

    def __init__(self, path):
        self.size = os.stat(path).st_size
        with open(path, "rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def read_into(self, start, buffer):
        end = start + len(buffer)
        assert 0 <= start <= end <= self.size
        buffer[:] = self._content[start:end]

    def extents(self):
        yield Extent(0, self.size)

    def bytes_at(self, start, length):
        buffer = bytearray(length)
        self.read_into(start, memoryview(buffer))
        return bytes(buffer)

    def overwrite(self, start, data):
        self._content[start : start + len(data)] = data

    def change(self, block, size, at, data):
        """Overwrite a part of a block and make its CRC-32C right again."""
        self.overwrite(block + at, data)
        self.seal(block, size)

    def seal(self, block, size):
        state = crc32c.checksum(self.bytes_at(block + 32, size - 32))
        self.overwrite(block, struct.pack("<I", state))

    def change_superblock(self, at, data):
        self.change(SUPERBLOCK, 4096, at, data)


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """Return a folder with files, and two images: with default options and with xxHash64."""
    folder = tmp_path_factory.mktemp("btrfs")
    root = folder / "root"
    root.mkdir()
    (root / "病历").mkdir()
    (root / "病历" / "三月.txt").write_text("三月" * 10)
    (root / "large").write_bytes(bytes(range(256)) * 2000 + b"end")
    (root / "empty").touch()
    os.symlink("病历/三月.txt", root / "link")
    os.link(root / "large", root / "again")
    for number in range(300):
        (root / f"entry{number}").write_text(str(number))
    images = {}
    for name, options in {"default": [], "xxhash": ["--csum", "xxhash"]}.items():
        image = folder / name
        with open(image, "wb") as file:
            file.truncate(130 << 20)
        words = ["mkfs.btrfs", "-q", *options, "-L", "label", "--rootdir", root, image]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
        images[name] = image
    return root, images


@pytest.fixture
def image(planted):
    """Return the image with default options, to be damaged at will."""
    return Image(planted[1]["default"])


@pytest.fixture
def xxhash_image(planted):
    return Image(planted[1]["xxhash"])
