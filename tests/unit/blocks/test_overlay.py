import contextlib
import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from ruchu import errors
from ruchu.blocks import overlay_file
from ruchu.blocks.overlay import Overlay
from ruchu.blocks.overlay_file import BLOCK, Header, RealFile
from ruchu.model.extents import Content, Extent
from ruchu.testing.memory_disk import MemoryDisk
from ruchu.testing.simulated_file import SimulatedFile

NAME = "point/vda"
TIB = 1 << 40


@pytest.fixture
def base(rng):
    return MemoryDisk(rng.randbytes(1 << 20), holes=((8 * BLOCK, 8 * BLOCK),))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vda.cache"


def content(device, start=0, length=None):
    buffer = bytearray(device.size - start if length is None else length)
    device.read_into(start, memoryview(buffer))
    return bytes(buffer)


def tuples(extents):
    return [(extent.start, extent.length, extent.content.value) for extent in extents]


def simulated(base, size=None, choose=None):
    header = Header(bytes(16), NAME, base.size, size or base.size)
    file = SimulatedFile(choose or random.Random(1), header.file_bytes)
    file.write(0, [header.encode()])
    file.sync()
    return file


def over(base, file):
    return Overlay(base, file, identity=NAME, session=b"boot")


def test_a_new_cache_shows_the_base(path, base):
    with Overlay.create(path, base, identity=NAME) as device:
        assert device.size == base.size
        assert device.preferred_io == base.preferred_io
        assert content(device) == base.content
        assert tuples(device.extents()) == tuples(base.extents())
        assert (device.written_bytes, list(device.written())) == (0, [])
        assert device.peek(5, 100) == base.content[5:105]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_written_is_read_now_and_later(path, base, rng):
    expected = bytearray(base.content)
    with Overlay.create(path, base, identity=NAME) as device:
        for start, length in ((0, 1), (4095, 2), (100_000, 50_000), (base.size - 7, 7), (9, 0)):
            data = rng.randbytes(length)
            device.write(start, memoryview(data))
            expected[start : start + length] = data
        assert content(device) == expected
        assert device.peek(0, 10) is None
        assert device.peek(300_000, BLOCK) == expected[300_000 : 300_000 + BLOCK]
        written = device.written_bytes
    with Overlay.open(path, base, identity=NAME) as device:
        assert content(device) == expected
        assert device.written_bytes == written == 16 * BLOCK
        assert written <= device.allocated_bytes <= written + (1 << 17)
    assert base.content == bytes(base.content)


def test_zeros_take_no_room(path, base):
    with Overlay.create(path, base, identity=NAME) as device:
        device.write(0, memoryview(base.content))
        device.flush()
        full = device.allocated_bytes
        device.discard(10, base.size - 20)
        device.flush()
        assert content(device) == base.content[:10] + bytes(base.size - 20) + base.content[-10:]
        assert device.allocated_bytes < full // 10
        device.zero(20, 5)
        device.zero(0, 0)
        assert tuples(device.extents()) == [
            (0, BLOCK, "data"),
            (BLOCK, base.size - 2 * BLOCK, "zero"),
            (base.size - BLOCK, BLOCK, "data"),
        ]


def test_extents_of_the_cache_lie_over_those_of_the_base(path, base):
    with Overlay.create(path, base, identity=NAME, size=base.size + 3 * BLOCK) as device:
        device.write(9 * BLOCK, memoryview(b"x"))
        device.zero(2 * BLOCK, BLOCK)
        device.write(base.size + BLOCK, memoryview(b"y" * BLOCK))
        assert tuples(device.extents()) == [
            (0, 2 * BLOCK, "data"),
            (2 * BLOCK, BLOCK, "zero"),
            (3 * BLOCK, 5 * BLOCK, "data"),
            (8 * BLOCK, BLOCK, "hole"),
            (9 * BLOCK, BLOCK, "data"),
            (10 * BLOCK, 6 * BLOCK, "hole"),
            (16 * BLOCK, base.size - 16 * BLOCK, "data"),
            (base.size, BLOCK, "hole"),
            (base.size + BLOCK, BLOCK, "data"),
            (base.size + 2 * BLOCK, BLOCK, "hole"),
        ]


def test_a_device_may_be_larger_than_its_base(path, rng):
    base = MemoryDisk(rng.randbytes(BLOCK + 100))
    with Overlay.create(path, base, identity=NAME, size=3 * BLOCK + 7) as device:
        assert content(device) == base.content + bytes(2 * BLOCK - 93)
        device.write(BLOCK + 50, memoryview(b"z"))
        expected = bytearray(base.content + bytes(2 * BLOCK - 93))
        expected[BLOCK + 50] = ord("z")
        assert content(device) == expected
        assert device.peek(BLOCK, 101) is None
    with pytest.raises(errors.UsageError):
        Overlay.create(path.with_name("small"), base, identity=NAME, size=BLOCK)
    with pytest.raises(errors.UsageError):
        Overlay.create(path.with_name("name"), base, identity="n" * 3000)


def test_a_cache_serves_one_base_and_one_process(path, base):
    with Overlay.create(path, base, identity=NAME):
        with pytest.raises(errors.ExportError, match="another process"):
            Overlay.open(path, base, identity=NAME)
        with pytest.raises(errors.ExportError, match="another process"):
            overlay_file.remove(path)
        with pytest.raises(errors.AlreadyExists):
            Overlay.create(path, base, identity=NAME)
    with pytest.raises(errors.CacheMismatch, match="point/vda, not other/vda"):
        Overlay.open(path, base, identity="other/vda")
    with pytest.raises(errors.CacheMismatch, match="this one 5"):
        Overlay.open(path, MemoryDisk(b"12345"), identity=NAME)
    overlay_file.remove(path)
    overlay_file.remove(path)
    assert os.listdir(path.parent) == []
    with pytest.raises(errors.NotFound):
        Overlay.open(path, base, identity=NAME)


def test_what_a_killed_creation_left_is_no_obstacle(path, base):
    partial = path.with_name(f".{path.name}.ruchu-partial")
    partial.write_bytes(b"rubbish" * 1000)
    with partial.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(errors.ExportError):
            Overlay.create(path, base, identity=NAME)
    with Overlay.create(path, base, identity=NAME) as device:
        assert content(device) == base.content
    assert os.listdir(path.parent) == [path.name]


def test_damage_is_told_from_a_cache(path, base):
    with Overlay.create(path, base, identity=NAME) as device:
        device.write(0, memoryview(b"x"))
        header = device.header
    whole = path.read_bytes()

    def opens_as(content, error):
        path.write_bytes(content)
        with pytest.raises(error):
            Overlay.open(path, base, identity=NAME)

    for at in range(200):
        broken = bytearray(whole)
        broken[at] ^= 1 << at % 8
        opens_as(broken, errors.CacheDamaged)
    for length in (0, 100, 4096, 8192, len(whole) - 1):
        opens_as(whole[:length], errors.CacheDamaged)
    opens_as(whole + b"x", errors.CacheDamaged)
    beyond = bytearray(whole)
    beyond[overlay_file.BITMAP_OFFSET + header.blocks // 8] |= 0x80
    opens_as(beyond, errors.CacheDamaged)
    other = header.encode()[:8] + b"\x02" + header.encode()[9:-32]
    opens_as(overlay_file._sealed(other) + whole[4096:], errors.UnknownFormat)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(errors.CacheDamaged):
        Overlay.open(path, base, identity=NAME)


@pytest.mark.parametrize(
    ("base_size", "size", "length"), [(2, 1, 3), (0, 1 << 60, 3), (0, 1, 5000), (0, 1 << 20, 3)]
)
def test_a_header_that_contradicts_itself_is_damage(base_size, size, length):
    fixed = overlay_file._HEADER.pack(
        b"RUCHUWC\n", 1, BLOCK, bytes(16), base_size, size, 12288, 5, length
    )
    with pytest.raises(errors.CacheDamaged):
        overlay_file.decode_header(overlay_file._sealed(fixed + b"abc"))


@pytest.mark.slow
def test_a_huge_device_costs_what_is_written(path, base):
    opened = 10 * TIB
    try:
        device = Overlay.create(path, base, identity=NAME, size=opened)
    except errors.StorageError:
        pytest.skip("this file system has no files of 10 TiB")
    with device:
        for start in (0, 5 * TIB + 3, opened - 1):
            device.write(start, memoryview(b"!"))
    with Overlay.open(path, base, identity=NAME) as device:
        pages = device._written.pages()
        assert pages == [0, 5 * TIB // BLOCK >> 15, (opened // BLOCK - 1) >> 15]
        assert content(device, opened - 2, 2) == b"\0!"
        assert content(device, 5 * TIB, 5) == b"\0\0\0!\0"
        device.discard(0, opened)
        assert tuples(device.extents()) == [(0, opened, "zero")]
        assert device.written_bytes == opened


def test_rounds_bring_what_changed(path, base):
    with Overlay.create(path, base, identity=NAME) as device:
        device.write(0, memoryview(b"x"))
        first = device.begin_round()
        assert first.extents == [Extent(0, BLOCK)]
        device.write(5 * BLOCK, memoryview(b"x"))
        second = device.begin_round()  # the first one was lost: everything comes again
        assert second.extents == [Extent(0, BLOCK), Extent(5 * BLOCK, BLOCK)]
        with pytest.raises(errors.UsageError):
            device.acknowledge(first)
        device.zero(5 * BLOCK, BLOCK)
        device.acknowledge(second)
        third = device.begin_round()
        assert third.extents == [Extent(5 * BLOCK, BLOCK, Content.ZERO)]
        device.write(7 * BLOCK, memoryview(b"x"))
        device.write(0, memoryview(b"x"))
        device.write(0, memoryview(b"x"))
        fourth = device.begin_round()
        assert tuples(fourth.extents) == [
            (0, BLOCK, "data"),
            (5 * BLOCK, BLOCK, "zero"),
            (7 * BLOCK, BLOCK, "data"),
        ]
        device.acknowledge(fourth)
        assert device.begin_round().extents == []
    with Overlay.open(path, base, identity=NAME) as device:
        assert len(device.begin_round().extents) == 3


def test_a_full_file_system_breaks_nothing(base, rng):
    file = simulated(base)
    device = over(base, file)
    kept = rng.randbytes(4 * BLOCK)
    device.write(0, memoryview(kept))
    device.flush()
    file.capacity = file.allocated() + BLOCK
    with pytest.raises(errors.StorageFull):
        for start in range(4 * BLOCK, base.size, BLOCK):
            device.write(start, memoryview(rng.randbytes(BLOCK)))
    assert content(device, 0, 4 * BLOCK) == kept
    assert content(device, 20 * BLOCK) == base.content[20 * BLOCK :]
    device.flush()
    file.capacity = 1 << 60
    device.write(4 * BLOCK, memoryview(kept))
    device.flush()
    file.crash()
    device = Overlay(base, file, identity=NAME, session=b"next")
    assert content(device, 0, 8 * BLOCK) == kept * 2


def test_a_flush_that_lacks_room_may_be_tried_again(base):
    file = simulated(base)
    device = over(base, file)
    device.write(0, memoryview(b"x" * BLOCK))
    file.capacity = 0
    with pytest.raises(errors.StorageFull):
        device.flush()
    file.capacity = 1 << 60
    device.flush()
    file.crash()
    device = Overlay(base, file, identity=NAME, session=b"next")
    assert content(device, 0, BLOCK) == b"x" * BLOCK


def test_after_a_failed_sync_no_flush_succeeds(base):
    file = simulated(base)
    device = over(base, file)
    device.write(0, memoryview(b"x" * BLOCK))
    device.flush()
    device.write(BLOCK, memoryview(b"x" * BLOCK))
    file.broken = True
    with pytest.raises(errors.StorageError, match="write cache"):
        device.flush()
    file.broken = False
    for _ in range(3):
        with pytest.raises(errors.StorageError, match="earlier flush"):
            device.flush()
    with pytest.raises(errors.StorageError):
        device.close()
    # The same boot, yet only what was flushed counts: the kernel may have dropped the rest.
    device = over(base, file)
    assert content(device, 0, 2 * BLOCK) == b"x" * BLOCK + base.content[BLOCK : 2 * BLOCK]


def test_errors_of_the_base_come_through(base, path):
    with Overlay.create(path, base, identity=NAME) as device:
        base.error = errors.Damaged("chunk")
        with pytest.raises(errors.Damaged):
            content(device, 0, 10)
        with pytest.raises(errors.Damaged):
            device.write(1, memoryview(b"x"))
        device.write(0, memoryview(b"x" * BLOCK))
        assert content(device, 0, BLOCK) == b"x" * BLOCK
        base.error = None
        assert content(device, BLOCK) == base.content[BLOCK:]


def test_errors_of_the_file_are_named(base, monkeypatch):
    file = simulated(base)
    device = over(base, file)
    device.write(0, memoryview(b"x" * BLOCK))

    def broken(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(file, "read_into", broken)
    monkeypatch.setattr(file, "write", broken)
    monkeypatch.setattr(file, "punch", broken)
    with pytest.raises(errors.StorageError, match="reading at 0: broken"):
        content(device, 0, 10)
    with pytest.raises(errors.StorageError, match="writing at 0: broken"):
        device.write(0, memoryview(b"x"))
    with pytest.raises(errors.StorageError, match="punching at 0: broken"):
        device.zero(0, BLOCK)


def test_a_file_system_without_holes_gets_zeros(path, base, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "no holes")

    monkeypatch.setattr(overlay_file, "_fallocate", unsupported)
    with Overlay.create(path, base, identity=NAME) as device:
        device.discard(0, base.size)
        assert content(device) == bytes(base.size)


def test_short_reads_and_writes_are_carried_on(tmp_path, monkeypatch):
    file = RealFile(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
    pwritev, pwrite, preadv = os.pwritev, os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: pwritev(fd, [parts[0][:3]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:2], at))
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: preadv(fd, [parts[0][:2]], at))
    file.write(0, [b"hello", b"world"])
    buffer = bytearray(10)
    file.read_into(0, memoryview(buffer))
    assert buffer == b"helloworld"
    with pytest.raises(OSError, match="cut off"):
        file.read_into(5, memoryview(buffer))
    assert file.size() == 10
    file.close()
    file.close()


@pytest.mark.slow
def test_threads_write_side_by_side(path, rng):
    base = MemoryDisk(rng.randbytes(4 << 20))
    expected = bytearray(base.content)
    # Each thread has every fourth 1 KiB for itself, so that blocks are shared and bytes are not.
    plan = [[] for _ in range(4)]
    for number in range(4000):
        start = rng.randrange(base.size // 1024) * 1024
        data = rng.randbytes(rng.randrange(1, 1025))
        plan[start // 1024 % 4].append((start, data))
        expected[start : start + len(data)] = data
        if number % 50 == 0:
            plan[number % 4].append(None)
    failed = []

    def work(device, steps):
        try:
            for step in steps:
                if step is None:
                    device.flush()
                    continue
                start, data = step
                device.write(start, memoryview(data))
                assert content(device, start, len(data)) == data
        except BaseException as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    with Overlay.create(path, base, identity=NAME) as device:
        threads = [threading.Thread(target=work, args=(device, steps)) for steps in plan]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert content(device) == expected
    with Overlay.open(path, base, identity=NAME) as device:
        assert content(device) == expected


WRITER = textwrap.dedent("""
    import random, sys
    from pathlib import Path
    from ruchu.blocks.overlay import Overlay
    from ruchu.testing.memory_disk import MemoryDisk

    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    base = MemoryDisk(random.Random(0).randbytes(1 << 18))
    device = Overlay.open(path, base, identity="point/vda")
    rng = random.Random(seed)
    while True:
        start = rng.randrange(base.size - 20000)
        length, kind = rng.randrange(1, 20000), rng.randrange(10)
        if kind == 0:
            device.flush()
        elif kind < 3:
            device.discard(start, length)
        else:
            device.write(start, memoryview(random.Random(start).randbytes(length)))
        print(flush=True)
""")


def replay(count, seed, image):
    """Do what the writer did in its first `count` steps; return where the next one writes."""
    rng = random.Random(seed)
    for number in range(count + 1):
        start = rng.randrange(len(image) - 20000)
        length, kind = rng.randrange(1, 20000), rng.randrange(10)
        if number == count:
            return start, start + length
        if kind >= 3:
            image[start : start + length] = random.Random(start).randbytes(length)
        elif kind:
            image[start : start + length] = bytes(length)
    raise AssertionError


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_returned(tmp_path):
    base = MemoryDisk(random.Random(0).randbytes(1 << 18))
    for seed in range(30):
        path = tmp_path / f"cache-{seed}"
        Overlay.create(path, base, identity=NAME).close()
        args = [sys.executable, "-c", WRITER, str(path), str(seed)]
        with subprocess.Popen(args, stdout=subprocess.PIPE) as writer:
            for _ in range(seed * 3):
                assert writer.stdout.read(1) == b"\n"
            writer.send_signal(signal.SIGKILL)
            done = seed * 3 + len(writer.stdout.read())
        expected = bytearray(base.content)
        low, high = replay(done, seed, expected)
        with Overlay.open(path, base, identity=NAME) as device:
            found = content(device)
        assert found[:low] == expected[:low], seed
        assert found[high:] == expected[high:], seed
        path.unlink()


def test_what_is_handed_out_survives_a_full_tmpfs(tmp_path, base):
    """The real thing: a file system of 300 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(place)], check=False
    )
    if mounted.returncode:
        pytest.skip("needs root")
    try:
        with Overlay.create(place / "cache", base, identity=NAME) as device:
            written = 0
            with pytest.raises(errors.StorageFull):
                for start in range(0, base.size, BLOCK):
                    device.write(start, memoryview(b"x" * BLOCK))
                    written = start + BLOCK
            assert written > 30 * BLOCK
            device.discard(0, 2 * BLOCK)
            device.flush()
        with Overlay.open(place / "cache", base, identity=NAME) as device:
            middle = b"x" * (written - 2 * BLOCK)
            assert content(device) == bytes(2 * BLOCK) + middle + base.content[written:]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_an_overlay_lets_go_of_what_it_cannot_open(path, base):
    Overlay.create(path, base, identity=NAME).close()
    with contextlib.suppress(errors.CacheMismatch):
        Overlay.open(path, base, identity="other")
    Overlay.open(path, base, identity=NAME).close()


def test_refusals_of_the_file_system_are_told(tmp_path, path, base, monkeypatch):
    with pytest.raises(errors.StorageError, match=r"vda\.cache"):
        Overlay.create(path, base, identity=NAME, size=1 << 55)
    assert os.listdir(tmp_path) == []
    path.symlink_to("elsewhere")
    with pytest.raises(errors.StorageError):
        Overlay.open(path, base, identity=NAME)
    path.unlink()
    Overlay.create(path, base, identity=NAME).close()

    def broken(*_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(overlay_file, "sync_directory", broken)
        with pytest.raises(errors.StorageError, match="broken"):
            overlay_file.remove(path)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with contextlib.closing(RealFile(descriptor)) as file:
        with pytest.raises(OSError, match="Invalid argument"):
            file.punch(0, 0)
        monkeypatch.setattr(os, "lseek", broken)
        with pytest.raises(OSError, match="broken"):
            list(file.data_ranges(0, 1))


def test_data_is_looked_for_inside_the_range_only(tmp_path):
    with contextlib.closing(RealFile(os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT))) as file:
        file.write(10 * BLOCK, [b"x" * 3 * BLOCK])
        assert list(file.data_ranges(0, 5 * BLOCK)) == []
        assert list(file.data_ranges(0, 11 * BLOCK)) == [(10 * BLOCK, 11 * BLOCK)]
        assert list(file.data_ranges(0, 99 * BLOCK)) == [(10 * BLOCK, 13 * BLOCK)]


def test_what_waits_for_nothing_is_written_at_once(path, base, rng):
    data = memoryview(rng.randbytes(3 * BLOCK))
    with Overlay.create(path, base, identity=NAME) as device:
        assert device.write_at_once(BLOCK, data)
        assert content(device, BLOCK, 3 * BLOCK) == data
        # These would need the base.
        assert not device.write_at_once(BLOCK + 1, data)
        assert not device.write_at_once(BLOCK, data[:-1])
        assert not device.write_at_once(0, data[:0])
    with Overlay.open(path, base, identity=NAME) as device:
        assert content(device) == base.content[:BLOCK] + data + base.content[4 * BLOCK :]


def test_nothing_waits_for_another_writer_at_once(path, rng):
    disk = MemoryDisk(rng.randbytes(2 << 20))
    came, gate = threading.Event(), threading.Event()
    read = disk.read_into

    def slow(start, buffer):
        came.set()
        assert gate.wait(30)
        read(start, buffer)

    disk.read_into = slow
    data = memoryview(bytes(BLOCK))
    with Overlay.create(path, disk, identity=NAME) as device:
        other = threading.Thread(target=device.write, args=(5, memoryview(b"x")))
        other.start()
        assert came.wait(30)
        assert not device.write_at_once(8 * BLOCK, data)
        assert device.write_at_once(1 << 20, data)
        # Over two stretches at a time nothing is tried.
        assert not device.write_at_once((1 << 20) - BLOCK, memoryview(bytes(2 * BLOCK)))
        gate.set()
        other.join()
        assert content(device, 5, 1) == b"x"
        assert device.write_at_once(8 * BLOCK, data)
