"""What may be left out of a guest's disks: never a byte that any volume counts."""

import os
import struct
import subprocess

import numpy as np
import pytest

from ruchu.errors import GuestDamaged, NotFound, StorageError
from ruchu.guests import ext, extraction, ntfs, ranges, volumes
from ruchu.guests.contract import Entry, NodeKind, Stat
from ruchu.protection import trimming
from ruchu.testing import disk_layouts
from ruchu.testing.disk_layouts import linear, volume
from ruchu.testing.memory_disk import MemoryDisk
from ruchu.units import KIB, MIB

ALL = frozenset(extraction.REASONS)
UUIDS = {"pv0": "0" * 32, "pv1": "1" * 32}
CHUNK = 64 * KIB
HIBERNATED = b"hibr" + bytes(4092)


def run(*words):
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, env=environment
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def blank(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """8 MiB of ext4 in which every block that is free holds something all the same."""
    folder = tmp_path_factory.mktemp("ext")
    (folder / "tree").mkdir()
    (folder / "tree" / "file").write_bytes(os.urandom(2 * MIB))
    path = folder / "image"
    path.write_bytes(os.urandom(8 * MIB))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", 4096, "-d", folder / "tree", path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def emptied(extended, tmp_path_factory):
    """The same after its only file was removed."""
    path = tmp_path_factory.mktemp("emptied") / "image"
    path.write_bytes(extended)
    run("debugfs", "-w", "-R", "rm /file", path)
    return path.read_bytes()


def windows(folder, **files):
    path = blank(folder / "image", 8 * MIB)
    run("mkntfs", "-q", "-F", "-f", "-c", 4096, path)
    for name, content in files.items():
        source = folder / name
        source.write_bytes(content)
        run("ntfscp", "-q", path, source, f"{name}.sys" if len(name) > 1 else name)
    return path.read_bytes()


@pytest.fixture(scope="module")
def ntfs_image(tmp_path_factory):
    sizes = {"pagefile": MIB, "hiberfil": MIB // 2, "swapfile": MIB // 4, "a": MIB // 2}
    files = {name: bytes(4096) + os.urandom(size - 4096) for name, size in sizes.items()}
    return windows(tmp_path_factory.mktemp("ntfs"), **files)


def swap(size=4 * MIB, magic=b"SWAPSPACE2", order="<", page=4096, pages=None):
    content = bytearray(os.urandom(size))
    content[:page] = bytes(page)
    content[1024:1036] = struct.pack(order + "III", 1, (pages or size // page) - 1, 0)
    content[page - 10 : page] = magic.ljust(10, b"\0")
    return bytes(content)


def used(module, image):
    """Return which bytes an image by itself says that it uses."""
    found = module.allocation(MemoryDisk(image), frozen=False)
    assert found.doubt == ""
    return marked(found.used, len(image))


def marked(found, size):
    bits = np.zeros(size, bool)
    for first, end in found.tolist():
        bits[first:end] = True
    return bits


def placed(size, *parts):
    """Return a disk with contents at places, noise elsewhere."""
    content = bytearray(os.urandom(size))
    content[:MIB] = bytes(MIB)
    for start, part in parts:
        content[start : start + len(part)] = part
    return content


def partitioned(*parts, size=0):
    """Return a disk of partitions: start in MiB, content, type, and more MiB than the content."""
    rows = [(start * MIB, len(content) + more * MIB, kind) for start, content, kind, more in parts]
    size = size or max(start + length for start, length, _ in rows) + 2 * MIB
    disk = placed(size, *((start * MIB, content) for start, content, _, _ in parts))
    return disk_layouts.with_mbr(disk, rows)


def left(*contents, reasons=ALL, frozen=False):
    """Return what is left out of each disk, as bits, and all doubts; reasons never overlap."""
    disks = {
        f"vd{letter}": MemoryDisk(bytes(one)) for letter, one in zip("abc", contents, strict=False)
    }
    found = extraction.in_use(disks, reasons, frozen=frozen)
    masks = []
    for key, disk in disks.items():
        each = found[key].left_out
        assert set(each) <= reasons
        mask = marked(ranges.union(*each.values()) if each else ranges.empty(), disk.size)
        assert mask.sum() == sum(ranges.total(one) for one in each.values())
        masks.append(mask)
    return masks, [text for one in found.values() for text in one.doubts]


def found_of(content, reasons=ALL, *, frozen=False):
    return extraction.in_use({"vda": MemoryDisk(bytes(content))}, reasons, frozen=frozen)["vda"]


# ------------------------------------------------------------------------------------- one disk


def test_every_reason_takes_what_is_its_own(extended, ntfs_image):
    disk = partitioned((1, extended, 0x83, 0), (9, swap(), 0x82, 0), (14, ntfs_image, 7, 0))
    found = found_of(disk)
    assert found.doubts == []
    totals = {reason: ranges.total(each) for reason, each in found.left_out.items()}
    assert totals["swap"] == 4 * MIB - 4096
    assert (totals["pagefile"], totals["hiberfil"], totals["swapfile"]) == (
        MIB, MIB // 2, MIB // 4,
    )  # fmt: skip
    # Between the partitions one MiB; at the end two, of which one is kept.
    assert found.left_out["gaps"].tolist() == [[13 * MIB, 14 * MIB], [22 * MIB, 23 * MIB]]
    free = marked(found.left_out["free"], len(disk))
    assert (free[MIB : 9 * MIB] == ~used(ext, extended)).all()
    assert (free[14 * MIB : 22 * MIB] == ~used(ntfs, ntfs_image)).all()
    for reason in extraction.REASONS:
        alone = found_of(disk, frozenset({reason}))
        wanted = found.left_out.get(reason, ranges.empty())
        assert alone.left_out.get(reason, ranges.empty()).tolist() == wanted.tolist()
        assert set(alone.left_out) <= {reason}
    assert found_of(disk, frozenset()).left_out == {}


def test_a_file_system_on_a_whole_disk(extended):
    (mask,), doubts = left(extended)
    assert doubts == []
    assert (mask == ~used(ext, extended)).all()


def test_what_lies_behind_a_file_system_in_its_partition_counts(extended):
    disk = partitioned((1, extended, 0x83, 3))
    (mask,), _ = left(disk)
    assert mask[MIB : 9 * MIB].any()
    assert not mask[9 * MIB : 12 * MIB].any()


def test_a_disk_that_is_no_whole_number_of_blocks(extended):
    disk = partitioned((1, extended, 0x83, 0), size=15 * MIB + 777 * 512)
    trims = trimming.survey({"vda": MemoryDisk(bytes(disk))}, ALL, 64 * KIB, frozen=False)
    whole = trims["vda"].whole
    assert not (whole % (64 * KIB)).any()
    counts = np.ones(len(disk), bool)
    counts[MIB : 9 * MIB] = used(ext, extended)
    counts[9 * MIB : -MIB] = False
    assert not (marked(whole, len(disk)) & counts).any()


def test_a_disk_without_anything_known_counts(rng):
    (mask,), doubts = left(rng.randbytes(4 * MIB))
    assert not mask.any()
    assert doubts


def test_the_end_of_a_disk_is_never_a_gap(extended):
    disk = partitioned((1, extended, 0x83, 0), size=9 * MIB + 512 * KIB)
    (mask,), _ = left(disk)
    assert not mask[9 * MIB :].any()


@pytest.mark.parametrize(
    ("at", "mark"),
    [
        (0x10000 + 0x55C, b"\x19\x01\x54\x19"),
        (0x100000, b"\x0d\xd0\x01\xc0"),
        (0x10000, b"\x01\x16\x19\x70"),
        (4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
        (-1024, b"Intel Raid ISM Cfg Sig. "),
        (-512, b"\xde\x11\xde\x11"),
        (446, struct.pack("<B3sB3sII", 0, b"", 0x83, b"", 2048, 2048) + bytes(48) + b"\x55\xaa"),
    ],
)
def test_the_signature_of_a_former_file_system_is_not_believed(extended, at, mark):
    """What took its place is there as well."""
    content = bytearray(extended)
    at %= len(content)
    content[at : at + len(mark)] = mark
    (mask,), doubts = left(partitioned((1, bytes(content), 0x83, 0)), reasons=frozenset({"free"}))
    assert not mask.any()
    assert "signatures of" in doubts[0]


def test_a_raid_that_hides_behind_its_end_makes_the_disk_count(extended):
    disk = partitioned((1, extended, 0x83, 0))
    disk[-1024:-1000] = b"Intel Raid ISM Cfg Sig. "
    (mask,), doubts = left(disk)
    assert not mask.any()
    assert "intel-raid" in doubts[0]


# ----------------------------------------------------------------------------------------- swap


@pytest.mark.parametrize("page", [4096, 65536])
@pytest.mark.parametrize("order", "<>")
def test_only_the_header_of_swap_space_counts(page, order):
    (mask,), doubts = left(partitioned((1, swap(order=order, page=page), 0x82, 1)))
    assert doubts == []
    assert not mask[MIB : MIB + page].any()
    assert mask[MIB + page : 5 * MIB].all()
    assert not mask[5 * MIB : 6 * MIB].any()  # behind what its header tells of


def with_mark(content):
    return content[:510] + b"\x55\xaa" + content[512:]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (swap(), 0x83),  # a partition that is of another type
        (with_mark(swap()), 0x82),  # begins with code or a table
        (swap(pages=2000), 0x82),  # larger than its partition
        (swap(pages=5), 0x82),
        (swap(magic=b"SWAP-SPACE", order="<")[:1024] + bytes(4) + swap()[1028:], 0x82),
    ],
)
def test_what_only_looks_like_swap_space_counts(content, kind):
    (mask,), doubts = left(partitioned((1, content, kind, 0)), reasons=frozenset({"swap"}))
    assert not mask.any()
    assert "swap" in doubts[0]


def test_nothing_of_a_hibernated_linux_is_left_out(extended):
    """Its memory holds what its file systems do not, and its other swap space is a part of it."""
    sleeping = partitioned((1, swap(magic=b"S1SUSPEND"), 0x82, 0))
    awake = partitioned((1, extended, 0x83, 0), (9, swap(), 0x82, 0))
    masks, doubts = left(sleeping, awake, reasons=ALL - {"gaps"})
    assert not any(mask.any() for mask in masks)
    assert len(doubts) == 3
    masks, doubts = left(partitioned((1, swap(), 0x82, 0)), awake, reasons=ALL - {"gaps"})
    assert all(mask.any() for mask in masks)
    assert doubts == []


def test_nothing_of_a_hibernated_windows_is_left_out(tmp_path, ntfs_image):
    content = HIBERNATED + os.urandom(MIB // 2)
    sleeping = windows(tmp_path, hiberfil=content)
    masks, doubts = left(sleeping, ntfs_image, frozen=True)
    assert not any(mask.any() for mask in masks)
    assert "hibernated" in doubts[0]
    assert "hibernated" in doubts[1]


# ---------------------------------------------------------------------------- files of Windows


class Files:
    """A file system of few files: name → (kind, links, where it lies or an error)."""

    root = 5

    def __init__(self, files, below=None):
        self._files = dict(enumerate(files, 100))
        self._below = below or {}

    def entries(self, node):
        numbers = self._files if node == self.root else self._below[node]
        for number in numbers:
            name, kind, *_ = self._files[number]
            yield Entry(name, number, kind)

    def stat(self, node):
        return Stat(self._files[node][1], 0, 0, 0, links=self._files[node][2])

    def placed(self, node):
        where = self._files[node][3]
        if isinstance(where, Exception):
            raise where
        return where if where is None else ranges.of_pairs([where])


def offered(system, *wanted):
    return [
        (reason, where.tolist())
        for reason, where in extraction._placed_files(system, frozenset(wanted))
    ]


def test_files_of_windows_are_found_whatever_their_case():
    system = Files(
        [
            (b"PageFile.sys", NodeKind.FILE, 1, (0, 10)),
            (b"hiberfil.sys", NodeKind.DIRECTORY, 1, (10, 20)),
            (b"swapfile.sys", NodeKind.FILE, 2, (20, 30)),
            (b"SWAPFILE.SYS", NodeKind.FILE, 1, None),
            (b"pagefile.sys", NodeKind.SYMLINK, 1, (30, 40)),
            (b"other.sys", NodeKind.FILE, 1, (40, 50)),
        ]
    )
    assert offered(system, "pagefile", "hiberfil", "swapfile") == [("pagefile", [[0, 10]])]
    assert offered(system, "hiberfil", "recycle-bin") == []


def test_a_recycle_bin_is_walked_once_and_not_beyond_its_limits(monkeypatch):
    files = [
        (b"$Recycle.Bin", NodeKind.DIRECTORY, 1, None),
        (b"$R1.txt", NodeKind.FILE, 1, (0, 10)),
        (b"$R2.txt", NodeKind.FILE, 2, (10, 20)),  # has another name outside
        (b"folder", NodeKind.DIRECTORY, 1, None),
        (b"junction", NodeKind.SYMLINK, 1, (20, 30)),
        (b"inside", NodeKind.FILE, 1, (30, 40)),
    ]
    below = {100: [101, 102, 103, 104], 103: [105, 101, 100, 103]}
    system = Files(files, below)
    numbers = dict(system._files)
    system.entries = lambda node: (
        Entry(numbers[at][0], at, numbers[at][1]) for at in ([100] if node == 5 else below[node])
    )
    assert offered(system, "recycle-bin") == [
        ("recycle-bin", [[0, 10]]),
        ("recycle-bin", [[30, 40]]),
    ]
    monkeypatch.setattr(extraction, "BIN_ENTRIES_MAX", 3)
    assert offered(system, "recycle-bin") == []


@pytest.mark.parametrize("error", [NotFound("(x)"), GuestDamaged("(x)")])
def test_a_file_that_cannot_be_looked_at_keeps_all_of_them(monkeypatch, ntfs_image, error):
    system = Files(
        [
            (b"pagefile.sys", NodeKind.FILE, 1, (0, 10)),
            (b"hiberfil.sys", NodeKind.FILE, 1, error),
        ]
    )
    monkeypatch.setattr(volumes, "open_file_system", lambda _: system)
    found = found_of(ntfs_image)
    assert set(found.left_out) == {"free"}
    assert "could not be looked at" in found.doubts[0]


@pytest.mark.parametrize("case", ["twice", "free"])
def test_files_that_share_clusters_or_lie_where_nothing_is_make_all_count(
    monkeypatch, ntfs_image, case
):
    taken = np.flatnonzero(used(ntfs, ntfs_image))
    free = np.flatnonzero(~used(ntfs, ntfs_image))
    at = int(taken[0] if case == "twice" else free[0])
    where = ranges.of_pairs([(at, at + 4096)])
    places = [("pagefile", where), ("hiberfil", where)][: 2 if case == "twice" else 1]
    monkeypatch.setattr(extraction, "_placed_files", lambda *_: places)
    (mask,), doubts = left(ntfs_image)
    assert not mask.any()
    assert "where others do" in doubts[0]


def test_an_unreadable_disk_is_an_error_and_not_a_doubt(extended):
    disk = MemoryDisk(extended)
    disk.error = StorageError("gone")
    with pytest.raises(StorageError):
        extraction.in_use({"vda": disk}, ALL, frozen=False)


# ------------------------------------------------------------------------------- volume groups


def grouped(text, *contents, size=24 * MIB):
    """Return two physical volumes of a group, with contents (disk, MiB, bytes) on them."""
    made = []
    for number in range(2):
        disk = bytearray(os.urandom(size))
        disk[:MIB] = bytes(MIB)
        for where, at, content in contents:
            if where == number:
                disk[at * MIB : at * MIB + len(content)] = content
        made.append(disk_layouts.with_label(disk, UUIDS[f"pv{number}"], text))
    return made


def group(text, size=24 * MIB):
    return disk_layouts.group("vg", {key: (uuid, size) for key, uuid in UUIDS.items()}, text)


def test_a_volume_over_two_disks(extended):
    text = group(volume("lv", linear("pv0", 2, 5), linear("pv1", 10, 3)))
    contents = (0, 3, extended[: 5 * MIB]), (1, 11, extended[5 * MIB :])
    (first, second), doubts = left(*grouped(text, *contents))
    assert doubts == []
    free = ~used(ext, extended)
    assert (first[3 * MIB : 8 * MIB] == free[: 5 * MIB]).all()
    assert (second[11 * MIB : 14 * MIB] == free[5 * MIB :]).all()
    for mask, inside in ((first, (3, 8)), (second, (11, 14))):
        assert not mask[:MIB].any()
        assert mask[MIB : inside[0] * MIB].all()
        assert mask[inside[1] * MIB :].all()


def test_of_a_group_that_lacks_a_disk_nothing_is_left_out(extended):
    text = group(volume("lv", linear("pv0", 2, 8)) + volume("other", linear("pv1", 0, 2)))
    first, second = grouped(text, (0, 3, extended))
    (mask,), doubts = left(first)
    assert not mask.any()
    assert any("lacks pv1" in doubt for doubt in doubts)
    masks, _ = left(first, second)
    assert all(mask.any() for mask in masks)


def test_what_a_snapshot_reads_from_its_origin_counts(extended):
    """The origin calls a block free whose file is still there in the snapshot."""
    text = (
        volume("root", linear("pv0", 0, 8))
        + volume("cow", linear("pv0", 9, 2), visible=False)
        + volume(
            "snapshot0",
            'extent_count = 8 type = "snapshot" chunk_size = 8 origin = "root" cow_store = "cow"',
        )
    )
    (mask, _), doubts = left(*grouped(group(text), (0, 1, extended)))
    assert not mask[: 9 * MIB].any()
    assert not mask[10 * MIB : 12 * MIB].any()
    assert any("vg/root: a snapshot reads from it" in doubt for doubt in doubts)


def thin_metadata(folder, devices, chunks):
    inner = ""
    for number, mapping in devices.items():
        rows = "".join(
            f'<single_mapping origin_block="{at}" data_block="{to}" time="0"/>'
            for at, to in sorted(mapping.items())
        )
        inner += (
            f'<device dev_id="{number}" mapped_blocks="{len(mapping)}" transaction="0" '
            f'creation_time="0" snap_time="0">{rows}</device>'
        )
    xml, path = folder / "thin.xml", blank(folder / "thin", MIB)
    xml.write_text(
        '<superblock uuid="" time="0" transaction="0" version="2" data_block_size="128" '
        f'nr_data_blocks="{chunks}">{inner}</superblock>'
    )
    run("thin_restore", "-i", xml, "-o", path)
    return path.read_bytes()


@pytest.mark.parametrize("second", ["known", "unknown", "merging", "hidden"])
def test_what_is_free_in_one_thin_volume_may_be_in_use_in_another(
    tmp_path, extended, emptied, second
):
    """The first was made from the second, then its only file was removed."""
    data = bytearray()
    mapping, shared = {}, {}
    for at in range(0, len(extended), CHUNK):
        mapping[at // CHUNK] = len(data) // CHUNK
        data += extended[at : at + CHUNK]
        if extended[at : at + CHUNK] == emptied[at : at + CHUNK]:
            shared[at // CHUNK] = mapping[at // CHUNK]
        else:
            shared[at // CHUNK] = len(data) // CHUNK
            data += emptied[at : at + CHUNK]
    extents = -(-len(data) // MIB) + 1
    metadata = thin_metadata(tmp_path, {1: shared, 2: mapping}, extents * MIB // CHUNK)
    thin = 'extent_count = 8 type = "thin" thin_pool = "pool"'
    more = 'merge = "t1"' if second == "merging" else ""
    text = (
        volume("tm", linear("pv1", 0, 1), visible=False)
        + volume("td", linear("pv0", 0, extents), visible=False)
        + volume(
            "pool",
            f'extent_count = {extents} type = "thin-pool" metadata = "tm" pool = "td" '
            "transaction_id = 0 chunk_size = 128",
        )
        + volume("t1", f"{thin} device_id = 1")
    )
    if second != "unknown":
        text += volume("t2", f"{thin} device_id = 2 {more}", visible=second != "hidden")
    (mask, _), doubts = left(*grouped(group(text), (0, 1, bytes(data)), (1, 1, metadata)))
    assert doubts == []
    inside = mask[MIB : MIB + len(data)]
    counts, counts_less = used(ext, extended), used(ext, emptied)
    assert counts.sum() > counts_less.sum() + MIB
    for at, to in mapping.items():
        part = slice(at * CHUNK, at * CHUNK + CHUNK)
        assert not (inside[to * CHUNK : to * CHUNK + CHUNK] & counts[part]).any()
    for at, to in shared.items():
        part = slice(at * CHUNK, at * CHUNK + CHUNK)
        assert not (inside[to * CHUNK : to * CHUNK + CHUNK] & counts_less[part]).any()
    # Chunks of no volume are free; and so is what both call free, where both can be asked.
    assert mask[MIB + len(data) : (1 + extents) * MIB].all()
    assert inside.any() == (second == "known")


def test_a_volume_with_a_part_on_a_doubtful_disk_counts(extended):
    text = group(volume("lv", linear("pv0", 2, 5), linear("pv1", 2, 3)))
    first, second = grouped(text, (0, 3, extended[: 5 * MIB]), (1, 3, extended[5 * MIB :]))
    # The first is a partition of a disk that says of itself that it is something else too.
    disk = partitioned((1, bytes(first), 0x8E, 0))
    disk[4096 : 4096 + 4] = b"\xfc\x4e\x2b\xa9"
    (whole, mask), doubts = left(disk, second)
    assert not whole.any()
    assert not mask[3 * MIB : 6 * MIB].any()
    assert any("a part of it lies on vda" in doubt for doubt in doubts)


# ------------------------------------------------------------------------------ random layouts


def drawn(rng, size, contents):
    """Return a disk of random partitions, and which of its bytes count."""
    disk = bytearray(os.urandom(size))
    disk[:512] = bytes(512)
    counts = np.zeros(size, bool)
    rows, at = [], rng.choice([63, 2048, 4096]) * 512
    first = at
    for _ in range(rng.randrange(1, 5)):
        content, used_of, kind = rng.choice(contents)
        length = len(content) + rng.choice([0, 0, 512, 7 * 512, MIB])
        if at + length > size - MIB:
            break
        disk[at : at + len(content)] = content
        counts[at : at + len(content)] = used_of
        counts[at + len(content) : at + length] = True
        rows.append((at, length, kind))
        at += length + rng.choice([0, 512, 33 * 512, MIB])
    counts[: first if rows else size] = True
    counts[-MIB:] = True
    return disk_layouts.with_mbr(disk, rows), counts


def test_of_random_layouts_every_byte_that_counts_is_kept(rng, extended, emptied, ntfs_image):
    space = np.zeros(4 * MIB, bool)
    space[:4096] = True
    crypt = b"LUKS\xba\xbe\0\2" + bytes(504) + rng.randbytes(MIB)
    files = extraction.in_use({"n": MemoryDisk(ntfs_image)}, ALL - {"free"}, frozen=False)["n"]
    windows_used = used(ntfs, ntfs_image)
    windows_used &= ~marked(ranges.union(*files.left_out.values()), len(ntfs_image))
    contents = [
        (extended, used(ext, extended), 0x83),
        (emptied, used(ext, emptied), 0x83),
        (ntfs_image, windows_used, 7),
        (swap(), space, 0x82),
        (crypt, np.ones(len(crypt), bool), 0x83),
    ]
    saved = 0
    for _ in range(25):
        size = rng.randrange(16, 40) * MIB + rng.randrange(4) * 512
        disk, counts = drawn(rng, size, contents)
        reasons = frozenset(rng.sample(extraction.REASONS, rng.randrange(1, 8)))
        (mask,), _ = left(disk, reasons=reasons)
        assert not (mask & counts).any()
        block = rng.choice([4, 64, 1024]) * KIB
        (trim,) = trimming.survey(
            {"vda": MemoryDisk(bytes(disk))}, reasons, block, frozen=False
        ).values()
        whole = marked(trim.whole, size)
        assert not (whole & ~mask).any()
        saved += int(whole.sum())
    assert saved > 100 * MIB


def test_of_random_groups_every_byte_that_counts_is_kept(rng, extended, emptied):
    saved = 0
    for _ in range(10):
        pieces = [("pv0", at) for at in range(23)] + [("pv1", at) for at in range(23)]
        rng.shuffle(pieces)
        text, contents = "", []
        counts = [np.zeros(24 * MIB, bool) for _ in range(2)]
        for mask in counts:
            mask[:MIB] = True
        for number in range(rng.randrange(1, 5)):
            image = rng.choice([extended, emptied])
            bits = used(ext, image)
            mine = [pieces.pop() for _ in range(8)]
            text += volume(f"lv{number}", *(linear(key, first, 1) for key, first in mine))
            for at, (key, first) in enumerate(mine):
                part = slice(at * MIB, at * MIB + MIB)
                where = int(key[-1])
                contents.append((where, first + 1, image[part]))
                counts[where][(first + 1) * MIB : (first + 2) * MIB] |= bits[part]
        masks, doubts = left(*grouped(group(text), *contents))
        assert doubts == []
        for mask, bits in zip(masks, counts, strict=True):
            assert (mask == ~bits).all()
            saved += int(mask.sum())
    assert saved > 100 * MIB
