"""Volumes that mkntfs makes, changed byte by byte to what Windows or an attacker would leave."""

import contextlib
import random
import struct
import subprocess
import threading

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import ntfs, ranges
from ruchu.guests.contract import NodeKind
from ruchu.guests.ntfs import attributes, fixups
from ruchu.model.extents import Content, Extent

SIZE = 8 << 20
RECORD = 1024


class Memory:
    preferred_io = 1 << 20

    def __init__(self, content):
        self.content = content
        self.size = len(content)

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self):
        yield Extent(0, self.size)


def run(*words):
    done = subprocess.run(words, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, (words, done.stderr)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Return the bytes of a volume with three files; no mount is needed."""
    folder = tmp_path_factory.mktemp("ntfs")
    image = folder / "image"
    image.write_bytes(bytes(SIZE))
    run("mkntfs", "-F", "-Q", "-q", "-L", "Plain", image)
    for name, content in CONTENTS.items():
        (folder / "content").write_bytes(content)
        run("ntfscp", "-q", image, folder / "content", name)
    return image.read_bytes()


CONTENTS = {
    "hiberfil.sys": b"wake" + bytes(20_000),
    "large": random.Random(1).randbytes(100_000),
    "small": b"in the record",
}


@pytest.fixture
def content(template):
    return bytearray(template)


def find(system, name):
    return next(entry.node for entry in system.entries(system.root) if entry.name == name)


class Editor:
    """Changes a record of an image in memory, with its fix-ups."""

    def __init__(self, content, number):
        table = int.from_bytes(content[48:56], "little") * 4096
        self.at = table + number * RECORD
        self.content = content

    def __enter__(self):
        raw = bytes(self.content[self.at : self.at + RECORD])
        self.record = fixups.undone(raw, "record")
        return self

    def __exit__(self, *_):
        place = int.from_bytes(self.record[4:6], "little")
        for index in (1, 2):
            end = 512 * index
            self.record[place + 2 * index : place + 2 * index + 2] = self.record[end - 2 : end]
            self.record[end - 2 : end] = self.record[place : place + 2]
        self.content[self.at : self.at + RECORD] = self.record

    def attribute(self, kind):
        at = int.from_bytes(self.record[20:22], "little")
        while (found := int.from_bytes(self.record[at : at + 4], "little")) != kind:
            assert found != 0xFFFFFFFF
            at += int.from_bytes(self.record[at + 4 : at + 8], "little")
        return at

    def value(self, kind):
        at = self.attribute(kind)
        return at + int.from_bytes(self.record[at + 20 : at + 22], "little")


def doubt(content, *, frozen=False):
    found = ntfs.allocation(Memory(content), frozen=frozen)
    if found.doubt:
        assert found.used.tolist() == [[0, len(content)]]
    return found.doubt


def test_a_volume_in_order(content):
    device = Memory(content)
    assert ntfs.recognise(device) == "ntfs"
    assert doubt(content) == ""
    system = ntfs.open_file_system(device)
    facts = system.facts
    assert (facts.kind, facts.label, facts.block, facts.notes) == ("ntfs", "Plain", 4096, ())
    assert facts.size == SIZE
    assert facts.uuid == f"{int.from_bytes(content[72:80], 'little'):016X}"
    names = {entry.name: entry for entry in system.entries(system.root)}
    assert set(names) == {name.encode() for name in CONTENTS}
    for name, expected in CONTENTS.items():
        node = names[name.encode()].node
        found = system.stat(node)
        assert (found.kind, found.size, found.mode) == (NodeKind.FILE, len(expected), 0o644)
        buffer = bytearray(found.size)
        system.read_into(node, 0, memoryview(buffer))
        assert buffer == expected
    assert system.stat(system.root).kind is NodeKind.DIRECTORY


def test_the_backup_of_the_boot_sector_counts(content):
    used = ntfs.allocation(Memory(content), frozen=False).used
    assert used[-1].tolist()[1] == SIZE
    assert content[SIZE - 512 :][3:7] == b"NTFS"
    # A device that is larger: what is behind is the caller's.
    used = ntfs.allocation(Memory(content + bytes(1 << 20)), frozen=False).used
    assert used[-1].tolist()[1] == SIZE
    # A device without room for the backup.
    used = ntfs.allocation(Memory(content[:-512]), frozen=False).used
    assert used[-1].tolist()[1] == SIZE - 512


def test_what_is_no_ntfs():
    assert ntfs.recognise(Memory(bytes(100))) == ""
    assert ntfs.recognise(Memory(bytes(4096))) == ""
    assert "no boot sector" in doubt(bytes(4096))
    assert "no boot sector" in doubt(bytes(100))
    assert ntfs.allocation(Memory(b""), frozen=False).used.tolist() == []
    with pytest.raises(GuestDamaged):
        ntfs.open_file_system(Memory(bytes(4096)))


def test_a_volume_cut_short(content):
    assert "device has" in doubt(content[: 4 << 20])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("flags", "words"), [(0x0001, "dirty"), (0x4000, "chkdsk"), (0x0010, "change journal")]
)
def test_flags_of_the_volume(content, frozen, flags, words):
    with Editor(content, 3) as record:
        at = record.value(attributes.VOLUME_INFORMATION)
        struct.pack_into("<H", record.record, at + 10, flags)
    assert words in doubt(content, frozen=frozen)
    assert words in ntfs.open_file_system(Memory(content)).facts.notes[0]


def test_a_version_that_is_not_known(content):
    with Editor(content, 3) as record:
        record.record[record.value(attributes.VOLUME_INFORMATION) + 8] = 4
    assert "version 4.1" in doubt(content)
    with pytest.raises(GuestUnsupported, match=r"version 4\.1"):
        ntfs.open_file_system(Memory(content))


@pytest.mark.parametrize("head", [b"hibr", b"HIBR"])
def test_hibernated(content, head):
    at = content.index(b"wake" + bytes(1000))
    content[at : at + 4] = head
    assert "hibernated" in doubt(content)
    assert "hibernated" in doubt(content, frozen=True)
    content[at : at + 4] = bytes(4)
    assert doubt(content) == ""


def log_at(content):
    system = ntfs.open_file_system(Memory(content))
    return int(system._volume.metadata_layout(2).rows[0, 2])


def restart_page(sequence, client, flags, *, major=1, magic=b"RSTR"):
    page = bytearray(4096)
    struct.pack_into("<4sHHQIIHhH", page, 0, magic, 30, 9, 0, 4096, 4096, 48, 1, major)
    struct.pack_into("<QHHHH", page, 48, sequence, 1, 0xFFFF, client, flags)
    for index in range(1, 9):
        page[512 * index - 2 : 512 * index] = b"\1\0"
    page[30:32] = b"\1\0"
    return bytes(page)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (restart_page(5, 0, 2), restart_page(4, 0, 0), ""),
        (restart_page(4, 0, 2), restart_page(5, 0, 0), "in use"),
        (restart_page(5, 0xFFFF, 0), restart_page(5, 0xFFFF, 0), ""),
        (restart_page(5, 0, 0), restart_page(4, 0, 2), "in use"),
        (restart_page(5, 0, 0, major=2), restart_page(4, 0, 0, major=2), "in use"),
        (restart_page(5, 0, 2, major=9), restart_page(5, 0, 2, major=9), "no restart page"),
        (restart_page(5, 0, 2, magic=b"CHKD"), bytes(4096), "no restart page"),
        (b"\0" * 4096, restart_page(5, 0, 2), ""),
        (restart_page(5, 0, 2)[:-1] + b"x", restart_page(4, 0, 0), "in use"),
        (b"\xff" * 4096, restart_page(4, 0, 0), "damaged"),
        (bytes(4096), bytes(4096), "no restart page"),
        (b"\xff" * 4096, b"\xff" * 4096, ""),
    ],
)
def test_the_log(content, first, second, words):
    at = log_at(content)
    content[at : at + 8192] = first + second
    found = doubt(content)
    assert (words in found) if words else not found
    # A guest that had flushed: its log is in use because it runs, no more.
    assert doubt(content, frozen=True) == ""


def test_a_bitmap_that_calls_metadata_free(content):
    system = ntfs.open_file_system(Memory(content))
    at = int(system._volume.metadata_layout(6).rows[0, 2])
    content[at] = 0
    assert "free" in doubt(content)


def test_a_bitmap_that_is_too_short(content):
    with Editor(content, 6) as record:
        at = record.attribute(attributes.DATA)
        struct.pack_into("<QQ", record.record, at + 48, 10, 10)
    assert "$Bitmap has 10 bytes" in doubt(content)


def test_the_mirror_helps_reading_but_not_the_map(content):
    table = int.from_bytes(content[48:56], "little") * 4096
    content[table : table + 4] = b"BAAD"
    assert "its copy was used" in doubt(content)
    system = ntfs.open_file_system(Memory(content))
    assert "its copy was used" in system.facts.notes[0]
    assert find(system, b"large")
    mirror = int.from_bytes(content[56:64], "little") * 4096
    content[mirror : mirror + 4] = b"BAAD"
    with pytest.raises(GuestDamaged):
        ntfs.open_file_system(Memory(content))


def test_nodes_that_are_not_there(content):
    system = ntfs.open_file_system(Memory(content))
    large = find(system, b"large")
    for action in (
        lambda: system.stat(1 << 40),
        lambda: system.stat(-1),
        lambda: system.stat(20_000),
        lambda: list(system.entries(large)),
        lambda: system.extents(large, "no such stream"),
        lambda: system.extents(system.root),
        lambda: system.link_target(large),
    ):
        with pytest.raises(NotFound):
            action()


def test_encrypted_content(content):
    system = ntfs.open_file_system(Memory(content))
    large = find(system, b"large")
    with Editor(content, large) as record:
        at = record.attribute(attributes.DATA)
        struct.pack_into("<H", record.record, at + 12, attributes.ENCRYPTED)
    system = ntfs.open_file_system(Memory(content))
    for action in (
        lambda: system.extents(large),
        lambda: system.read_into(large, 0, memoryview(bytearray(1))),
    ):
        with pytest.raises(GuestUnsupported, match="EFS"):
            action()
    assert ranges.total(system.placed(large)) == 102_400


def test_initialised_size(content):
    large = find(ntfs.open_file_system(Memory(content)), b"large")
    with Editor(content, large) as record:
        at = record.attribute(attributes.DATA)
        struct.pack_into("<Q", record.record, at + 56, 33_333)
    system = ntfs.open_file_system(Memory(content))
    assert list(system.extents(large)) == [
        Extent(0, 33_333),
        Extent(33_333, 66_667, Content.HOLE),
    ]
    buffer = bytearray(b"?" * 100_000)
    system.read_into(large, 0, memoryview(buffer))
    assert buffer == CONTENTS["large"][:33_333] + bytes(66_667)
    buffer = bytearray(b"?" * 10)
    system.read_into(large, 50_000, memoryview(buffer))
    assert buffer == bytes(10)


def test_reading_outside_is_refused(content):
    system = ntfs.open_file_system(Memory(content))
    with pytest.raises(GuestDamaged, match="content of 100000"):
        system.read_into(find(system, b"large"), 99_999, memoryview(bytearray(2)))


def test_placed_never_names_what_the_volume_needs(content):
    system = ntfs.open_file_system(Memory(content))
    large = find(system, b"large")
    found = system.placed(large)
    assert ranges.total(found) == 102_400
    assert system.placed(find(system, b"small")) is None
    assert system.placed(0) is None
    # A run list that an attacker pointed at the MFT.
    table = int.from_bytes(content[48:56], "little")
    with Editor(content, large) as record:
        at = record.attribute(attributes.DATA)
        runs_at = at + int.from_bytes(record.record[at + 32 : at + 34], "little")
        record.record[runs_at : runs_at + 5] = bytes([0x21, 25]) + struct.pack("<Hx", table)
    assert ntfs.open_file_system(Memory(content)).placed(large) is None


def test_a_record_written_in_part(content):
    large = find(ntfs.open_file_system(Memory(content)), b"large")
    content[Editor(content, large).at + 511] ^= 1
    system = ntfs.open_file_system(Memory(content))
    with pytest.raises(GuestDamaged, match=f"record {large} was written in part"):
        system.stat(large)


def test_read_only_and_times(content):
    large = find(ntfs.open_file_system(Memory(content)), b"large")
    with Editor(content, large) as record:
        at = record.value(attributes.STANDARD_INFORMATION)
        filetime = 116_444_736_000_000_000
        times = (filetime + 1, filetime + 20_000_000, filetime - 10, 0, 0x21)
        struct.pack_into("<QQQQI", record.record, at, *times)
    found = ntfs.open_file_system(Memory(content)).stat(large)
    assert (found.created, found.modified) == (100, 2_000_000_000)
    assert (found.changed, found.accessed) == (-1000, 0)
    assert (found.mode, found.attributes) == (0o444, 0x21)


def test_several_threads(content):
    system = ntfs.open_file_system(Memory(content))
    large, wrong = find(system, b"large"), []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(200):
            start = rng.randrange(90_000)
            buffer = bytearray(rng.randrange(10_000))
            system.read_into(large, start, memoryview(buffer))
            with contextlib.suppress(NotFound):
                system.stat(rng.randrange(80))
            if buffer != CONTENTS["large"][start : start + len(buffer)]:
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
