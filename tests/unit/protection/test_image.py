"""Images: kinds, change lists, sources that change, faults; and change lists as texts."""

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.blocks.files import FileReader
from ruchu.blocks.formats import opening, presenting
from ruchu.errors import (
    Cancelled,
    ImageDamaged,
    Incomplete,
    NotFound,
    StorageError,
    Unsupported,
    UsageError,
)
from ruchu.model.sources import Kind
from ruchu.protection import change_lists, image, sampling
from ruchu.protection.image import back_up_image
from ruchu.protection.running import Run
from ruchu.repository import repositories
from ruchu.storage.faulty import Effect, Fault, Faulty
from ruchu.storage.intercepting import Verb
from ruchu.units import KIB, MIB

BLOCK = 64 * KIB


@pytest.fixture
def path(tmp_path, rng):
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(rng.randbytes(2 * MIB))
        file.truncate(4 * MIB + 5)
    return path


@pytest.fixture
def back_up(repository, path, run, tmp_path):
    def back_up(kind=Kind.INCREMENTAL, changes=None, **more):
        listed = None
        if changes is not None:
            listed = tmp_path / "changes"
            listed.write_text(changes)
        return back_up_image(
            more.get("repository", repository), "o", path, kind, listed, more.get("run", run)
        )

    return back_up


def content(repository, done):
    chain = repository.open_chain(done.head.chain)
    disk = chain.disk(done.head, done.head.disks[0])
    buffer = bytearray(disk.size)
    disk.read_into(0, memoryview(buffer))
    return buffer


def test_kinds_and_their_bases(back_up, path, repository, rng):
    first = back_up()
    assert (first.head.kind, first.head.parent) == (Kind.FULL, None)
    assert [reason.code for reason in first.reasons] == ["no-base"]
    second = back_up()
    assert second.head.parent == first.head.point
    assert second.bytes_stored < 1000
    full = back_up(Kind.FULL)
    assert not full.reasons
    for kind, parent in ((Kind.INCREMENTAL, full), (Kind.DIFFERENTIAL, full)):
        path.write_bytes(rng.randbytes(3 * MIB))
        done = back_up(kind)
        assert (done.head.kind, done.head.parent) == (kind, parent.head.point)
        assert content(repository, done) == path.read_bytes()


def test_holes_and_zeros_are_not_read(back_up, path):
    done = back_up()
    assert done.size == 4 * MIB + 5
    assert done.bytes_read == 2 * MIB


def test_a_hole_punched_since_is_zeros(back_up, path, repository):
    back_up()
    with path.open("r+b") as file:
        file.truncate(MIB)
        file.truncate(4 * MIB + 5)
    assert content(repository, back_up()) == path.read_bytes()


def test_a_change_list_on_a_first_run_reads_everything(back_up, path, repository):
    done = back_up(changes="0 1\n")
    assert done.head.kind is Kind.FULL
    assert content(repository, done) == path.read_bytes()


def test_an_empty_change_list(back_up, path, repository):
    back_up()
    done = back_up(changes="")
    assert done.bytes_read == 0
    assert done.sample.blocks == 64
    assert content(repository, done) == path.read_bytes()


def test_an_empty_image(back_up, path, repository):
    path.write_bytes(b"")
    for _ in range(2):
        assert content(repository, back_up()) == b""
    assert back_up(changes="").sample.unchanged == 0


def test_a_source_that_changes_is_told(back_up, path):
    run = Run(watch=lambda label, progress: os.utime(path, (1, 1)))
    done = back_up(run=run)
    assert done.source_changed
    assert done.head.facts["source_changed"] is True
    assert "source_changed" not in back_up().head.facts


def test_a_source_that_shrinks_makes_no_point(back_up, path, repository):
    run = Run(watch=lambda label, progress: os.truncate(path, 1000))
    with pytest.raises(StorageError, match="shrank"):
        back_up(run=run)
    (chain,) = repository.all_chains()
    assert not chain.stems()


def test_cancelling_makes_no_point(back_up, repository, path):
    with pytest.raises(Cancelled):
        back_up(run=Run(cancelled=lambda: True))
    (chain,) = repository.all_chains()
    assert not chain.stems()
    assert content(repository, back_up()) == path.read_bytes()


@pytest.mark.parametrize("effect", [Effect.FAIL, Effect.FAIL_AFTER])
@pytest.mark.parametrize(("verb", "call"), [(Verb.WRITE, 2), (Verb.COMMIT, 1), (Verb.OPEN, 1)])
def test_a_fault_makes_no_point(back_up, repository, storage, clock, rng, verb, call, effect, path):
    back_up()
    path.write_bytes(rng.randbytes(2 * MIB))
    faulty = Faulty(storage, clock=clock, choose=rng, faults=[Fault(verb, call, effect)])
    opened = repositories.open_repository(faulty, None, repository.surroundings)
    with pytest.raises((StorageError, Incomplete)):
        back_up(repository=opened)
    (chain,) = repository.all_chains()
    assert len(chain.stems()) == 1
    assert content(repository, back_up()) == path.read_bytes()


@pytest.mark.parametrize("magic", list(opening._MAGICS))
def test_damaged_images_are_refused_but_not_as_bytes(path, repository, magic, run):
    path.write_bytes(magic + bytes(2000))
    with pytest.raises((ImageDamaged, Unsupported)):
        back_up_image(repository, "o", path, Kind.FULL)
    assert not repository.chain_ids()
    done = image.back_up_bytes(repository, "o", path, Kind.FULL, run=run)
    assert content(repository, done) == path.read_bytes()
    assert done.image_format == "raw"


@pytest.mark.parametrize("image_format", presenting.FORMATS)
def test_what_is_stored_is_what_a_guest_sees(path, repository, tmp_path, run, image_format):
    path.write_bytes(path.read_bytes() + bytes(507))
    with FileReader(path) as device:
        shown = presenting.present(device, image_format, "shown")
        for name, disk in shown.files.items():
            whole = bytearray(disk if isinstance(disk, bytes) else disk.size)
            if not isinstance(disk, bytes):
                disk.read_into(0, memoryview(whole))
            (tmp_path / name).write_bytes(whole)
    done = back_up_image(repository, "o", tmp_path / shown.main, Kind.FULL, run=run)
    assert content(repository, done) == path.read_bytes()
    assert done.image_format == image_format
    assert done.head.facts.get("format", "raw") == image_format
    assert not done.source_changed
    again = back_up_image(repository, "o", tmp_path / shown.main, Kind.INCREMENTAL, run=run)
    assert again.head.parent == done.head.point
    assert again.bytes_stored < 2000


def test_what_is_no_image(tmp_path, repository):
    with pytest.raises(NotFound):
        back_up_image(repository, "o", tmp_path / "missing", Kind.FULL)
    with pytest.raises(UsageError):
        back_up_image(repository, "o", tmp_path, Kind.FULL)


# ---------------------------------------------------------------------------------- change lists

ranges = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 40)), max_size=20)


@given(ranges)
def test_a_list_covers_what_it_names_and_nothing_else(pairs):
    pairs = [(start, min(length, 100 - start)) for start, length in pairs]
    found = change_lists.parse([f"{start} {length}" for start, length in pairs], 100, "list")
    expected = {at for start, length in pairs for at in range(start, start + length)}
    assert {at for extent in found for at in range(extent.start, extent.end)} == expected
    assert all(one.end < other.start for one, other in itertools.pairwise(found))


@pytest.mark.parametrize("line", ["1", "1 2 3", "a b", "-1 1", "1 -1", "99 2", "1e3 1", "٣ x",
                                  f"{10**30} 1"])  # fmt: skip
def test_lines_that_are_no_ranges(line):
    with pytest.raises(UsageError, match="line 3"):
        change_lists.parse(["# start length", "", line], 100, "list")


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        change_lists.read(tmp_path / "missing", 5)


# --------------------------------------------------------------------------------------- samples


class Bytes:
    """A disk in memory."""

    preferred_io = 4096

    def __init__(self, content):
        self.content = content
        self.read = []

    @property
    def size(self):
        return len(self.content)

    def read_into(self, start, buffer):
        self.read.append(start)
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self):
        raise NotImplementedError


@given(st.sets(st.integers(0, 20)), st.integers(0, 30), st.randoms(use_true_random=False))
def test_a_sample_is_drawn_from_the_unchanged_blocks(changed, count, choose):
    size = 20 * 16 + 3
    source, base = Bytes(bytes(size)), Bytes(bytes(size))
    extents = [sampling.Extent(block * 16, min(16, size - block * 16)) for block in sorted(changed)]
    found = sampling.check(source, base, extents, 16, (choose, count))
    assert found.unchanged == 21 - len(changed)
    assert found.blocks == min(count, found.unchanged) == len(set(source.read))
    assert not {start // 16 for start in source.read} & changed
    assert found.differs_at is None


@given(st.integers(0, 20), st.randoms(use_true_random=False))
def test_a_sample_of_everything_sees_everything(wrong, choose):
    content = bytearray(20 * 16 + 3)
    content[wrong * 16] = 1
    found = sampling.check(Bytes(content), Bytes(bytes(100)), [], 16, (choose, 99))
    assert found.differs_at == wrong * 16
    assert found.unseen(0.01) == 0.0


def test_a_base_that_is_smaller_counts_as_zeros(rng):
    found = sampling.check(Bytes(bytes(100)), Bytes(bytes(50)), [], 16, (rng, 99))
    assert found.differs_at is None
    assert found.blocks == 7
