import random
import struct
import threading

import numpy as np
import pytest

from ruchu.errors import GuestDamaged
from ruchu.guests.contract import NodeKind
from ruchu.guests.ntfs import boot_sector, compression, file_names, fixups, keeping, reparse, runs


def boot(sector=512, per_cluster=8, sectors=2047, record=-10, index=1, table=4):
    head = bytearray(512)
    head[3:11] = b"NTFS    "
    struct.pack_into("<HB", head, 11, sector, per_cluster)
    struct.pack_into("<QQQb3xb3xQ", head, 40, sectors, table, 8, record, index, 0xABC)
    head[510:] = b"\x55\xaa"
    return bytes(head)


@pytest.mark.parametrize(
    ("per_cluster", "cluster"),
    [(1, 512), (8, 4096), (128, 65536), (256 - 8, 131072), (256 - 12, 2 << 20)],
)
def test_clusters_of_all_sizes(per_cluster, cluster):
    sectors = 40 * cluster // 512 - 1
    found = boot_sector.parse(boot(per_cluster=per_cluster, sectors=sectors, index=-12), 1 << 30)
    assert (found.cluster, found.clusters, found.index) == (cluster, 39, 4096)
    assert found.size == 40 * cluster


@pytest.mark.parametrize(("told", "record"), [(-10, 1024), (-12, 4096), (1, 4096), (4, 16384)])
def test_records_of_all_sizes(told, record):
    assert boot_sector.parse(boot(record=told), 1 << 20).record == record


@pytest.mark.parametrize(
    "wrong",
    [
        {"sector": 100},
        {"sector": 0},
        {"per_cluster": 3},
        {"per_cluster": 0},
        {"per_cluster": 200},
        {"sectors": 0},
        {"sectors": 1 << 60},
        {"record": 0},
        {"record": -3},
        {"record": 127},
        {"record": -127},
        {"index": 0},
        {"table": 1 << 40},
    ],
)
def test_boot_sectors_that_cannot_be(wrong):
    with pytest.raises(GuestDamaged):
        boot_sector.parse(boot(**wrong), 1 << 20)


def test_no_boot_sector():
    assert not boot_sector.looks_like_ntfs(bytes(512))
    with pytest.raises(GuestDamaged, match="no boot sector"):
        boot_sector.parse(bytes(512), 1 << 20)


def protected(content, number=7):
    """Return a block with its update sequence in place, as the disk has it."""
    block = bytearray(content)
    count = len(block) // 512 + 1
    struct.pack_into("<4sHH", block, 0, b"FILE", 48, count)
    struct.pack_into("<H", block, 48, number)
    whole = bytes(block)
    for index in range(1, count):
        end = 512 * index
        block[48 + 2 * index : 50 + 2 * index] = block[end - 2 : end]
        struct.pack_into("<H", block, end - 2, number)
    return bytes(block), whole


def test_fixups_give_the_last_bytes_back():
    content = bytearray(random.Random(1).randbytes(4096))
    raw, whole = protected(content)
    found = fixups.undone(raw, "this")
    assert found[:48] == whole[:48]
    assert found[66:] == whole[66:]


@pytest.mark.parametrize("at", [510, 1022, 2047])
def test_fixups_notice_torn_writes(at):
    raw, _ = protected(bytes(2048))
    torn = bytearray(raw)
    torn[at] ^= 1
    with pytest.raises(GuestDamaged, match="in part only"):
        fixups.undone(bytes(torn), "this")


@pytest.mark.parametrize(("table", "count"), [(48, 4), (48, 0), (4000, 5), (2, 5), (48, 6)])
def test_fixups_have_a_place(table, count):
    raw = bytearray(protected(bytes(2048))[0])
    struct.pack_into("<HH", raw, 4, table, count)
    with pytest.raises(GuestDamaged, match="table"):
        fixups.undone(bytes(raw), "this")


def test_runs():
    # The example of the Linux-NTFS documentation, and one with a hole and a step back.
    assert list(runs.decoded(bytes.fromhex("2118345600"), 4096, 1 << 20)) == [(0x18, 0x5634)]
    packed = bytes.fromhex("2130200101201120e000")
    assert list(runs.decoded(packed, 4096, 1 << 20)) == [
        (0x30, 0x120),
        (0x20, runs.HOLE),
        (0x20, 0x100),
    ]


@pytest.mark.parametrize(
    "packed",
    ["21", "2118", "210034 5600", "2118ffff", "2118ff7f", "1108ff", "0f" + "ff" * 15, "f1" + "00"],
)
def test_runs_that_cannot_be(packed):
    with pytest.raises(GuestDamaged):
        list(runs.decoded(bytes.fromhex(packed), 4096, 0x5640))


def collected(*parts):
    collector = runs.RunCollector(4096, 1000)
    for first, packed in parts:
        collector.add(first, bytes.fromhex(packed))
    return collector.rows()


def test_runs_that_touch_are_one():
    rows = collected((0, "1110100001"), (16, "11042000"), (20, "0103010200"))
    assert rows.tolist() == [[0, 20 * 4096, 16 * 4096], [20 * 4096, 25 * 4096, runs.HOLE]]


def test_parts_must_follow_one_another():
    with pytest.raises(GuestDamaged, match="goes on"):
        collected((0, "111010"), (17, "110420"))


def test_pieces_of_runs():
    rows = np.array([[0, 10, 100], [10, 20, runs.HOLE], [20, 40, 5]], np.int64)
    assert list(runs.pieces(rows, 5, 25)) == [(5, 10, 105), (10, 20, runs.HOLE), (20, 25, 5)]
    assert list(runs.pieces(rows, 30, 90)) == [(30, 40, 15)]
    assert list(runs.pieces(rows[:0], 0, 5)) == []
    assert list(runs.pieces(rows, 7, 7)) == []
    many = np.array([[n, n + 1, 2 * n] for n in range(10_000)], np.int64)
    assert list(runs.pieces(many, 4000, 9000)) == [(n, n + 1, 2 * n) for n in range(4000, 9000)]


def chunk(body, *, packed=True):
    return struct.pack("<H", (0x8000 if packed else 0) | 0x3000 | (len(body) - 1)) + body


def test_compression_of_repeats_and_literals():
    # One literal, then "4 + 3 bytes, 1 back": positions below 17 have 12 bits of length.
    body = b"\x02a" + struct.pack("<H", (0 << 12) | 4)
    assert compression.decompressed(chunk(body), 100) == b"a" * 8 + bytes(92)
    body = b"\x04ab" + struct.pack("<H", (1 << 12) | 2)
    assert compression.decompressed(chunk(body), 10) == b"abababa" + bytes(3)
    body = b"\x00abcdefgh\x01" + struct.pack("<H", (7 << 12) | 0)
    assert compression.decompressed(chunk(body), 11) == b"abcdefghabc"


def test_compression_of_whole_chunks():
    rng = random.Random(2)
    plain = rng.randbytes(4096)
    packed = chunk(plain, packed=False) + chunk(b"\x02b" + struct.pack("<H", 4092)) + b"\0\0"
    assert compression.decompressed(packed, 16384) == plain + b"b" * 4096 + bytes(8192)


def test_a_short_chunk_is_filled_up():
    packed = chunk(b"\x00x") + chunk(b"\x00y")
    found = compression.decompressed(packed, 8192)
    assert found[:2] == b"x\0"
    assert found[4096:4098] == b"y\0"
    assert len(found) == 8192


@pytest.mark.parametrize(
    "packed",
    [
        chunk(b"\x01" + struct.pack("<H", 0)),
        chunk(b"\x02a" + struct.pack("<H", 1 << 12)),
        chunk(b"\x02a" + struct.pack("<H", 4095)),
        chunk(b"\x02a\x00"),
        chunk(b"\x00" * 4096)[:3000],
        chunk(b"\x02a" + struct.pack("<H", 4092) + b"bcdefg"),
    ],
)
def test_compression_that_cannot_be(packed):
    with pytest.raises(GuestDamaged):
        compression.decompressed(packed, 4096)


def reparse_data(tag, there, shown, extra=b""):
    one, two = there.encode("utf-16-le"), shown.encode("utf-16-le")
    body = struct.pack("<HHHH", 0, len(one), len(one), len(two)) + extra + one + two
    return struct.pack("<IHH", tag, len(body), 0) + body


@pytest.mark.parametrize(
    ("there", "shown", "target"),
    [
        ("\\??\\C:\\Users", "C:\\Users", b"C:/Users"),
        ("\\??\\C:\\Users\\Ö", "", "C:/Users/Ö".encode()),
        ("\\??\\UNC\\server\\share", "", b"//server/share"),
        ("\\??\\Volume{a}\\", "", b"Volume{a}/"),
        ("..\\a b\\\ud800", "", b"../a b/\xed\xa0\x80"),
    ],
)
def test_targets_of_links(there, shown, target):
    def data(tag, extra=b""):
        one = there.encode("utf-16-le", "surrogatepass")
        two = shown.encode("utf-16-le")
        body = struct.pack("<HHHH", 0, len(one), len(one), len(two)) + extra + one + two
        return struct.pack("<IHH", tag, len(body), 0) + body

    assert reparse.target(data(reparse.MOUNT_POINT)) == target
    assert reparse.target(data(reparse.SYMLINK, bytes(4))) == target


def test_link_of_linux_on_windows():
    data = struct.pack("<IHHI", 0xA000001D, 4 + 7, 0, 2) + b"../\xe4\xb8\xadx"
    assert reparse.target(data) == b"../\xe4\xb8\xadx"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(8),
        struct.pack("<IHH", reparse.WOF, 8, 0) + bytes(8),
        struct.pack("<IHH", reparse.SYMLINK, 8, 0) + bytes(8),
        reparse_data(reparse.MOUNT_POINT, "abc", "def")[:-2],
        struct.pack("<IHHHHHH", reparse.MOUNT_POINT, 8, 0, 0, 9, 0, 0),
    ],
)
def test_reparse_points_that_are_no_links(data):
    with pytest.raises(GuestDamaged):
        reparse.target(data)


def test_special_files_of_interix():
    assert reparse.interix_kind(b"IntxLNK\1a\0") is NodeKind.SYMLINK
    assert reparse.interix_target(b"IntxLNK\1a\0b\0") == b"ab"
    assert reparse.interix_kind(b"") is NodeKind.FILE
    data = b"IntxBLK\0" + struct.pack("<QQ", 259, 7)
    assert reparse.interix_kind(data) is NodeKind.BLOCK_DEVICE
    assert reparse.interix_device(data) == (259, 7)
    assert reparse.interix_device(data[:20]) == (0, 0)


def named(name, node=70, flags=0x20, tag=0, space=1, size=0):
    packed = name.encode("utf-16-le", "surrogatepass")
    key = bytes(48) + struct.pack("<QIIBB", size, flags, tag, len(packed) // 2, space) + packed
    return struct.pack("<QHHHH", node | 5 << 48, 16 + len(key), len(key), 0, 0) + key


def listed(*entries, below=0):
    starts, at = [], 0
    for entry in entries:
        starts.append(at)
        at += len(entry)
    return [
        (e.name, e.kind, e.node) for e in file_names.shown(b"".join(entries), starts, below=below)
    ]


def test_names():
    found = listed(
        named("文件\ud800", flags=0x1),
        named("FILE~1", space=2),
        named("dir", flags=0x10000010, node=71),
        named("junction", flags=0x10000410, tag=reparse.MOUNT_POINT, node=72),
        named("cloud", flags=0x10000400, tag=0x9000001A),
        named("overlaid", flags=0x400, tag=reparse.WOF),
        named("IO.SYS", flags=0x4),
        named("pagefile.sys", flags=0x6, size=1 << 30),
    )
    assert found == [
        ("文件".encode() + b"\xed\xa0\x80", NodeKind.FILE, 70),
        (b"dir", NodeKind.DIRECTORY, 71),
        (b"junction", NodeKind.SYMLINK, 72),
        (b"cloud", NodeKind.DIRECTORY, 70),
        (b"overlaid", NodeKind.FILE, 70),
        (b"IO.SYS", NodeKind.OTHER, 70),
        (b"pagefile.sys", NodeKind.FILE, 70),
    ]


def test_metadata_files_are_not_shown():
    root = [named("$MFT", node=0), named(".", node=5), named("$RECYCLE.BIN", node=40)]
    assert [name for name, _, _ in listed(*root, below=24)] == [b"$RECYCLE.BIN"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../../etc/passwd", "nul\0"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(GuestDamaged):
        listed(named(name))


def test_names_that_are_cut_off():
    entry = bytearray(named("some name"))
    entry[16 + 64] = 200
    with pytest.raises(GuestDamaged, match="cut off"):
        listed(bytes(entry))


def test_kept_values_go_when_there_is_no_room():
    kept = keeping.Kept(100, len)
    made = []

    def make(key):
        made.append(key)
        return bytes(40)

    for key in (1, 2, 1, 3, 1, 2):
        kept.get(key, lambda key=key: make(key))
    assert made == [1, 2, 3, 2]


def test_kept_values_in_several_threads():
    kept = keeping.Kept(1000, len)
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(2000):
            key = rng.randrange(50)
            if kept.get(key, lambda key=key: bytes([key]) * 40) != bytes([key]) * 40:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
