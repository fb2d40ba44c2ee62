"""What is recognised, and what is a doubt: on what mkfs.xfs makes, changed by hand."""

import struct
import subprocess

import pytest

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges, xfs

SIZE = 48 << 20


class Memory:
    """A BlockReader of bytes."""

    preferred_io = 1 << 20

    def __init__(self, content):
        self.content = content

    @property
    def size(self):
        return len(self.content)

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size
        buffer[:] = self.content[start : start + len(buffer)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("xfs") / "xfs.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    options = ["-q", "--unsupported", "-d", "agcount=2", "-l", "size=10m", "-L", "标签"]
    subprocess.run(["mkfs.xfs", *options, path], check=True, capture_output=True, timeout=60)
    return path.read_bytes()


@pytest.fixture
def device(made):
    return Memory(bytearray(made))


def seal(device, start, length, at):
    """Make the checksum of a block right again."""
    block = device.content[start : start + length]
    block[at : at + 4] = bytes(4)
    crc = crc32c.checksum(bytes(block))
    device.content[start + at : start + at + 4] = struct.pack("<I", crc)


def doubt(device, *, frozen=False):
    taken = xfs.allocation(device, frozen=frozen)
    if taken.doubt:
        assert taken.used.tolist() == [[0, device.size]]
    return taken.doubt


def put(device, at, layout, *values):
    struct.pack_into(layout, device.content, at, *values)


def log_at(device):
    (number,) = struct.unpack_from(">Q", device.content, 48)
    (groups,) = struct.unpack_from(">I", device.content, 84)
    log = device.content[124]
    return ((number >> log) * groups + (number & ((1 << log) - 1))) * 4096


def test_what_mkfs_made_is_understood(device):
    assert xfs.recognise(device) == "xfs"
    taken = xfs.allocation(device, frozen=False)
    assert taken.doubt == ""
    assert (10 << 20) < ranges.total(taken.used) < (11 << 20)
    start = log_at(device)
    assert ranges.total(ranges.clipped(taken.used, start, start + (10 << 20))) == 10 << 20
    facts = xfs.open_file_system(device).facts
    assert (facts.label, facts.size, facts.block, facts.notes) == ("标签", SIZE, 4096, ())


@pytest.mark.parametrize("content", [b"", b"XFSB", bytes(4096), b"XFSB" + bytes(4092)])
def test_what_is_no_xfs(content):
    device = Memory(content)
    assert xfs.recognise(device) == ""
    assert xfs.allocation(device, frozen=False).doubt
    with pytest.raises(GuestDamaged):
        xfs.open_file_system(device)


def test_a_wrong_checksum_is_a_doubt(device, rng):
    for start in (0, 512, 1536):
        changed = Memory(bytearray(device.content))
        changed.content[start + rng.randrange(230, 512)] ^= 1
        assert "checksum" in doubt(changed)
    (root,) = struct.unpack_from(">I", device.content, 512 + 16)
    device.content[root * 4096 + 4000] ^= 1
    assert "checksum" in doubt(device)


def test_a_feature_that_is_not_known(device):
    for at, bit in ((212, 0x40), (216, 0x200)):
        changed = Memory(bytearray(device.content))
        put(changed, at, ">I", struct.unpack_from(">I", changed.content, at)[0] | bit)
        seal(changed, 0, 512, 224)
        assert "features" in doubt(changed)
        if at == 216:
            with pytest.raises(GuestUnsupported):
                xfs.open_file_system(changed)


def test_what_says_that_it_must_be_repaired(device):
    put(device, 216, ">I", struct.unpack_from(">I", device.content, 216)[0] | 0x10)
    seal(device, 0, 512, 224)
    assert "repaired" in doubt(device)
    assert "repaired" in xfs.open_file_system(device).facts.notes[0]


def test_a_volume_that_was_cut_off(device):
    assert "volume" in doubt(Memory(device.content[: SIZE - 4096]))


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (52, 1, "counts"),  # the number of free blocks
        (28, 0, "levels"),
        (28, 2, "btree"),
        (16, 99999999, "group"),
        (8, 1, "header"),
        (48, 200, "free list"),
    ],
)
def test_a_header_of_free_space_that_lies(device, at, value, why):
    put(device, 512 + at, ">I", value)
    seal(device, 512, 512, 216)
    assert why in doubt(device)


def test_free_blocks_that_are_none(device):
    (root,) = struct.unpack_from(">I", device.content, 512 + 16)
    start, count = struct.unpack_from(">II", device.content, root * 4096 + 56)
    for wrong in ((0, count), (start + 1, count), (start, 0), (root, count)):
        # The two btrees must agree, however well a lie fits.
        put(device, root * 4096 + 56, ">II", *wrong)
        seal(device, root * 4096, 4096, 52)
        assert "free" in doubt(device)


def test_a_log_that_is_not_at_its_end(device):
    start = log_at(device)
    # An operation that is no unmount; without a checksum nobody can say what it was.
    device.content[start + 512 + 9] = 0
    assert "not in place" in doubt(device)
    assert "not in place" in doubt(device, frozen=True)
    assert "missing" in xfs.open_file_system(device).facts.notes[0]


def test_a_torn_log(device):
    start = log_at(device)
    put(device, start + 512 * 40, ">I", 1)
    assert "torn" in doubt(device)
    put(device, start, ">II", 0, 0)
    assert "cycles" in doubt(device)
