"""Verification finds whatever was changed, and says whom it affects; a restore never lies."""

import contextlib
import itertools
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_storages
from small_storages import Small

from ruchu.errors import (
    Cancelled,
    Damaged,
    NotFound,
    RuchuError,
    StorageError,
    StorageGone,
    UnknownFormat,
)
from ruchu.repository import layout, locking, packs, repositories, trash, verifying_documents
from ruchu.repository.chains import Chain
from ruchu.repository.verifying import verify_chain, verify_point, verify_storage
from ruchu.repository.verifying_findings import Depth, Findings, Report, Sample, Severity, Watch
from ruchu.storage.directory import DirectoryStorage

MODES = ["plain", "encrypted"]


@pytest.fixture(params=MODES)
def small(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
) -> Small:
    # The real kit is of 60 KB, whose hash knows no difference between its bytes.
    kit = {"FORMAT.txt": b"how to read it\n", "restore.py": b"print('restore')\n"}
    monkeypatch.setattr(repositories, "exit_kit", lambda: kit)
    return small_storages.make(tmp_path / "storage", request.param, rng)


def full(small: Small) -> Report:
    return verify_storage(small.open(), Depth.FULL)


def objects(report: Report) -> set[str]:
    return {found.object for found in report.damages}


@contextlib.contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    old = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(old)


def flipped(content: bytes, at: int, mask: int) -> bytes:
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


def pack_files(small: Small) -> list[Path]:
    return [path for path in small.files() if path.suffix == ".pack"]


def in_zstd_frame(chain: Chain, path: Path, at: int) -> bool:
    """Tell whether a byte of a pack belongs to the zstd frame of a record that is not encrypted."""
    if path.suffix != ".pack" or chain.identity.encrypted:
        return False
    for entry in chain.reader.entries(chain.table.number(bytes.fromhex(path.stem))):
        start = int(entry["offset"]) + packs.RECORD_BYTES
        if entry["codec"] and start <= at < start + int(entry["stored"]):
            return True
    return False


# --------------------------------------------------------------------------- nothing is wrong


@pytest.mark.parametrize("depth", list(Depth))
def test_a_whole_storage_is_clean(small: Small, depth: Depth, rng: random.Random) -> None:
    report = verify_storage(small.open(), depth, rng=rng)
    assert report.findings == ()
    assert report.clean
    assert report.counts.points == 3
    assert report.counts.packs == 3
    assert (report.counts.bytes > 0) == (depth is not Depth.STRUCTURAL)
    chain = small.chain()
    for head in chain.points():
        assert verify_point(chain, head, depth, rng=rng).findings == ()
    assert not list(chain.storage.list(layout.leases(chain.id)))


def test_full_reads_every_byte(small: Small) -> None:
    seen = []
    watch = Watch(progress=lambda done, total: seen.append((done, total)))
    report = verify_chain(small.chain(), Depth.FULL, watch=watch)
    size = sum(path.stat().st_size for path in pack_files(small))
    assert report.counts.bytes == size
    assert seen[-1] == (size, size)


def test_a_sample_says_what_it_is_worth(small: Small, rng: random.Random) -> None:
    report = verify_chain(small.chain(), Depth.SAMPLED, rng=rng, sample_records=2)
    (sample,) = report.samples
    assert sample.records == 2
    assert sample.total > 2
    assert sample.missed(0.5) == 0.25
    assert "(1-p)^2" in str(sample)
    assert Sample(5, 5).missed(0.1) == 0


def test_a_storage_without_chains_is_clean(tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    secret = small_storages.SECRETS["plain"]
    repository = repositories.create(
        DirectoryStorage(root), "a", secret, small_storages.Surroundings()
    )
    (root / "chains" / ("0" * 32)).mkdir(parents=True)  # what a crash may leave
    assert verify_storage(repository, Depth.FULL).findings == ()


# ------------------------------------------------------------------ every byte, every truncation


def chain_files(small: Small) -> list[Path]:
    """Return the files of the chain that can be damaged all at once and be told apart."""
    return [
        path
        for path in small.files()
        if "chains" in path.parts and path.name != "chain.json"
        if not path.name.endswith(".released.json")
    ]


def expect_all(small: Small, chain: Chain, damage: Callable[[bytes, int], bytes | None]) -> None:
    """Damage every file of the chain at one place, for every place; each must be found.

    Every third place where there is no time for all of them (`make long`).
    """
    paths = chain_files(small)
    kept = {path: path.read_bytes() for path in paths}
    harmless = {
        (path, at)
        for path in paths
        for at in range(len(kept[path]))
        if in_zstd_frame(chain, path, at)
    }
    step = 1 if os.environ.get("RUCHU_PROFILE") == "faults" else 3
    first = int(os.environ.get("RUCHU_SEED", "1")) % step
    for at in range(first, max(map(len, kept.values())), step):
        bad = {
            path: content
            for path in paths
            if at < len(kept[path]) and (content := damage(kept[path], at)) is not None
        }
        for path, content in bad.items():
            path.write_bytes(content)
        found = objects(verify_chain(chain, Depth.FULL))
        for path, content in bad.items():
            name = str(path.relative_to(small.root))
            if name not in found:
                # Bits that no decoder looks at; that nothing else comes out of them is shown by
                # test_a_restore_is_right_or_fails.
                assert (path, at) in harmless, (name, at)
                assert len(content) == len(kept[path])
            path.write_bytes(kept[path])
    assert verify_chain(chain, Depth.FULL).findings == ()


@pytest.mark.slow
def test_every_flipped_bit_of_the_chain_is_found(small: Small) -> None:
    expect_all(small, small.chain(), lambda content, at: flipped(content, at, 1 << at % 8))


@pytest.mark.slow
def test_every_truncation_of_the_chain_is_found(small: Small) -> None:
    expect_all(small, small.chain(), lambda content, at: content[:at])


def damages(content: bytes) -> Iterator[bytes]:
    for at in range(len(content)):
        yield flipped(content, at, 1 << at % 8)
        yield content[:at]


def test_every_change_of_the_storages_own_documents_is_found(small: Small) -> None:
    repository = small.open()
    for path in small.files():
        if "chains" in path.parts:
            continue
        for bad in damages(path.read_bytes()):
            with changed(path, bad):
                findings = Findings()
                verifying_documents.check_storage(repository, findings)
                assert [found.object for found in findings.result()] == [
                    str(path.relative_to(small.root))
                ]


def test_every_change_of_the_chains_document_is_found(small: Small) -> None:
    repository = small.open()
    chain = small.chain()
    path = small.root / layout.chain_document(chain.id)
    for bad in damages(path.read_bytes()):
        with changed(path, bad):
            report = verify_storage(repository, Depth.STRUCTURAL)
            assert objects(report) == {layout.chain_document(chain.id)}
            assert report.affected_points == tuple(sorted(small.contents))
            assert report.covered == ()
    with changed(path, b""):
        # One that is open already goes on, and sees it, too.
        assert objects(verify_chain(chain, Depth.STRUCTURAL)) == {layout.chain_document(chain.id)}


def test_the_content_of_a_released_lock_matters_to_nobody(small: Small) -> None:
    (path, *_) = [path for path in small.files() if path.name.endswith(".released.json")]
    for content in (b"", b"x", b"0" * 99):
        with changed(path, content):
            report = full(small)
            assert report.clean
            assert {found.severity for found in report.findings} == {Severity.NOTICE}
            chain = small.chain()
            with chain.exclusive("a writer comes as ever"):
                assert locking.holder_of(chain.storage, chain.id) is not None


@pytest.mark.slow
def test_a_restore_is_right_or_fails(small: Small, rng: random.Random) -> None:
    repository = small.open()
    (chain_id,) = repository.chain_ids()
    heads = repository.open_chain(chain_id).points()
    # Of what is encrypted, one place is as good as another: a tag covers it.
    step = 1 if small.mode == "plain" else 5
    for path in small.files():
        if path.suffix not in {".pack", ".moved"}:
            continue
        content = path.read_bytes()
        bad = [flipped(content, at, 1 << rng.randrange(8)) for at in range(0, len(content), step)]
        bad += [content[:at] for at in range(0, len(content), 40)]
        for damaged in bad:
            with changed(path, damaged):
                chain = repository.open_chain(chain_id)
                for head in heads:
                    with contextlib.suppress(Damaged, UnknownFormat):
                        assert small.restored(chain, head) == small.contents[head.point]


# ------------------------------------------------------------------------- what is found, and whom


def test_what_was_looked_at_whole_is_told(small: Small) -> None:
    chain = small.chain()
    heads = chain.points()
    last = max(head.sequence for head in heads)
    assert full(small).covered == ((chain.id, last),)
    assert verify_chain(chain, Depth.STRUCTURAL).covered == ((chain.id, last),)
    # One point is no chain.
    assert verify_point(chain, heads[0], Depth.FULL).covered == ()


def test_lost_packs_and_moves_name_their_points(small: Small) -> None:
    for path in [path for path in small.files() if path.suffix in {".pack", ".moved"}]:
        content = path.read_bytes()
        path.unlink()
        report = full(small)
        affected = unreadable_points(small)
        path.write_bytes(content)
        assert affected
        assert set(report.affected_points) == affected
        if path.suffix == ".pack":
            assert str(path.relative_to(small.root)) in objects(report)


def unreadable_points(small: Small) -> set[str]:
    """Return the points that cannot be restored."""
    found = set()
    chain = small.chain()
    for head in chain.points():
        try:
            small.restored(chain, head)
        except (RuchuError, StorageError):
            found.add(head.point)
    return found


@pytest.mark.parametrize("depth", [Depth.SAMPLED, Depth.FULL])
def test_damaged_records_name_their_points(small: Small, depth: Depth, rng: random.Random) -> None:
    chain = small.chain()
    for path in pack_files(small):
        entries = chain.reader.entries(chain.table.number(bytes.fromhex(path.stem)))
        content = path.read_bytes()
        for entry in entries:
            start = int(entry["offset"]) + packs.RECORD_BYTES
            middle = start + int(entry["stored"]) // 2
            with changed(path, flipped(content, middle, 0xFF)):
                affected = unreadable_points(small)
                report = verify_chain(small.chain(), depth, rng=rng)
                assert set(report.affected_points) == affected
                for head in chain.points():
                    own = verify_point(small.chain(), head, depth, rng=rng)
                    assert own.clean is (head.point not in affected)


def test_a_damaged_footer_is_found_though_the_chunks_are_whole(small: Small) -> None:
    path = pack_files(small)[0]
    content = path.read_bytes()
    with changed(path, flipped(content, len(content) - 1, 1)):
        report = verify_chain(small.chain(), Depth.STRUCTURAL)
        assert [found.code for found in report.damages] == ["pack-damaged"]


def test_a_damaged_trash_record_deletes_nothing(small: Small) -> None:
    chain = small.chain()
    head = chain.points()[0]
    now = chain.surroundings.clock.now()
    record = trash.new_record(chain.surroundings.entropy, now, "gone", points=(head.stem,))
    trash.write(chain.storage, chain.id, record, now)
    assert full(small).counts.points == 2
    with pytest.raises(NotFound):
        verify_point(chain, head, Depth.STRUCTURAL)
    path = small.root / layout.trash_record(chain.id, record.id)
    with changed(path, b"{}"):
        report = full(small)
        assert report.counts.points == 3
        assert objects(report) == {layout.trash_record(chain.id, record.id)}
        assert not verify_point(chain, head, Depth.STRUCTURAL).damages


def test_a_chain_whose_document_is_lost_is_found(small: Small) -> None:
    chain = small.chain()
    (small.root / layout.chain_document(chain.id)).unlink()
    report = full(small)
    assert [found.code for found in report.damages] == ["document-missing"]
    assert report.affected_points == tuple(sorted(small.contents))


def test_a_chain_of_another_storage_is_found(small: Small, tmp_path: Path) -> None:
    """Its key does not open with this storage's key."""
    other = small_storages.make(tmp_path / "other", small.mode, random.Random(2))
    shutil.copytree(other.root / "chains", small.root / "chains", dirs_exist_ok=True)
    report = full(small)
    assert [found.code for found in report.damages] == ["document-damaged"]
    assert report.affected_points == tuple(sorted(other.contents))


def test_foreign_files_are_noticed_only(small: Small) -> None:
    chain = small.chain()
    names = ["notes.txt", "chains/readme", f"{layout.chain(chain.id)}/packs/zz/x.pack"]
    names += [".hidden", "with space"]
    for name in names:
        path = small.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"hello")
    report = full(small)
    assert report.clean
    assert {found.object for found in report.findings} == set(names)
    assert {found.severity for found in report.findings} == {Severity.NOTICE}


def test_foreign_files_among_points_hinder_nobody(small: Small) -> None:
    chain = small.chain()
    for name in ("notes.json", "copy-of-a-point", "0000000009-x.json"):
        (small.root / layout.points(chain.id) / name).write_bytes(b"hello")
    report = full(small)
    assert report.clean
    assert len(report.findings) == 3
    newest = list(small.contents.values())[-1]
    assert small.backup(small.chain(), newest).sequence == 4
    assert len(small.chain().points()) == 4


def test_a_damaged_key_slot_does_not_close_the_others(small: Small) -> None:
    if small.mode == "plain":
        return
    (first,) = [path for path in small.files() if path.parent.name == "keys"]
    secret = small_storages.keyring.Secret("keyfile", b"key")
    small.open().add_secret(secret)
    first.write_bytes(b"{}")
    storage = DirectoryStorage(small.root)
    repository = repositories.open_repository(storage, secret, small_storages.Surroundings())
    assert objects(verify_storage(repository, Depth.FULL)) == {str(first.relative_to(small.root))}
    with pytest.raises(Damaged):
        small.open()


def test_damage_in_a_pack_that_nobody_needs_affects_nobody(small: Small) -> None:
    chain = small.chain()
    head = chain.points()[-1]
    now = chain.surroundings.clock.now()
    record = trash.new_record(chain.surroundings.entropy, now, "gone", points=(head.stem,))
    trash.write(chain.storage, chain.id, record, now)
    own = head.disks[0].root
    path = small.root / layout.pack(chain.id, own.pack)
    at = own.offset + packs.RECORD_BYTES + own.stored // 2
    with changed(path, flipped(path.read_bytes(), at, 0xFF)):
        (found,) = full(small).damages
        assert found.object == layout.pack(chain.id, own.pack)
        assert found.points == ()


# ------------------------------------------------------------------------- while others work


class Interfering(DirectoryStorage):
    """Does something once, right before a name that matches is read for the first time."""

    def __init__(self, root: Path, pattern: str, action: Callable[[], None]) -> None:
        super().__init__(root)
        self._pattern = re.compile(pattern)
        self._action: Callable[[], None] | None = action

    def size(self, name: str) -> int:
        if self._action is not None and self._pattern.search(name):
            action, self._action = self._action, None
            action()
        return super().size(name)


def interfered(small: Small, action: Callable[[], None]) -> Chain:
    storage = Interfering(small.root, r"\.pack$", action)
    secret = small_storages.SECRETS[small.mode]
    repository = repositories.open_repository(storage, secret, small_storages.Surroundings())
    (chain,) = repository.all_chains()
    return chain


def test_a_backup_meanwhile_does_no_harm(small: Small) -> None:
    newest = list(small.contents.values())[-1]
    chain = interfered(
        small, lambda: small.backup(small.chain(), newest[:4096] + bytes(4096) + newest[8192:])
    )
    report = verify_chain(chain, Depth.FULL)
    assert report.findings == ()
    assert report.counts.points == 3


def test_a_compaction_meanwhile_does_no_harm(small: Small) -> None:
    """Packs vanish after they were listed; their chunks are read where they went."""
    chunks = verify_chain(small.chain(), Depth.FULL).counts.chunks
    for pack in [path.stem for path in pack_files(small)]:
        chain = interfered(small, lambda pack=pack: small_storages.compacted(small.chain(), pack))
        report = verify_chain(chain, Depth.FULL)
        assert report.findings == ()
        assert report.counts.chunks >= chunks


def test_a_pack_that_vanishes_and_is_needed_is_found(small: Small) -> None:
    path = pack_files(small)[-1]
    chain = interfered(small, path.unlink)
    report = verify_chain(chain, Depth.FULL)
    assert objects(report) == {str(path.relative_to(small.root))}
    assert set(report.affected_points) == unreadable_points(small)


def test_a_point_deleted_meanwhile_is_left_out(small: Small) -> None:
    head = small.chain().points()[-1]

    def delete() -> None:
        chain = small.chain()
        chain.storage.delete(layout.head(chain.id, head.stem))
        chain.storage.delete(layout.pack(chain.id, head.disks[0].root.pack))

    report = verify_chain(interfered(small, delete), Depth.FULL)
    assert report.findings == ()


def test_cancelled(small: Small) -> None:
    calls = itertools.count()
    watch = Watch(cancelled=lambda: next(calls) > 1)
    with pytest.raises(Cancelled):
        verify_chain(small.chain(), Depth.FULL, watch=watch)


def test_a_storage_that_goes_away_ends_the_verification(small: Small) -> None:
    def pull() -> None:
        (small.root / "ruchu-storage.json").unlink()

    with pytest.raises(StorageGone):
        verify_chain(interfered(small, pull), Depth.FULL)


def bad_sectors(
    monkeypatch: pytest.MonkeyPatch, suffix: str, area: range, *, everything: bool = False
) -> None:
    """Let reads of some bytes of some objects fail as a bad sector does."""
    fill = DirectoryStorage._fill

    def failing(self, name, file, start, buffer):
        touched = start < area.stop and start + buffer.nbytes > area.start
        if everything or (name.endswith(suffix) and touched):
            raise OSError(5, "Input/output error")
        fill(self, name, file, start, buffer)

    monkeypatch.setattr(DirectoryStorage, "_fill", failing)


def test_a_bad_sector_is_a_finding(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = small.chain()
    path = pack_files(small)[-1]
    entries = chain.reader.entries(chain.table.number(bytes.fromhex(path.stem)))
    at = int(entries["offset"][1]) + 60
    bad_sectors(monkeypatch, path.name, range(at, at + 1))
    report = verify_chain(small.chain(), Depth.FULL)
    assert objects(report) == {str(path.relative_to(small.root))}
    assert "1 damaged records" in report.damages[0].text
    assert set(report.affected_points) == unreadable_points(small)


def test_a_dead_disk_is_not_damage(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = small.chain()
    bad_sectors(monkeypatch, "", range(0), everything=True)
    with pytest.raises(StorageError):
        verify_chain(chain, Depth.FULL)
