"""Hostile partition tables, LVM metadata and thin pools: discovery ends, and loses no byte.

Where a checksum would keep a change from being seen it is made right again, as somebody would who
wants to do harm. RUCHU_PROFILE=faults tries many more.
"""

import os
import random
import struct
import subprocess
import zlib

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import lvm_metadata, lvm_thin, ranges, segments, volumes
from ruchu.model.extents import Extent

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 1 << 20
ROUNDS = 1000 if os.environ.get("RUCHU_PROFILE") == "faults" else 100
READS_MAX, BYTES_MAX = 4000, 400 * MIB
STRIKING = [0, 1, 2, 0x7F, 0xFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 48, (1 << 64) - 1]
WORDS = ["0", "1", "-1", "15", "99999999999", '"pv0"', '"pv1"', "[", "]", "{", "}", '"', "thin",
         '"a"', '"pool"', '"striped"', '"raid1"', '"thin"', "#", "=", ""]  # fmt: skip
MBR = """label: dos
start=2048, size=2048, type=83
start=4096, size=10240, type=5
start=6144, size=2048, type=83
start=10240, size=2048, type=83
"""


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


def judged(*contents):
    """Discover, and check that no byte of a disk is lost and that the work is bounded."""
    disks = {f"vd{letter}": Memory(bytes(one)) for letter, one in zip("ab", contents, strict=False)}
    layout = volumes.discover(disks)
    for volume in layout.leaves:
        found = volumes.allocation_of(volume, frozen=False)
        assert not len(found.used) or found.used[-1, 1] <= volume.device.size
    for key, disk in disks.items():
        parts = [layout.structure[key], layout.gaps[key], layout.free[key]]
        parts += [volume.device.everywhere()[key] for volume in layout.on(key)]
        assert ranges.union(*parts).tolist() == [[0, disk.size]]
        kept = ranges.union(*parts[:1], *parts[3:])
        assert ranges.total(ranges.intersection(kept, layout.free[key], disk.size)) == 0
        assert disk.reads < READS_MAX
        assert disk.bytes < BYTES_MAX
    return layout


def struck(content, rng, first, end):
    """Overwrite a few bytes with what is likely to hurt."""
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(first, end)
        width = rng.choice([1, 2, 4, 8])
        value = rng.choice([*STRIKING, rng.getrandbits(64)]) & ((1 << 8 * width) - 1)
        content[at : min(at + width, end)] = value.to_bytes(width, "little")[: end - at]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An MBR with logical partitions, and a GPT."""
    folder = tmp_path_factory.mktemp("tables")
    made = []
    for name, command, text in [
        ("mbr", ["sfdisk"], MBR),
        ("gpt", ["sgdisk", "-n1:0:+1M", "-n2:0:+2M", "-n3:0:+1M"], None),
    ]:
        path = folder / name
        with path.open("wb") as file:
            file.truncate(8 * MIB)
        subprocess.run(
            [*command, str(path)], input=text, text=True, check=True, capture_output=True
        )
        made.append(path.read_bytes())
    return made


def test_hostile_mbrs(tables):
    places = [
        (446, 510),
        (4096 * 512 + 446, 4096 * 512 + 510),
        (8192 * 512 + 446, 8192 * 512 + 510),
    ]
    assert len(judged(tables[0]).volumes) == 3
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        content = bytearray(tables[0])
        struck(content, rng, *rng.choice(places))
        judged(content)


def test_hostile_gpts(tables):
    assert len(judged(tables[1]).volumes) == 3
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        content = bytearray(tables[1])
        where = rng.choice([(446, 510), (512, 512 + 92), (1024, 1024 + 512)])
        struck(content, rng, *where)
        if rng.random() < 0.8:
            count, size = struct.unpack_from("<II", content, 512 + 80)
            if count * size < 1 << 20:
                entries = zlib.crc32(content[1024 : 1024 + count * size])
                content[512 + 88 : 512 + 92] = struct.pack("<I", entries)
            content[512 + 16 : 512 + 20] = bytes(4)
            length = min(512, int.from_bytes(content[524:528], "little"))
            content[512 + 16 : 512 + 20] = struct.pack(
                "<I", zlib.crc32(content[512 : 512 + length])
            )
        judged(content)


# ---------------------------------------------------------------------------------------------- LVM


def physical_volume(name, text):
    content = bytearray(24 * MIB)
    header = name[-1].encode() * 32 + struct.pack("<QQQQQ", len(content), MIB, 0, 0, 0)
    header += struct.pack("<QQQQ", 4096, 65536, 0, 0)
    content[512 : 512 + 32] = struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001")
    content[512 + 32 : 512 + 32 + len(header)] = header
    data = text.encode() + b"\0"
    found = struct.pack("<QQII", 512, len(data), lvm_metadata.checksum(data), 0)
    content[4096 + 4 : 4096 + 40] = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, 4096, 65536)
    content[4096 + 40 : 4096 + 64] = found
    content[4608 : 4608 + len(data)] = data
    return sealed(content)


def sealed(content):
    """Make the checksums of label and header right."""
    content[528:532] = struct.pack("<I", lvm_metadata.checksum(bytes(content[532:1024])))
    content[4096:4100] = struct.pack("<I", lvm_metadata.checksum(bytes(content[4100:4608])))
    return content


def linear(name, where, first, count, *, visible=True):
    status = '"VISIBLE"' if visible else ""
    return (
        f"{name} {{ status = [{status}] segment1 {{ start_extent = 0 extent_count = {count} "
        f'type = "striped" stripe_count = 1 stripes = [ "{where}", {first} ] }} }}\n'
    )


GROUP = (
    'vg { id = "v" seqno = 3 extent_size = 2048 physical_volumes {\n'
    + "".join(
        f'pv{n} {{ id = "{str(n) * 32}" flags = [] pe_start = 2048 pe_count = 23 }}\n'
        for n in range(2)
    )
    + "} logical_volumes {\n"
    + linear("a", "pv0", 0, 3)
    + 'b { status = ["VISIBLE"] segment1 { start_extent = 0 extent_count = 2 type = "striped" '
    'stripe_count = 2 stripe_size = 128 stripes = [ "pv0", 4, "pv1", 0 ] }\n'
    'segment2 { start_extent = 2 extent_count = 1 type = "striped" stripe_count = 1 '
    'stripes = [ "a", 1 ] } }\n'
    + linear("tm", "pv1", 4, 1, visible=False)
    + linear("td", "pv1", 6, 10, visible=False)
    + 'pool { status = ["VISIBLE"] segment1 { start_extent = 0 extent_count = 10 '
    'type = "thin-pool" metadata = "tm" pool = "td" transaction_id = 0 chunk_size = 128 } }\n'
    't { status = ["VISIBLE"] segment1 { start_extent = 0 extent_count = 20 type = "thin" '
    'thin_pool = "pool" device_id = 1 } }\n'
    'r { status = ["VISIBLE"] segment1 { start_extent = 0 extent_count = 2 type = "raid1" '
    'raids = [ "tr", "a" ] } }\n'
    + linear("tr", "pv1", 20, 1, visible=False)
    + "} }\n"
)  # fmt: skip


@pytest.fixture(scope="module")
def thin_metadata(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thin")
    xml, path = folder / "thin.xml", folder / "meta.img"
    rng = random.Random(3)
    blocks = sorted(rng.sample(range(300), 130))
    inner = "".join(
        f'<single_mapping origin_block="{at}" data_block="{to}" time="0"/>'
        for to, at in enumerate(blocks)
    )
    xml.write_text(
        '<superblock uuid="" time="0" transaction="0" version="2" data_block_size="128" '
        f'nr_data_blocks="160"><device dev_id="1" mapped_blocks="130" transaction="0" '
        f'creation_time="0" snap_time="0">{inner}</device><device dev_id="7" mapped_blocks="0" '
        'transaction="0" creation_time="0" snap_time="0"></device></superblock>'
    )
    with path.open("wb") as file:
        file.truncate(MIB)
    subprocess.run(
        ["thin_restore", "-i", str(xml), "-o", str(path)], check=True, capture_output=True
    )
    return path.read_bytes()


def with_thin(metadata, text):
    first, second = (physical_volume(name, text) for name in ("pv0", "pv1"))
    second[5 * MIB : 6 * MIB] = metadata
    return first, second


def test_the_unharmed_group_is_understood(thin_metadata):
    layout = judged(*with_thin(thin_metadata, GROUP))
    reasons = {volume.name: volume.kind for volume in layout.leaves}
    assert set(reasons) == {"vg/a", "vg/b", "vg/t", "vg/r"}
    assert ranges.total(layout.free["vdb"]) == 11 * MIB + (160 - 130) * 65536 - MIB


def test_hostile_lvm_texts(thin_metadata):
    tokens = GROUP.split(" ")
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        changed = list(tokens)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(changed))
            other = rng.choice([*WORDS, rng.choice(tokens)])
            changed[at] = (
                changed[at].replace(rng.choice(changed[at] or " "), other, 1)
                if (rng.random() < 0.2)
                else other
            )
        judged(*with_thin(thin_metadata, " ".join(changed)))


def test_hostile_lvm_headers(thin_metadata):
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        first, second = with_thin(thin_metadata, GROUP)
        struck(first, rng, *rng.choice([(512, 700), (4096, 4096 + 140)]))
        judged(sealed(first) if rng.random() < 0.8 else first, second)


def test_hostile_thin_metadata(thin_metadata):
    salts = {0: 160774}
    blocks = [at for at in range(0, MIB, 4096) if any(thin_metadata[at : at + 4096])]
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        content = bytearray(thin_metadata)
        at = rng.choice(blocks)
        end = rng.choice([at + 64, at + 400, at + 4096])
        old = bytes(content[at : at + 4096])
        salt = lvm_thin._checksum(old) ^ int.from_bytes(old[:4], "little")
        assert at or salt == salts[0]
        struck(content, rng, at + 4, end)
        crc = lvm_thin._checksum(bytes(content[at : at + 4096])) ^ salt
        content[at : at + 4] = crc.to_bytes(4, "little")
        judged(*with_thin(content, GROUP))


def test_thin_nodes_that_point_to_themselves_end(thin_metadata):
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        content = bytearray(thin_metadata)
        # Whatever looks like a node gets an inner node's flags and children that are nodes.
        for at in range(4096, MIB, 4096):
            flags, count, most, size = struct.unpack_from("<I8xIII", content, at + 4)
            if flags != 2 or size != 8 or not count or rng.random() < 0.5:
                continue
            content[at + 4 : at + 8] = struct.pack("<I", 1)
            values = at + 32 + 8 * most
            for number in range(count):
                place = rng.randrange(MIB // 4096)
                content[values + 8 * number : values + 8 * number + 8] = place.to_bytes(8, "little")
            crc = lvm_thin._checksum(bytes(content[at : at + 4096])) ^ 121107
            content[at : at + 4] = crc.to_bytes(4, "little")
        metadata, data = Memory(bytes(content)), Memory(bytes(10 * MIB))
        try:
            pool = lvm_thin.ThinPool(
                segments.whole("m", metadata), segments.whole("d", data), 65536
            )
            pool.volume(1, 20 * MIB)
            pool.used()
        except (GuestDamaged, GuestUnsupported):
            pass
        assert metadata.reads < READS_MAX
