"""Repair from a copy: what is damaged comes back, what cannot come back is named."""

import itertools
import random
import shutil
from pathlib import Path

import pytest
import small_storages
from small_storages import Small
from test_verifying import flipped, full, objects, pack_files, unreadable_points

from ruchu.chunks import codec
from ruchu.errors import StorageError, UsageError
from ruchu.model.ids import new_id
from ruchu.repository import layout, moves, packs, relocating, trash
from ruchu.repository.pack_writing import Prepared
from ruchu.repository.repairing import Repair, repair_chain
from ruchu.repository.repairing_chunks import _fitted
from ruchu.repository.verifying import verify_chain
from ruchu.repository.verifying_findings import Depth
from ruchu.storage.directory import DirectoryStorage


@pytest.fixture(params=["plain", "encrypted"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def small(mode: str, tmp_path: Path, rng: random.Random) -> Small:
    return small_storages.make(tmp_path / "storage", mode, rng)


@pytest.fixture
def copy(small: Small, tmp_path: Path) -> Small:
    shutil.copytree(small.root, tmp_path / "copy")
    return small.at(tmp_path / "copy")


def repaired(small: Small, other: Small, *, bring_back: bool = True) -> Repair:
    chain = small.chain()
    report = verify_chain(chain, Depth.FULL)
    with chain.exclusive("repair") as lock:
        return repair_chain(chain, other.chain(), report, lock, bring_back=bring_back)


def expect_whole(small: Small) -> None:
    """Everything is there again: nothing is found, every point restores, and life goes on."""
    assert full(small).findings == ()
    chain = small.chain()
    points = chain.points()
    assert {head.point for head in points} == set(small.contents)
    for head in points:
        assert small.restored(chain, head) == small.contents[head.point]
    newest = small.contents[points[-1].point]
    head = small.backup(small.chain(), newest[:4096] + b"x" * 4096 + newest[8192:])
    assert small.restored(small.chain(), head) == small.contents[head.point]
    assert full(small).clean


def test_nothing_to_repair(small: Small, copy: Small) -> None:
    assert repaired(small, copy) == Repair()
    expect_whole(small)


def test_flipped_bits_anywhere_in_packs(small: Small, copy: Small, rng: random.Random) -> None:
    for path in pack_files(small):
        content = path.read_bytes()
        for at in rng.sample(range(len(content)), 4):
            path.write_bytes(flipped(content, at, 0xFF))
            done = repaired(small, copy)
            assert done.left == ()
            assert done.damaged_points == ()
            assert done.packs == (path.stem,)
            assert not path.exists()
            assert path.with_suffix(".moved").exists()
            expect_whole(small)
            shutil.rmtree(small.root)
            shutil.copytree(copy.root, small.root)
            small.contents = {
                head.point: small.contents[head.point] for head in small.chain().points()
            }


def test_every_pack_damaged_at_once(small: Small, copy: Small) -> None:
    for path in pack_files(small):
        content = path.read_bytes()
        path.write_bytes(flipped(content, len(content) // 3, 0xFF))
    done = repaired(small, copy)
    assert len(done.packs) == 3
    expect_whole(small)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_truncated_packs(small: Small, copy: Small, share: float) -> None:
    for path in pack_files(small):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
    repaired(small, copy)
    expect_whole(small)


def test_lost_packs(small: Small, copy: Small) -> None:
    for path in pack_files(small):
        path.unlink()
    done = repaired(small, copy)
    assert len(done.packs) == 3
    assert done.damaged_points == ()
    expect_whole(small)


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_table_of_moves_needs_no_other_storage(
    small: Small, copy: Small, *, lost: bool
) -> None:
    (path,) = [path for path in small.files() if path.suffix == ".moved"]
    path.unlink() if lost else path.write_bytes(b"")
    for other in pack_files(copy):
        other.unlink()
    repaired(small, copy)
    expect_whole(small)


def test_a_lost_footer_needs_no_other_storage(small: Small, copy: Small) -> None:
    """Records say themselves how long they are, and what they are."""
    for path in pack_files(small):
        path.write_bytes(path.read_bytes()[:-1])
        (copy.root / path.relative_to(small.root)).unlink()
    done = repaired(small, copy)
    assert done.left == ()
    expect_whole(small)


def test_lost_footer_and_a_lost_record_header(small: Small, copy: Small) -> None:
    """Behind the damaged header, the maps know where the next records are."""
    chain = small.chain()
    for path in pack_files(small):
        entries = chain.reader.entries(chain.table.number(bytes.fromhex(path.stem)))
        content = flipped(path.read_bytes(), int(entries["offset"][0]), 0xFF)
        path.write_bytes(content[:-1])
    repaired(small, copy)
    expect_whole(small)


def test_from_a_copy_with_other_packs(small: Small, copy: Small) -> None:
    """The same chunks lie in other packs at other places there."""
    chain = copy.chain()
    for pack in chain.pack_ids():
        small_storages.compacted(chain, pack)
    for path in pack_files(small):
        path.unlink()
    repaired(small, copy)
    expect_whole(small)


def test_what_the_other_storage_lacks_is_named(small: Small, copy: Small) -> None:
    chain = small.chain()
    newest = chain.points()[-1]
    own = newest.disks[0].root.pack
    path = small.root / layout.pack(chain.id, own)
    entries = chain.reader.entries(chain.table.number(bytes.fromhex(own)))
    (row,) = [row for row, entry in enumerate(entries) if entry["kind"] == packs.KIND_DATA][:1]
    at = int(entries["offset"][row]) + packs.RECORD_BYTES + int(entries["stored"][row]) // 2
    path.write_bytes(flipped(path.read_bytes(), at, 0xFF))
    (copy.root / path.relative_to(small.root)).unlink()
    affected = unreadable_points(small)
    done = repaired(small, copy)
    assert done.packs == ()
    assert path.exists(), "nothing was gained by removing it"
    assert set(done.damaged_points) == affected
    assert len(done.left) == 1
    assert unreadable_points(small) == affected


def test_what_can_be_repaired_of_a_pack_is(small: Small, copy: Small) -> None:
    """Two records are damaged, the copy has one of them."""
    chain = small.chain()
    pack = chain.points()[0].disks[0].root.pack
    path = small.root / layout.pack(chain.id, pack)
    number = chain.table.number(bytes.fromhex(pack))
    entries = chain.reader.entries(number)
    starts = [
        int(entry["offset"]) + packs.RECORD_BYTES
        for entry in entries
        if entry["kind"] == packs.KIND_DATA
    ]
    content = path.read_bytes()
    other = copy.root / path.relative_to(small.root)
    for start in starts[:2]:
        content = flipped(content, start, 0xFF)
    path.write_bytes(content)
    other.write_bytes(flipped(other.read_bytes(), starts[0], 0xFF))
    done = repaired(small, copy)
    assert done.packs == (pack,)
    assert done.damaged_points
    assert set(done.damaged_points) == unreadable_points(small)
    # A third storage may have the rest: the table of moves is written anew, with more rows.
    other.write_bytes(flipped(other.read_bytes(), starts[0], 0xFF))
    assert repaired(small, copy).damaged_points == ()
    expect_whole(small)


def test_damaged_and_lost_documents(small: Small, copy: Small) -> None:
    folders = {"points", "marks", "trash"}
    paths = [path for path in small.files() if path.parent.name in folders]
    assert {path.parent.name for path in paths} == folders
    kept = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.write_bytes(flipped(kept[path], 30, 0x01))
    done = repaired(small, copy)
    assert len(done.documents) == len(paths)
    assert {path: path.read_bytes() for path in paths} == kept
    for path in paths:
        if path.parent.name != "trash":
            path.unlink()
    done = repaired(small, copy)
    assert len(done.documents) == len(paths) - 1
    assert {path: path.read_bytes() for path in paths} == kept
    expect_whole(small)


def test_a_lost_head_and_a_lost_pack_of_other_points(small: Small, copy: Small) -> None:
    heads = small.chain().points()
    (small.root / layout.head(heads[0].chain, heads[0].stem)).unlink()
    # The later points need data of the first one's pack.
    (small.root / layout.pack(heads[0].chain, heads[0].disks[0].root.pack)).unlink()
    repaired(small, copy)
    expect_whole(small)


def test_heads_are_not_brought_back_unasked(small: Small, copy: Small) -> None:
    head = small.chain().points()[0]
    path = small.root / layout.head(head.chain, head.stem)
    path.unlink()
    assert repaired(small, copy, bring_back=False).documents == ()
    assert not path.exists()


def test_a_deleted_point_stays_deleted(small: Small, copy: Small) -> None:
    chain = small.chain()
    head = chain.points()[0]
    now = chain.surroundings.clock.now()
    record = trash.new_record(chain.surroundings.entropy, now, "gone", points=(head.stem,))
    trash.write(chain.storage, chain.id, record, now)
    chain.storage.delete(layout.head(chain.id, head.stem))
    assert repaired(small, copy).documents == ()
    assert len(small.chain().points()) == 2


def test_a_lost_head_whose_records_are_gone_is_named(small: Small, copy: Small) -> None:
    chain = small.chain()
    head = chain.points()[-1]
    (small.root / layout.head(chain.id, head.stem)).unlink()
    (small.root / layout.pack(chain.id, head.disks[0].root.pack)).unlink()
    done = repaired(small, copy)
    assert any(head.point in text for text in done.left)
    assert full(small).clean


def test_marks_and_trash_without_a_copy_of_them(small: Small, copy: Small) -> None:
    """A mark stands in its name; what a lost trash record removed comes back."""
    paths = [path for path in small.files() if path.parent.name in {"marks", "trash"}]
    for path in paths:
        path.write_bytes(b"{}")
        (copy.root / path.relative_to(small.root)).unlink()
    assert len(repaired(small, copy).documents) == len(paths)
    assert [path.exists() for path in paths] == [path.parent.name == "marks" for path in paths]
    expect_whole(small)


def test_the_chains_document_comes_from_a_copy_of_this_storage(
    small: Small, copy: Small, tmp_path: Path
) -> None:
    chain = small.chain()
    path = small.root / layout.chain_document(chain.id)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    report = verify_chain(chain, Depth.FULL)
    marker = copy.root / layout.STORAGE
    kept = marker.read_bytes()
    foreign = small_storages.make(tmp_path / "foreign", small.mode, random.Random(3))
    marker.write_bytes((foreign.root / layout.STORAGE).read_bytes())
    (copy_chain,) = [small.at(copy.root)]
    other = chain_of(copy_chain, small)
    with chain.exclusive("repair") as lock:
        done = repair_chain(chain, other, report, lock)
        assert done.documents == ()
        assert len(done.left) == 1
        marker.write_bytes(kept)
        done = repair_chain(chain, other, report, lock)
        assert done.documents == (layout.chain_document(chain.id),)
    assert path.read_bytes() == content
    expect_whole(small)


def chain_of(copy: Small, small: Small):
    """Return the chain in a copy whose marker is another storage's."""
    chain = small.at(small.root)
    path = next(path for path in copy.files() if path.name == "chain.json")
    # The chain's own document is whole in the copy: open it by this storage's key.
    broken = small.root / path.relative_to(copy.root)
    kept = broken.read_bytes()
    broken.write_bytes(path.read_bytes())
    opened = chain.chain()
    broken.write_bytes(kept)
    opened.storage = DirectoryStorage(copy.root)
    return opened


def test_old_locks_go_and_leases_stay(small: Small, copy: Small) -> None:
    chain = small.chain()
    lock = next(path for path in small.files() if path.parent.name == "locks")
    lock.write_bytes(b"{}")
    lease = layout.lease(chain.id, chain.points()[0].point, new_id())
    chain.storage.put(lease, b"{}")
    done = repaired(small, copy)
    assert done.documents == (str(lock.relative_to(small.root)),)
    assert len(done.left) == 1
    assert objects(full(small)) == {lease}


def test_another_chain_is_refused(small: Small, tmp_path: Path) -> None:
    other = small_storages.make(tmp_path / "other", small.mode, random.Random(2))
    with pytest.raises(UsageError):
        repaired(small, other)


class Dying(DirectoryStorage):
    """Dies at the n-th change."""

    def __init__(self, root: Path, changes: int) -> None:
        super().__init__(root)
        self._left = changes

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise StorageError("(the power went off)")

    def put(self, name, data):
        self._count()
        super().put(name, data)

    def delete(self, name):
        self._count()
        super().delete(name)


def test_a_repair_may_end_anywhere(small: Small, copy: Small) -> None:
    """After every step, another repair completes it, and no point was hurt that was whole."""
    path = pack_files(small)[-1]
    content = path.read_bytes()
    path.write_bytes(flipped(content, len(content) // 2, 0xFF))
    before = small.root.parent / "before"
    shutil.copytree(small.root, before)
    hurt = unreadable_points(small)
    for changes in itertools.count():
        chain = small.chain()
        report = verify_chain(chain, Depth.FULL)
        with chain.exclusive("repair") as lock:
            chain.storage = Dying(small.root, changes)
            try:
                repair_chain(chain, copy.chain(), report, lock)
            except StorageError:
                ended = False
            else:
                ended = True
        assert unreadable_points(small) <= hurt
        repaired(small, copy)
        assert full(small).clean
        assert not unreadable_points(small)
        if ended:
            break
        shutil.rmtree(small.root)
        shutil.copytree(before, small.root)
    assert changes == 3  # the table of moves, the trash record, the pack


class Immutable(DirectoryStorage):
    """Knows a flag that no file system here need know."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.flags: set[str] = set()

    def is_protected(self, name: str) -> bool:
        self.size(name)
        return name in self.flags

    def protect(self, name: str) -> None:
        self.size(name)
        self.flags.add(name)

    def release(self, name: str) -> None:
        self.flags.discard(name)

    def delete(self, name: str) -> None:
        assert name not in self.flags
        super().delete(name)


def test_what_replaces_the_immutable_is_immutable(small: Small, copy: Small) -> None:
    chain = small.chain()
    storage = Immutable(small.root)
    chain.storage = storage
    bad = [path for path in small.files() if path.parent.name in {"points", "marks"}]
    bad += [path for path in small.files() if path.suffix in {".pack", ".moved"}]
    for path in bad:
        storage.protect(str(path.relative_to(small.root)))
        path.write_bytes(path.read_bytes()[:-1])
    report = verify_chain(chain, Depth.FULL)
    with chain.exclusive("repair") as lock:
        assert repair_chain(chain, copy.chain(), report, lock).left == ()
    there = {str(path.relative_to(small.root)) for path in small.files()}
    wanted = {name for name in there if name.split("/")[2:3] in (["points"], ["marks"], ["packs"])}
    assert storage.flags & there == wanted
    expect_whole(small)


# ------------------------------------------------------------------------- relocating, fitting


def test_relocated_records_are_found(small: Small) -> None:
    chain = small.chain()
    number = chain.table.number(bytes.fromhex(pack_files(small)[0].stem))
    entries = chain.reader.entries(number)
    found = list(relocating.intact_records(chain, number, entries))
    records = [relocating.Relocated(int(e["offset"]), prepared) for e, prepared in found[::-1]]
    table = relocating.relocate(chain, number, records)
    assert table.old.tolist() == entries["offset"].tolist()
    with pytest.raises(StorageError):
        relocating.relocate(chain, number, records)
    (target,) = chain.numbers(pack.hex() for pack in table.targets)
    new = {int(e["offset"]): e for e in chain.reader.entries(target)}
    for row, entry in enumerate(entries):
        moved = new[int(table.new[row])]
        assert moved["id"] == entry["id"]
        assert moved["stored"] == entry["stored"]


def test_a_table_without_rows_can_be_read(small: Small) -> None:
    chain = small.chain()
    number = chain.table.number(bytes.fromhex(new_id()))
    relocating.relocate(chain, number, [])
    table = chain.reader.moves_of(number)
    assert isinstance(table, moves.Moves)
    assert table.find(64) is None


def test_a_chunk_compressed_otherwise_is_fitted(rng: random.Random) -> None:
    chunk = bytes(rng.choice(b"abc") for _ in range(4096))
    level, wanted = codec.Compressor(9).compress(chunk)
    raw = Prepared(1, bytes(32), len(chunk), codec.RAW, chunk)
    fitted = _fitted(raw, 1, len(wanted))
    assert fitted is not None
    assert fitted.codec == level
    assert codec.decompress(fitted.codec, fitted.payload, 4096) == chunk
    packed = Prepared(1, bytes(32), len(chunk), level, wanted)
    assert _fitted(packed, 1, 4096) == raw
    assert _fitted(packed, 1, 7) is None
