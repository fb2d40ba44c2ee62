import errno
import multiprocessing
import os
import random
import stat
import subprocess

import pytest

from ruchu import errors, units
from ruchu.storage import directory, failures, free_space, handles, names, writing
from ruchu.storage.contract import ObjectInfo
from ruchu.testing import simulated_disk
from ruchu.testing.storages import in_parallel, read

PARTIAL = names.partial("chains/dead", "0123456789abcdef")


# What errors of the system become.


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, errors.StorageFull),
        (errno.EDQUOT, errors.StorageFull),
        (errno.EROFS, errors.StorageReadOnly),
        (errno.EACCES, errors.StorageReadOnly),
        (errno.EPERM, errors.StorageReadOnly),
        (errno.ENODEV, errors.StorageGone),
        (errno.ENOTCONN, errors.StorageGone),
        (errno.ESTALE, errors.StorageGone),
        (errno.ENOENT, errors.ObjectMissing),
        (errno.EEXIST, errors.ObjectExists),
        (errno.ELOOP, errors.UnsafeName),
        (errno.EIO, errors.StorageError),
        (errno.EMFILE, errors.StorageError),
    ],
)
def test_errors_keep_path_and_text(number, kind):
    failure = failures.translate(OSError(number, "whatever"), "/storage/a")
    assert type(failure) is kind
    assert "/storage/a" in str(failure)
    assert os.strerror(number) in str(failure)


def test_an_error_without_a_number_is_an_error():
    assert type(failures.translate(OSError("strange"), "/a")) is errors.StorageError


# The directory must be there, and the same.


def test_the_directory_is_never_made(tmp_path):
    with pytest.raises(errors.StorageGone, match="no such directory"):
        directory.DirectoryStorage(tmp_path / "unmounted")
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageGone):
        directory.DirectoryStorage(tmp_path / "file")


def test_a_storage_may_be_named_by_a_link(tmp_path, real, root):
    (tmp_path / "link").symlink_to(root)
    assert directory.DirectoryStorage(tmp_path / "link").size("ruchu-storage.json") == 9


def every_call(storage):
    yield lambda: storage.put("new/object", b"content")
    yield lambda: storage.put("large", bytes(2 * units.MIB))
    yield lambda: storage.open_writer("new/writer").__enter__()
    yield lambda: storage.get("a", 100)
    yield lambda: storage.get("missing", 100)
    yield lambda: read(storage, "b", 0, 1)
    yield lambda: storage.size("a")
    yield lambda: list(storage.list(""))
    yield lambda: list(storage.list("missing"))
    yield lambda: list(storage.folders("missing"))
    yield storage.foreign
    yield lambda: storage.delete("a")
    yield lambda: storage.delete("missing/too")
    yield lambda: storage.sweep_unfinished("")
    yield storage.free_space
    yield lambda: storage.protect("a")
    yield lambda: storage.release("a")
    yield lambda: storage.is_protected("a")


@pytest.mark.parametrize("switch", ["gone", "unmounted"])
def test_a_storage_that_is_gone_is_neither_empty_nor_filled(simulated, disk, switch):
    simulated.put("a", b"content")
    simulated.put("b", b"content")
    setattr(disk, switch, True)
    for call in every_call(simulated):
        with pytest.raises(errors.StorageGone):
            call()
    setattr(disk, switch, False)
    assert simulated.get("a", 100) == b"content"
    assert {info.name for info in simulated.list("")} == {"a", "b", "ruchu-storage.json"}
    disk.unmounted = True
    under_the_mount = directory.DirectoryStorage("/storage", filesystem=disk)
    assert not list(under_the_mount.list(""))


def test_a_storage_without_its_marker_is_gone(real, root):
    real.put("a", b"content")
    (root / "ruchu-storage.json").unlink()
    for call in every_call(real):
        with pytest.raises(errors.StorageGone, match="ruchu-storage"):
            call()


def test_a_marker_deleted_through_the_storage_is_no_accident(real):
    real.put("a", b"content")
    real.delete("ruchu-storage.json")
    assert real.get("a", 100) == b"content"
    with pytest.raises(errors.ObjectMissing):
        real.get("ruchu-storage.json", 100)


def test_the_same_storage_may_come_back_elsewhere(real, root, tmp_path):
    real.put("a/b", b"content")
    subprocess.run(["cp", "-a", root, tmp_path / "copy"], check=True)
    root.rename(tmp_path / "before")
    (tmp_path / "copy").rename(root)
    assert real.get("a/b", 100) == b"content"
    real.put("a/c", b"more")
    assert (root / "a/c").read_bytes() == b"more"


def test_another_storage_is_not_taken_for_ours(real, root, tmp_path):
    root.rename(tmp_path / "before")
    root.mkdir()
    (root / "ruchu-storage.json").write_bytes(b'{"id": 2}')
    with pytest.raises(errors.StorageGone, match="another directory"):
        real.put("a", b"content")
    assert os.listdir(root) == ["ruchu-storage.json"]


def test_a_commit_notices_that_the_storage_went(real, root, tmp_path):
    with real.open_writer("a") as writer:
        writer.write([b"content"])
        root.rename(tmp_path / "before")
        with pytest.raises(errors.StorageGone):
            writer.commit()
    assert os.listdir(tmp_path / "before") == ["ruchu-storage.json"]


def test_writing_to_a_storage_that_goes_is_told_by_the_error_of_the_write(simulated, disk):
    def write():
        with simulated.open_writer("a") as writer:
            disk.gone = True
            writer.write([b"content"])

    with pytest.raises(errors.StorageGone) as caught:
        write()
    assert "Cleaning up failed" in caught.value.__notes__[0]


def test_an_unfinished_object_that_cannot_be_removed_is_an_error(simulated, disk):
    def write():
        with simulated.open_writer("a"):
            disk.read_only = True

    with pytest.raises(errors.StorageReadOnly):
        write()


def test_a_storage_mounted_read_only_can_be_read(simulated, disk):
    simulated.put("a", b"content")
    disk.read_only = True
    for call in (
        lambda: simulated.put("b", b""),
        lambda: simulated.delete("a"),
        lambda: simulated.protect("a"),
    ):
        with pytest.raises(errors.StorageReadOnly):
            call()
    assert simulated.get("a", 100) == b"content"
    assert simulated.size("a") == 7


# Space.


def test_a_storage_is_full_before_the_disk_is(disk):
    disk.capacity = 100 * units.MIB
    storage = directory.DirectoryStorage("/storage", filesystem=disk)
    assert storage.free_space() == 36 * units.MIB
    with storage.open_writer("large") as writer:
        writer.write([bytes(36 * units.MIB)])
        with pytest.raises(errors.StorageFull):
            writer.write([b"x"])
        with pytest.raises(errors.StorageError, match="broken"):
            writer.commit()
    assert disk.used() == 0


def test_small_objects_use_half_of_the_reserve(disk):
    disk.capacity = 64 * units.MIB
    storage = directory.DirectoryStorage("/storage", filesystem=disk)
    with pytest.raises(errors.StorageFull):
        storage.put("large", bytes(units.MIB + 1))
    with pytest.raises(errors.StorageFull):
        storage.open_writer("large").__enter__()
    for number in range(32):
        storage.put(f"head-{number}", bytes(units.MIB))
    with pytest.raises(errors.StorageFull):
        storage.put("head", b"x")
    assert storage.free_space() == 0


def test_space_is_asked_for_now_and_then():
    asked = []

    def ask():
        asked.append(1)
        return 10 * units.GIB

    space = free_space.FreeSpace(ask, 0)
    space.begin()
    for _ in range(2 * free_space.STEP // units.MIB):
        space.admit(units.MIB)
    assert len(asked) == 2
    space.admit(3 * free_space.STEP)
    assert len(asked) == 3


def test_writers_share_what_is_left(disk):
    disk.capacity = 10 * units.MIB
    storage = directory.DirectoryStorage("/storage", filesystem=disk, reserve_bytes=0)
    with storage.open_writer("a") as first, storage.open_writer("b") as second:
        first.write([bytes(6 * units.MIB)])
        with pytest.raises(errors.StorageFull):
            second.write([bytes(6 * units.MIB)])
        first.commit()
    assert [info.name for info in storage.list("")] == ["a"]


def test_a_disk_filled_by_others_is_full(disk):
    disk.capacity = 1000
    storage = directory.DirectoryStorage("/storage", filesystem=disk, reserve_bytes=0)
    with storage.open_writer("a") as writer:
        writer.write([bytes(500)])
        disk.capacity = 600
        with pytest.raises(errors.StorageFull, match="No space left"):
            writer.write([bytes(400)])
    assert disk.used() == 0


def test_a_real_full_disk_is_full(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs: {mounted.stderr.decode()}")
    try:
        storage = directory.DirectoryStorage(tmp_path, reserve_bytes=-units.GIB)
        with pytest.raises(errors.StorageFull, match="No space left"):
            storage.put("large", bytes(2 * units.MIB))
        assert os.listdir(tmp_path) == []
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(errors.StorageReadOnly):
            storage.put("small", b"")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# What lies in the directory.


def test_modes_keep_others_out(real, root):
    real.put("a/b", b"content")
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o600


def test_links_are_not_followed(real, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    for call in (
        lambda: real.get("out/secret", 100),
        lambda: real.get("file", 100),
        lambda: read(real, "file", 0, 1),
        lambda: real.size("file"),
        lambda: real.put("out/new", b""),
        lambda: list(real.list("out")),
        lambda: list(real.folders("out")),
        lambda: real.delete("out/secret"),
        lambda: real.protect("file"),
    ):
        with pytest.raises(errors.UnsafeName):
            call()
    with pytest.raises(errors.ObjectExists):
        real.put("file", b"content")
    assert os.listdir(outside) == ["secret"]
    assert list(real.list("")) == [ObjectInfo("ruchu-storage.json", 9)]
    assert not list(real.folders(""))
    assert list(real.foreign()) == ["file", "out"]


def test_special_files_are_no_objects(real, root):
    os.mkfifo(root / "fifo")
    for call in (lambda: real.get("fifo", 1), lambda: real.size("fifo")):
        with pytest.raises(errors.UnsafeName):
            call()
    assert list(real.foreign()) == ["fifo"]


def test_an_object_is_no_directory(real):
    real.put("a", b"content")
    with pytest.raises(errors.UnsafeName, match="no directory"):
        real.put("a/b", b"content")
    real.put("d/a", b"content")
    with pytest.raises(errors.ObjectExists):
        real.put("d", b"content")
    with pytest.raises(errors.StorageError):
        real.delete("d")
    assert real.get("d/a", 100) == b"content"


def test_foreign_names_are_told(real, root):
    deep = root / "/".join("abcdefgh")
    deep.mkdir(parents=True)
    (deep / "too-deep").touch()
    for name in ("photo 1.jpg", ".hidden", "x.partial", "a/.nfs0001", "a/odd name"):
        (root / name).touch()
    (root / "lost+found").mkdir()
    (root / "a/lost+found").mkdir()
    (root / "My Music").mkdir()
    (root / "My Music/song").touch()
    (root / PARTIAL.replace("chains/", "")).touch()
    os.mkdir(os.fsencode(root) + b"/\xff")
    assert set(real.foreign()) == {
        "photo 1.jpg",
        ".hidden",
        "x.partial",
        "a/odd name",
        "a/lost+found",
        "My Music",
        "a/b/c/d/e/f/g/h/too-deep",
        "\udcff",
    }
    assert list(real.list("")) == [ObjectInfo("ruchu-storage.json", 9)]


def test_what_dead_writers_left_is_swept(real, root):
    (root / "chains").mkdir()
    (root / PARTIAL).write_bytes(b"half")
    (root / "elsewhere.partial-0123456789abcdef").touch()
    with real.open_writer("chains/living") as writer:
        assert real.sweep_unfinished("chains") == 1
        writer.write([b"content"])
        writer.commit()
    assert real.sweep_unfinished("chains/") == 0
    assert real.sweep_unfinished("missing") == 0
    assert real.get("chains/living", 100) == b"content"
    assert real.sweep_unfinished("") == 1


def test_a_listing_that_fails_is_not_empty(real, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(directory.filesystems.OsFileSystem, "scan", fail)
    for call in (
        lambda: list(real.list("")),
        lambda: list(real.folders("")),
        real.foreign,
        lambda: real.sweep_unfinished(""),
    ):
        with pytest.raises(errors.StorageError):
            call()


# Writing.


def test_few_bytes_at_a_time_are_enough(simulated, disk, rng):
    disk.short = True
    parts = [rng.randbytes(rng.randrange(100)) for _ in range(200)]
    with simulated.open_writer("a") as writer:
        writer.write(parts)
        writer.commit()
    content = b"".join(parts)
    assert simulated.get("a", len(content)) == content
    assert read(simulated, "a", 5, 1000) == content[5:1005]


def test_a_system_that_takes_nothing_is_an_error(simulated, disk, monkeypatch):
    monkeypatch.setattr(disk, "write", lambda *_: 0)
    with pytest.raises(errors.StorageError, match="no byte"):
        simulated.put("a", b"content")


def test_a_write_that_is_lost_is_noticed_before_the_commit(simulated, disk, monkeypatch):
    monkeypatch.setattr(disk, "write", lambda _, parts: sum(len(part) for part in parts))
    with pytest.raises(errors.StorageError, match="7 bytes written, 0 there"):
        simulated.put("a", b"content")
    assert [info.name for info in simulated.list("")] == ["ruchu-storage.json"]


def test_writing_back_starts_early(simulated, disk, monkeypatch):
    started = []
    monkeypatch.setattr(disk, "start_write_back", lambda *given: started.append(given[1:]))
    with simulated.open_writer("a") as writer:
        for _ in range(5):
            writer.write([bytes(writing.WRITE_BACK_STEP // 2)])
    step = writing.WRITE_BACK_STEP
    assert started == [(0, step), (step, step)]


def test_a_failed_sync_fails_the_commit(simulated, disk, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(disk, "sync_file", fail)
    with pytest.raises(errors.StorageError, match="/storage/a"):
        simulated.put("a", b"content")
    assert [info.name for info in simulated.list("")] == ["ruchu-storage.json"]


def test_numbers_are_written_as_their_bytes(real):
    view = memoryview(b"12345678").cast("I")
    with real.open_writer("a") as writer:
        writer.write([view])
        writer.commit()
    buffer = memoryview(bytearray(8)).cast("I")
    real.read_into("a", 0, buffer)
    assert bytes(buffer) == b"12345678"


# Reading.


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_a_stale_handle_is_replaced(simulated, disk, monkeypatch):
    simulated.put("a", b"content")
    assert read(simulated, "a", 0, 1) == b"c"
    working = disk.status
    failures_left = [OSError(errno.ESTALE, "stale")]

    def fail_once(handle):
        if failures_left:
            raise failures_left.pop()
        return working(handle)

    monkeypatch.setattr(disk, "status", fail_once)
    assert read(simulated, "a", 1, 1) == b"o"
    assert not failures_left


def test_few_files_are_kept_open(real):
    before = open_files()
    for number in range(handles.OPEN_MAX + 10):
        real.put(f"a/{number}", b"content")
        assert read(real, f"a/{number}", 1, 3) == b"ont"
    assert open_files() == before + handles.OPEN_MAX
    assert read(real, "a/0", 1, 3) == b"ont"
    real.close()
    assert open_files() == before


def test_reading_reads_through_what_was_replaced_elsewhere(real, root):
    other = directory.DirectoryStorage(root)
    real.put("a", b"first")
    assert read(real, "a", 0, 5) == b"first"
    other.delete("a")
    with pytest.raises(errors.ObjectMissing):
        read(real, "a", 0, 5)
    other.put("a", b"other")
    assert read(real, "a", 0, 5) == b"other"
    other.delete("a")
    other.put("a", b"third")
    assert read(real, "a", 0, 5) == b"third"


def test_many_threads_read_few_files(tmp_path):
    system = directory.filesystems.OsFileSystem()
    paths = {}
    for number in range(6):
        (tmp_path / str(number)).write_bytes(b"%d" % number * 10)
        paths[str(number)] = tmp_path / str(number)
    before = open_files()
    files = handles.ReadHandles(system, lambda name: os.open(paths[name], os.O_RDONLY), open_max=2)

    def work(number):
        choose = random.Random(number)
        for _ in range(300):
            name = str(choose.randrange(6))
            with files.borrow(name) as handle:
                assert os.pread(handle, 10, 0) == name.encode() * 10
            if choose.random() < 0.1:
                files.drop(name)

    in_parallel(work)
    assert open_files() <= before + 2
    files.close()
    assert open_files() == before


def test_a_handle_that_failed_is_given_up(simulated, disk, monkeypatch):
    simulated.put("a", b"content")
    assert read(simulated, "a", 0, 1) == b"c"
    working = disk.read

    def fail(*_):
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(disk, "read", fail)
    with pytest.raises(errors.StorageGone):
        read(simulated, "a", 0, 1)
    monkeypatch.setattr(disk, "read", working)
    assert read(simulated, "a", 0, 1) == b"c"


# Protection.


def test_the_system_keeps_a_protected_object(real, root):
    real.put("a", b"content")
    try:
        real.protect("a")
    except errors.ImmutableNotApplied as error:
        pytest.skip(f"this file system or user cannot protect files: {error}")
    try:
        with pytest.raises(PermissionError):
            (root / "a").unlink()
        with pytest.raises(PermissionError):
            (root / "a").open("ab")
        shown = subprocess.run(["lsattr", root / "a"], check=True, capture_output=True, text=True)
        assert "i" in shown.stdout.split()[0]
    finally:
        real.release("a")
    (root / "a").unlink()


def test_a_flag_that_is_silently_not_set_is_noticed(simulated, disk):
    simulated.put("a", b"content")
    disk.flags_ignored = True
    with pytest.raises(errors.ImmutableNotApplied):
        simulated.protect("a")


def test_a_flag_that_silently_stays_is_noticed(simulated, disk):
    simulated.put("a", b"content")
    simulated.protect("a")
    disk.flags_ignored = True
    with pytest.raises(errors.StorageReadOnly, match="still immutable"):
        simulated.release("a")


def test_a_flag_that_cannot_be_read_for_another_reason_is_an_error(simulated, disk, monkeypatch):
    simulated.put("a", b"content")

    def fail(*_, **__):
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(disk, "is_immutable", fail)
    with pytest.raises(errors.StorageError):
        simulated.is_protected("a")


def test_a_removal_that_is_refused_for_another_reason_says_so(simulated, disk, monkeypatch):
    simulated.put("a", b"content")

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(disk, "unlink", fail)
    with pytest.raises(errors.StorageReadOnly, match="Permission denied"):
        simulated.delete("a")
    monkeypatch.setattr(disk, "open_file", fail)
    with pytest.raises(errors.StorageReadOnly, match="Permission denied"):
        simulated.delete("a")


# Several processes.


def put_in_another_process(root, barrier, content, answers):
    storage = directory.DirectoryStorage(root)
    won = []
    barrier.wait()
    for turn in range(50):
        try:
            storage.put(f"locks/{turn}", content)
        except errors.ObjectExists:
            continue
        won.append(turn)
    answers.put((content, won))


def test_one_of_two_processes_wins(real, root):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.SimpleQueue()
    processes = [
        context.Process(target=put_in_another_process, args=(root, barrier, content, answers))
        for content in (b"first", b"second")
    ]
    for process in processes:
        process.start()
    won = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    assert sorted(won[b"first"] + won[b"second"]) == list(range(50))
    for content, turns in won.items():
        assert all(real.get(f"locks/{turn}", 10) == content for turn in turns)
    assert real.sweep_unfinished("") == 0


def test_the_seed_brings_a_crash_back():
    def outcome(seed):
        disk = simulated_disk.SimulatedFileSystem(random.Random(seed), ignore={"file"})
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        for number in range(5):
            storage.put(f"a/{number}", bytes(range(1, 200)) * 20)
        disk.crash()
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        return {info.name: storage.get(info.name, info.size) for info in storage.list("")}

    assert outcome(1) == outcome(1)
    assert any(outcome(1) != outcome(seed) for seed in range(2, 5))


def test_a_bit_flips_on_the_disk_itself(simulated, disk):
    simulated.put("a/b", bytes(4))
    with simulated.open_writer("a/c") as writer:
        writer.write([bytes(4)])
        disk.flip_bit("/storage", "a/b", 9)
        writer.commit()
    assert simulated.get("a/b", 4) == b"\0\2\0\0"
    disk.crash()
    again = directory.DirectoryStorage("/storage", filesystem=disk)
    assert again.get("a/b", 4) == b"\0\2\0\0"
    assert again.get("a/c", 4) == bytes(4)
