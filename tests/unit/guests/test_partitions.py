"""Partition tables: made by sfdisk and sgdisk, then damaged."""

import struct
import subprocess
import zlib

import pytest

from ruchu.guests import partitions, ranges
from ruchu.testing.memory_disk import MemoryDisk

MIB = 1 << 20
SIZE = 40 * MIB

MBR = """label: dos
start=2048, size=20480, type=83, bootable
start=24576, size=8192, type=7
start=32768, size=40960, type=5
start=34816, size=4096, type=82
start=47104, size=4096, type=8e
start=61440, size=2048, type=83
"""


def run(*arguments, text=None):
    subprocess.run(arguments, input=text, text=True, check=True, capture_output=True)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@pytest.fixture
def mbr(image):
    run("sfdisk", str(image), text=MBR)
    return bytearray(image.read_bytes())


@pytest.fixture(scope="module")
def gpt_image(tmp_path_factory):
    """A GPT made once: sgdisk waits for the disk."""
    path = tmp_path_factory.mktemp("gpt") / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    parts = ["-n1:2048:+8M", "-t1:ef00", "-n3:0:+16M", "-t3:8300", "-n2:0:+8M", "-t2:8e00"]
    run("sgdisk", *parts, "-c1:EFI 系统", str(path))
    return path


@pytest.fixture
def gpt(gpt_image):
    return bytearray(gpt_image.read_bytes())


def read(content, sector=0):
    return partitions.read_table(MemoryDisk(bytes(content)), sector)


def placed(table):
    return [(part.number, part.start // 512, part.length // 512) for part in table.partitions]


def test_primary_and_logical_partitions_are_where_sfdisk_put_them(mbr):
    table = read(mbr)
    assert (table.scheme, table.doubt) == ("mbr", "")
    assert placed(table) == [
        (1, 2048, 20480),
        (2, 24576, 8192),
        (5, 34816, 4096),
        (6, 47104, 4096),
        (7, 61440, 2048),
    ]
    assert table.partitions[2].role == "Linux swap (0x82)"
    structure = table.structure.tolist()
    assert structure[0] == [0, MIB]
    assert [32768 * 512, 32769 * 512] in structure
    assert len(structure) == 4
    taken = ranges.of_pairs([(part.start, part.end) for part in table.partitions])
    assert ranges.total(ranges.intersection(table.structure, taken, SIZE)) == 0


def test_a_gpt_is_read_with_names_and_types(gpt):
    table = read(gpt)
    assert (table.scheme, table.doubt) == ("gpt", "")
    assert placed(table) == [(1, 2048, 16384), (3, 18432, 32768), (2, 51200, 16384)]
    assert table.partitions[0].label == "EFI 系统"
    assert table.partitions[0].role == "EFI system (c12a7328-f81f-11d2-ba4b-00a0c93ec93b)"
    # Both tables: 34 sectors in front (and all up to the first partition), 33 at the end.
    assert table.structure.tolist() == [[0, MIB], [SIZE - 33 * 512, SIZE]]


@pytest.mark.parametrize("damaged", [[510], [512 + 20], [1024 + 8]])
def test_the_backup_gpt_stands_in(gpt, damaged):
    whole = read(gpt)
    for at in damaged:
        gpt[at] ^= 0xFF
    table = read(gpt)
    assert placed(table) == placed(whole)
    # Without its protective MBR a GPT is not to be trusted.
    assert bool(table.doubt) == (damaged == [510])


def test_both_gpts_damaged_is_a_doubt(gpt):
    gpt[1024 + 8] ^= 1
    gpt[SIZE - 33 * 512 + 8] ^= 1
    table = read(gpt)
    assert table.partitions == ()
    assert "protective" in table.doubt


@pytest.mark.slow
def test_two_intact_gpts_that_differ_are_a_doubt(gpt, image):
    image.write_bytes(gpt)
    old = gpt[SIZE - 33 * 512 :]
    run("sgdisk", "-d2", str(image))
    new = bytearray(image.read_bytes())
    new[SIZE - 33 * 512 :] = old
    assert "differ" in read(new).doubt


def test_a_grown_disk_keeps_its_gpt(gpt):
    table = read(gpt + bytes(MIB))
    assert len(table.partitions) == 3
    assert table.doubt == ""
    assert [SIZE - 33 * 512, SIZE] in table.structure.tolist()


@pytest.mark.slow
def test_a_hybrid_mbr_must_agree_with_its_gpt(gpt, image):
    image.write_bytes(gpt)
    run("sgdisk", "-h", "1:3", str(image))
    agreed = bytearray(image.read_bytes())
    assert read(agreed).doubt == ""
    assert len(read(agreed).partitions) == 3
    at = next(at for at in range(446, 510, 16) if agreed[at + 4] not in {0, 0xEE})
    agreed[at + 12] ^= 1
    assert "MBR has a partition" in read(agreed).doubt


def test_a_gpt_of_4096_byte_sectors_is_found(image):
    content = bytearray(SIZE)
    wide = 4096
    entry = bytes.fromhex("af3dc60f838472478e793d69d8477de4") + bytes(range(16))
    entry += struct.pack("<QQQ", 256, 2047, 0) + "data".encode("utf-16-le").ljust(72, b"\0")
    entries = entry.ljust(128 * 128, b"\0")
    last = SIZE // wide - 1
    for own, other, table in ((1, last, 2), (last, 1, last - 4)):
        header = bytearray(
            struct.pack(
                "<8sIIIIQQQQ16sQIII",
                b"EFI PART",
                0x10000,
                92,
                0,
                0,
                own,
                other,
                6,
                last - 5,
                bytes(16),
                table,
                128,
                128,
                zlib.crc32(entries),
            )
        )
        header[16:20] = struct.pack("<I", zlib.crc32(header))
        content[own * wide : own * wide + 92] = header
        content[table * wide : table * wide + len(entries)] = entries
    content[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, last)
    content[510:512] = b"\x55\xaa"
    table = read(content)
    assert table.doubt == ""
    assert [(part.start, part.length) for part in table.partitions] == [(MIB, 1792 * wide)]


def test_an_mbr_of_4096_byte_sectors_is_read_when_told(mbr):
    wide = bytearray(SIZE)
    wide[:512] = mbr[:512]
    for number, (start, count) in enumerate([(256, 1024), (2048, 4096), (0, 0), (0, 0)]):
        at = 446 + 16 * number
        wide[at : at + 16] = struct.pack(
            "<B3sB3sII", 0, bytes(3), 0x83 if count else 0, bytes(3), start, count
        )
    table = read(wide, 4096)
    assert [(part.start, part.length) for part in table.partitions] == [
        (MIB, 4 * MIB),
        (8 * MIB, 16 * MIB),
    ]


def test_overlap_and_overhang_are_doubts(mbr):
    overlapping = bytearray(mbr)
    overlapping[446 + 16 + 8 : 446 + 16 + 12] = struct.pack("<I", 4096)
    assert "overlaps" in read(overlapping).doubt
    overhanging = bytearray(mbr)
    overhanging[446 + 16 + 12 : 446 + 16 + 16] = struct.pack("<I", 0xFFFFFFFF)
    assert "ends after the disk" in read(overhanging).doubt
    inside = bytearray(mbr)
    inside[446 + 8 : 446 + 12] = struct.pack("<I", 32768)
    assert read(inside).doubt


def test_a_chain_that_leads_in_a_circle_or_outside_is_a_doubt(mbr):
    second = 32768 * 512 + 446 + 16 + 8
    for target in (0, 0x7FFFFFFF):
        mbr[second : second + 4] = struct.pack("<I", target)
        table = read(mbr)
        assert "logical partitions are damaged" in table.doubt
        assert [part.number for part in table.partitions] == [1, 2]


def test_a_dynamic_disk_with_an_mbr_is_a_doubt(mbr):
    mbr[446 + 4] = 0x42
    assert "LDM" in read(mbr).doubt


def test_a_dynamic_disk_with_a_gpt_is_a_doubt(gpt):
    run_type = bytes.fromhex("a0609baf3114624fbc683311714a69ad")
    for table, header in ((1024, 512), (SIZE - 33 * 512, SIZE - 512)):
        gpt[table : table + 16] = run_type
        crc = zlib.crc32(gpt[table : table + 128 * 128])
        gpt[header + 88 : header + 92] = struct.pack("<I", crc)
        gpt[header + 16 : header + 20] = bytes(4)
        crc = zlib.crc32(gpt[header : header + 92])
        gpt[header + 16 : header + 20] = struct.pack("<I", crc)
    assert "LDM" in read(gpt).doubt


def test_what_is_no_table_is_none(mbr):
    assert read(bytes(SIZE)).scheme == ""
    assert read(bytes(100)).scheme == ""
    assert read(bytes(510) + b"\x55\xaa" + bytes(MIB)).scheme == ""
    # A boot sector of a file system has code where a table would be.
    mbr[446] = 0x33
    assert read(mbr).scheme == ""
