"""What volumes are taken for, and that nothing that is not understood is dropped."""

import struct

import pytest

from ruchu.errors import GuestUnsupported
from ruchu.guests import probing, volumes
from ruchu.testing.memory_disk import MemoryDisk

MIB = 1 << 20
SIGNATURES = {
    "luks": (0, b"LUKS\xba\xbe\0\1"),
    "bitlocker": (3, b"-FVE-FS-"),
    "mdraid": (4096, b"\xfc\x4e\x2b\xa9"),
    "swap": (1024, struct.pack("<III", 1, 1023, 0).ljust(3062, b"\0") + b"SWAPSPACE2"),
    "zfs": (132 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
    "refs": (3, b"ReFS\0\0\0\0"),
    "apfs": (32, b"NXSB"),
    "squashfs": (0, b"hsqs"),
    "iso9660": (32769, b"CD001"),
    "f2fs": (1024, b"\x10\x20\xf5\xf2"),
}


def disk(*marks, size=4 * MIB):
    content = bytearray(size)
    for at, what in marks:
        content[at : at + len(what)] = what
    return MemoryDisk(bytes(content))


@pytest.mark.parametrize("kind", list(SIGNATURES))
def test_signatures_are_recognised_and_cannot_be_opened(kind):
    (volume,) = volumes.discover({"vda": disk(SIGNATURES[kind])}).volumes
    assert (volume.name, volume.kind) == ("vda", kind)
    with pytest.raises(GuestUnsupported):
        volumes.open_file_system(volume)
    found = volumes.allocation_of(volume, frozen=True)
    if kind == "swap":
        assert (found.used.tolist(), found.doubt) == ([[0, 4096]], "")
    else:
        assert found.used.tolist() == [[0, 4 * MIB]]
        assert found.doubt


def test_a_raid_superblock_at_the_end_is_found():
    (volume,) = volumes.discover({"vda": disk((4 * MIB - 8192, b"\xfc\x4e\x2b\xa9"))}).volumes
    assert volume.kind == "mdraid"


def test_two_signatures_are_nothing_to_build_on():
    (volume,) = volumes.discover({"vda": disk(SIGNATURES["luks"], SIGNATURES["apfs"])}).volumes
    assert volume.kind == "unknown"
    assert "apfs and luks" in volume.reason


def test_zeros_at_both_ends_seem_empty_but_count():
    layout = volumes.discover({"vda": disk((2 * MIB, b"x"))})
    (volume,) = layout.volumes
    assert volume.kind == "empty"
    assert volumes.allocation_of(volume, frozen=True).used.tolist() == [[0, 4 * MIB]]
    assert layout.on("vda") == (volume,)
    (other,) = volumes.discover({"vda": disk((MIB - 1, b"x"))}).volumes
    assert other.kind == "unknown"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 4095])
def test_tiny_disks_are_volumes_too(size):
    (volume,) = volumes.discover({"vda": disk(size=size)}).volumes
    assert volume.kind == "empty"
    assert volumes.allocation_of(volume, frozen=False).doubt


def test_partitions_have_the_names_of_linux():
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 2048, 2048)
    content = disk((446, entry), (510, b"\x55\xaa"))
    layout = volumes.discover({"sda": content, "nvme0n1": content})
    assert [volume.name for volume in layout.volumes] == ["sda1", "nvme0n1p1"]
    assert layout.structure["sda"].tolist() == [[0, MIB]]
    assert layout.gaps["sda"].tolist() == [[2 * MIB, 4 * MIB]]
    assert layout.free["sda"].tolist() == []


def test_an_mbr_of_4096_byte_sectors_is_found_out():
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 256, 256)
    content = disk((446, entry), (510, b"\x55\xaa"), (MIB + 32, b"NXSB"))
    (volume,) = volumes.discover({"vda": content}).volumes
    assert (volume.kind, volume.device.size) == ("apfs", MIB)


def test_hibernation_has_a_signature_of_its_own():
    assert probing.hibernated(disk((4086, b"S1SUSPEND\0")))
    assert not probing.hibernated(disk(SIGNATURES["swap"]))
