"""The parts of the XFS reader that need no file system around them."""

import itertools
import struct

import numpy as np
import pytest

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.contract import NodeKind
from ruchu.guests.xfs import checksums, directories, inodes, mapping, superblock, xattrs

BLOCK = 4096
SUPERBLOCK = superblock.Superblock(
    block=BLOCK,
    sector=512,
    inode=512,
    blocks=1900,
    ag_blocks=1000,
    groups=2,
    ag_block_log=10,
    inodes_log=3,
    directory_block=BLOCK,
    log_start=4,
    log_blocks=10,
    root=128,
    realtime=False,
    label=b"",
    uuid=bytes(16),
    meta_uuid=bytes(16),
    crc=False,
    ftype=True,
    incompat=0,
    ro_compat=0,
    unfinished=False,
    intact=True,
)


def record(first, count, where, *, unwritten=False):
    number = unwritten << 127 | first << 73 | where << 21 | count
    return number.to_bytes(16, "big")


def fork(*records):
    return inodes.Fork(inodes.FORMAT_EXTENTS, b"".join(records), len(records))


def mapped(*records):
    return mapping.of_fork(None, SUPERBLOCK, fork(*records), 5)


@pytest.mark.parametrize("length", [12, 328, 512, 1000, 4096])
def test_a_row_that_changed_is_noticed(rng, length):
    rows = np.frombuffer(rng.randbytes(3 * length), np.uint8).reshape(3, -1).copy()
    rows[:, 4:8] = 0
    rows[:, 4:8] = (~crc32c.registers(rows)).view(np.uint8).reshape(3, 4)
    assert checksums.right(rows, 4)
    rows[1, rng.randrange(8, length)] ^= 0x10
    assert not checksums.right(rows, 4)
    assert checksums.right(rows[:1], 4)


def test_extents_are_decoded_and_neighbours_made_one():
    # The second group begins at number 1024, which is block 1000.
    found = mapped(record(0, 10, 20), record(10, 5, 30), record(20, 3, 1024 + 7))
    assert found.rows.tolist() == [[0, 15, 20, 1], [20, 3, 1007, 1]]
    assert found.placed().tolist() == [[20 * BLOCK, 35 * BLOCK], [1007 * BLOCK, 1010 * BLOCK]]


def test_what_was_never_written_reads_as_zeros():
    found = mapped(record(0, 2, 20), record(2, 2, 22, unwritten=True), record(8, 1, 50))
    pieces = [(piece.start, piece.end, piece.address) for piece in found.pieces(100, 10 * BLOCK)]
    assert pieces == [
        (100, 2 * BLOCK, 20 * BLOCK + 100),
        (2 * BLOCK, 4 * BLOCK, -1),
        (4 * BLOCK, 8 * BLOCK, -1),
        (8 * BLOCK, 9 * BLOCK, 50 * BLOCK),
        (9 * BLOCK, 10 * BLOCK, -1),
    ]
    assert list(found.mapped(100)) == [(0, 2), (8, 9)]


def test_pieces_are_found_from_any_place(rng):
    records, at = [], 0
    for _ in range(9000):
        at += rng.choice((1, 2, 5))
        records.append(record(at, 1, rng.randrange(900)))
        at += 1
    found = mapped(*records)
    whole = list(found.pieces(0, at * BLOCK))
    assert whole[0].start == 0
    assert whole[-1].end == at * BLOCK
    assert all(one.end == other.start for one, other in itertools.pairwise(whole))
    for _ in range(50):
        start = rng.randrange(at * BLOCK)
        piece = next(iter(found.pieces(start, at * BLOCK)))
        other = next(part for part in whole if part.start <= start < part.end)
        assert piece.end == other.end
        moved = other.address + start - other.start if other.address >= 0 else -1
        assert piece.address == moved


@pytest.mark.parametrize(
    "records",
    [
        (record(0, 0, 5),),
        (record(0, 10, 995),),
        (record(0, 10, 1024 + 895),),
        (record(0, 1, 2048),),
        (record(5, 5, 10), record(9, 5, 100)),
        (record(5, 5, 10), record(0, 5, 100)),
    ],
)
def test_impossible_extents_are_refused(records):
    with pytest.raises(GuestDamaged):
        mapped(*records)


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(GuestDamaged):
        mapping.of_fork(None, SUPERBLOCK, inodes.Fork(inodes.FORMAT_EXTENTS, bytes(16), 2), 5)
    with pytest.raises(GuestUnsupported):
        mapping.of_fork(None, SUPERBLOCK, inodes.Fork(inodes.FORMAT_EXTENTS, b"", 1 << 40), 5)


def short_directory(*names, wide=False):
    length = 8 if wide else 4
    raw = bytes((len(names), len(names) if wide else 0)) + (128).to_bytes(length, "big")
    for index, name in enumerate(names):
        raw += (
            struct.pack(">BH", len(name), 96) + name + b"\1" + (200 + index).to_bytes(length, "big")
        )
    return inodes.Fork(inodes.FORMAT_LOCAL, raw, 0), len(raw)


@pytest.mark.parametrize("wide", [False, True])
def test_a_directory_in_its_inode(wide):
    content, size = short_directory(b"one", "二".encode(), b"x" * 255, wide=wide)
    found = list(directories.short(SUPERBLOCK, content, size))
    assert [entry.name for entry in found] == [b"one", "二".encode(), b"x" * 255]
    assert [entry.node for entry in found] == [200, 201, 202]
    assert found[0].kind is NodeKind.FILE
    with pytest.raises(GuestDamaged):
        list(directories.short(SUPERBLOCK, content, size - 1))


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b", b"..", b"."])
def test_names_that_no_directory_holds(name):
    content, size = short_directory(name)
    with pytest.raises(GuestDamaged):
        list(directories.short(SUPERBLOCK, content, size))


def attribute(name, value, flags):
    return bytes((len(name), len(value), flags)) + name + value


def short_attributes(*parts):
    body = b"".join(parts)
    return struct.pack(">HBx", 4 + len(body), len(parts)) + body


def test_attributes_have_the_names_of_linux():
    raw = short_attributes(
        attribute(b"plain", b"1", 0),
        attribute(b"root", b"2", 2),
        attribute(b"selinux", b"3", 4),
        attribute(b"parent", b"4", 8),
        attribute(b"half done", b"5", 0x80),
    )
    found = xattrs.shown(xattrs.short(raw))
    assert found == {"user.plain": b"1", "trusted.root": b"2", "security.selinux": b"3"}
    with pytest.raises(GuestDamaged):
        list(xattrs.short(raw[:-1]))


def test_an_acl_has_the_form_of_the_system_call():
    nobody = 0xFFFFFFFF
    entries = [(1, 0, 6), (2, 1000, 4), (4, nobody, 5), (0x10, nobody, 7), (0x20, nobody, 0)]
    raw = struct.pack(">I", len(entries)) + b"".join(
        struct.pack(">IIHxx", *entry) for entry in entries
    )
    found = xattrs.shown(xattrs.short(short_attributes(attribute(b"SGI_ACL_FILE", raw, 2))))
    expected = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, mode, who if tag == 2 else nobody) for tag, who, mode in entries
    )
    assert found == {"system.posix_acl_access": expected}
    with pytest.raises(GuestDamaged):
        xattrs.shown(xattrs.short(short_attributes(attribute(b"SGI_ACL_FILE", raw[:-1], 2))))
    # What a user calls so is nothing but a user's attribute.
    assert list(
        xattrs.shown(xattrs.short(short_attributes(attribute(b"SGI_ACL_FILE", raw, 0))))
    ) == ["user.SGI_ACL_FILE"]
