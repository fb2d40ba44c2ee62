"""Files of the Windows Overlay Filter, packed by wimlib, which compresses as Windows does."""

import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from ruchu.blocks.files import FileReader
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ntfs
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Extent

pytestmark = [pytest.mark.system, pytest.mark.slow]

ALGORITHMS = {0: ("XPRESS", 4096), 2: ("XPRESS", 8192), 3: ("XPRESS", 16384), 1: ("LZX", 32768)}


def run(*words):
    done = subprocess.run(words, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


def packed_by_wimlib(folder, content, way, step):
    """Return a resource of a WIM: the form that the overlay filter keeps in a stream."""
    folder.mkdir()
    (folder / "file").write_bytes(content)
    image = folder.with_suffix(".wim")
    run("wimlib-imagex", "capture", folder, image, f"--compress={way}", f"--chunk-size={step}")
    whole = image.read_bytes()
    mask = (1 << 56) - 1
    table_size, table_at = struct.unpack_from("<QQ", whole, 48)
    for at in range(table_at, table_at + (table_size & mask), 50):
        size, start, plain = struct.unpack_from("<QQQ", whole, at)
        if not size >> 56 & 2 and plain == len(content):
            assert size >> 56 & 4
            return whole[start : start + (size & mask)]
    raise AssertionError("no resource")


def contents():
    rng = random.Random(4)
    words = [rng.randbytes(rng.randrange(2, 12)) for _ in range(300)]
    text = b"".join(rng.choice(words) for _ in range(20_000))
    return [
        text,
        text[:5000] + rng.randbytes(30_000) + text[:9999],
        bytes(100_000) + b"end",
        b"ab" * 2500,
        bytes(range(256)) * 77,
        # A program: LZX makes its calls absolute.
        Path("/bin/bash").read_bytes()[:200_000],
    ]


def reparse_point(provider, algorithm):
    return struct.pack("<IHHIIII", 0x80000017, 16, 0, 1, provider, 1, algorithm)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlay")
    path, at = folder / "image", folder / "mount"
    path.write_bytes(bytes(32 << 20))
    at.mkdir()
    run("mkntfs", "-F", "-Q", "-q", path)
    run("ntfs-3g", path, at, "-o", "streams_interface=windows")
    try:
        for algorithm, (way, step) in ALGORITHMS.items():
            for number, content in enumerate(contents()):
                name = f"{algorithm} {number}"
                file = at / name
                file.write_bytes(b"")
                os.truncate(file, len(content))
                packed = packed_by_wimlib(folder / name, content, way, step)
                (at / f"{name}:WofCompressedData").write_bytes(packed)
                os.setxattr(file, "system.ntfs_reparse_data", reparse_point(2, algorithm))
        for name, data in {"new": reparse_point(2, 7), "wim": reparse_point(1, 0)}.items():
            (at / name).write_bytes(b"1")
            os.setxattr(at / name, "system.ntfs_reparse_data", data)
    finally:
        run("umount", at)
        run("flock", "-w", "60", path, "true")
    return path


def test_what_wimlib_packs_is_read(image):
    with FileReader(image) as device:
        system = ntfs.open_file_system(device)
        nodes = {entry.name.decode(): entry for entry in system.entries(system.root)}
        rng = random.Random(6)
        for algorithm in ALGORITHMS:
            for number, content in enumerate(contents()):
                entry = nodes[f"{algorithm} {number}"]
                assert entry.kind is NodeKind.FILE
                assert system.stat(entry.node).size == len(content)
                assert system.streams(entry.node) == {}
                assert system.placed(entry.node) is None
                assert list(system.extents(entry.node)) == [Extent(0, len(content))]
                for _ in range(6):
                    start = rng.randrange(len(content))
                    buffer = bytearray(rng.randrange(len(content) - start + 1))
                    system.read_into(entry.node, start, memoryview(buffer))
                    assert buffer == content[start : start + len(buffer)]
                with pytest.raises(GuestDamaged, match="content of"):
                    system.read_into(entry.node, len(content), memoryview(bytearray(1)))


@pytest.mark.parametrize(("name", "words"), [(b"new", "by algorithm 7"), (b"wim", "by a WIM")])
def test_what_is_not_understood_is_said(image, name, words):
    with FileReader(image) as device:
        system = ntfs.open_file_system(device)
        node = next(entry.node for entry in system.entries(system.root) if entry.name == name)
        for action in (
            lambda: system.read_into(node, 0, memoryview(bytearray(1))),
            lambda: system.extents(node),
        ):
            with pytest.raises(GuestUnsupported, match=words):
                action()
