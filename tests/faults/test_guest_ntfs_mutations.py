"""A hostile NTFS: whatever its metadata says, the reader ends, with one of three errors at most."""

import contextlib
import os
import random
import struct
import subprocess

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import ntfs
from ruchu.guests.contract import NodeKind
from ruchu.guests.ntfs import clusters
from ruchu.model.extents import Extent

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

EXPECTED = (GuestDamaged, GuestUnsupported, NotFound)
SIZE = 12 << 20
MUTATIONS = 5000 if os.environ.get("RUCHU_PROFILE") == "faults" else 150
# The image is read a few times over at most, whatever it says; reads of content come on top.
READS_MAX, BYTES_MAX = 20_000, 600 << 20
ENTRIES_MAX, CONTENT_MAX = 3000, 256 << 10
STRIKING = [0, 1, 2, 0x7F, 0xFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1]


class Memory:
    """An image in memory that counts what is read and refuses what is outside."""

    preferred_io = 1 << 20

    def __init__(self, content):
        self.content = content
        self.size = len(content)
        self.reads = self.bytes = 0

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size
        self.reads += 1
        self.bytes += len(buffer)
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self):
        yield Extent(0, self.size)


def run(*words):
    done = subprocess.run(words, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations")
    path, at = folder / "image", folder / "mount"
    path.write_bytes(bytes(SIZE))
    at.mkdir()
    run("mkntfs", "-F", "-Q", "-q", "-c", "512", path)
    run("ntfs-3g", path, at, "-o", "compression,streams_interface=windows")
    try:
        build(at)
    finally:
        run("umount", at)
        run("flock", "-w", "60", path, "true")
    return path.read_bytes()


def build(at):
    rng = random.Random(5)
    (at / "many").mkdir()
    for index in range(300):
        (at / "many" / f"a file of number {index}").write_bytes(b"%d" % index)
    (at / "packed").mkdir()
    os.setxattr(at / "packed", "system.ntfs_attrib_be", struct.pack(">I", 0x800))
    (at / "packed" / "log").write_bytes(b"again and again, " * 9000)
    with open(at / "pieces", "wb", 0) as file:
        for index in range(400):
            file.seek(index * 2048)
            file.write(rng.randbytes(512))
    for index in range(20):
        os.link(at / "pieces", at / f"{index} {'l' * 200}")
    os.symlink("many", at / "link")
    (at / "plain").write_bytes(rng.randbytes(50_000))
    (at / "plain:stream").write_bytes(rng.randbytes(5000))
    (at / "there").write_bytes(b"")
    shown = "many".encode("utf-16-le")
    names = struct.pack("<HHHHI", 0, len(shown), 0, len(shown), 1) + shown
    data = struct.pack("<IHH", 0xA000000C, len(names), 0) + names
    os.setxattr(at / "there", "system.ntfs_reparse_data", data)
    for algorithm in (0, 1):
        overlaid = at / f"overlaid {algorithm}"
        overlaid.write_bytes(b"")
        os.truncate(overlaid, 32768 + 4096)
        packed = struct.pack("<I", 32768) + rng.randbytes(32768 + 4096)
        (at / f"{overlaid.name}:WofCompressedData").write_bytes(packed)
        data = struct.pack("<IHHIIII", 0x80000017, 16, 0, 1, 2, 1, algorithm)
        os.setxattr(overlaid, "system.ntfs_reparse_data", data)


def mutated(rng, content, spots):
    """Change some bytes of metadata; return what was there."""
    before = []
    for _ in range(rng.choice([1, 1, 2, 6])):
        first, end = rng.choice(spots)
        at = rng.randrange(first, end - 8)
        if rng.random() < 0.15:
            other, _ = rng.choice(spots)
            new = bytes(content[other : other + 512])
            at = first
        elif rng.random() < 0.5:
            new = bytes([rng.randrange(256)])
        else:
            width = rng.choice([1, 2, 4, 8])
            new = (rng.choice(STRIKING) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        before.append((at, bytes(content[at : at + len(new)])))
        content[at : at + len(new)] = new
    return before


def spots_of(image):
    """Return where metadata lies: the boot sector, records in use, index blocks, descriptors."""
    found = [(0, 512)]
    for at in range(0, SIZE, 512):
        if image[at : at + 4] == b"FILE":
            found.append((at, at + 512))
        elif image[at : at + 4] == b"INDX":  # codespell:ignore indx
            found += [(at, at + 512), (at, at + 80)]
    system = ntfs.open_file_system(Memory(image))
    metadata = clusters.metadata(system._volume).tolist()
    found += [(first, min(end, first + 512)) for first, end in metadata] * 3
    # The first records decide most.
    table = system._volume.geometry.table * 512
    return found + [(table + n * 512, table + n * 512 + 512) for n in range(24)] * 8


def allowed(action, *words):
    with contextlib.suppress(*EXPECTED):
        return action(*words)
    return None


def look(system, node):
    found = allowed(system.stat, node)
    allowed(system.xattrs, node)
    allowed(system.link_target, node)
    for stream in ["", *(allowed(system.streams, node) or {})]:
        allowed(system.placed, node, stream)
        pieces = allowed(lambda name=stream: list(system.extents(node, name)))
        size = sum(piece.length for piece in pieces or ())
        for start in {0, max(0, size - CONTENT_MAX)}:
            buffer = memoryview(bytearray(min(size, CONTENT_MAX)))
            allowed(system.read_into, node, start, buffer, stream)
    return found


def walk(system):
    waiting, seen, count = [system.root], {system.root}, 0
    while waiting and count < ENTRIES_MAX:
        node = waiting.pop()
        with contextlib.suppress(*EXPECTED):
            for entry in system.entries(node):
                count += 1
                if entry.node not in seen and count < ENTRIES_MAX:
                    seen.add(entry.node)
                    look(system, entry.node)
                    if entry.kind is NodeKind.DIRECTORY:
                        waiting.append(entry.node)
    return count


def test_the_image_itself_is_read(image):
    device = Memory(image)
    assert ntfs.allocation(device, frozen=False).doubt == ""
    assert walk(ntfs.open_file_system(device)) == 329
    assert device.reads < READS_MAX
    assert device.bytes < BYTES_MAX


def test_mutations_end_with_known_errors(image, request):
    seed = int(os.environ.get("RUCHU_SEED", "0") or 0)
    content, spots = bytearray(image), spots_of(image)
    doubts = 0
    for number in range(MUTATIONS):
        rng = random.Random(f"{seed}/{number}")
        before = mutated(rng, content, spots)
        device = Memory(content)
        try:
            used = ntfs.allocation(device, frozen=rng.random() < 0.5)
            doubts += bool(used.doubt)
            system = allowed(ntfs.open_file_system, device)
            if system is not None:
                assert system.facts.kind == "ntfs"
                walk(system)
        except Exception as error:
            raise AssertionError(f"mutation {seed}/{number}") from error
        assert device.reads < READS_MAX, number
        assert device.bytes < BYTES_MAX, number
        for at, old in reversed(before):
            content[at : at + len(old)] = old
    assert content == image
    assert 0 < doubts < MUTATIONS
