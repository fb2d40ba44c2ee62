"""An XFS whose log was not written into place: we show what a kernel shows after it replayed it.

The file system is shut down in the middle of its work by the ioctl that the kernel has for that,
which leaves all of it in the log. The judge is the kernel, which mounts a copy.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ruchu.blocks.files import FileReader
from ruchu.guests import volumes
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import superblock
from ruchu.guests.xfs.log_ring import LogRing
from ruchu.testing.guests import file_trees

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

SIZE = 600 << 20
STEPS = 1500
# XFS_IOC_GOINGDOWN; 1 writes the log before, and nothing else.
SHUTDOWN, FLUSH_LOG = 0x8004587D, 1
# What a workload may run into: no room, too many links, a directory that is gone.
EXPECTED = {
    errno.ENOSPC,
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.ENOENT,
    errno.EINVAL,
    errno.EPERM,
    errno.ENXIO,
    errno.ENOTDIR,
}
NEW = ("-m", "crc=1,finobt=1,rmapbt=1,reflink=1,bigtime=1,inobtcount=1", "-i", "sparse=1,nrext64=1")
OLD = ("-m", "finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0")
# Options of mount, then of mkfs.xfs.
MADE = {
    "default": ("noatime",),
    "newest": ("noatime", *NEW),
    "first-v5": ("noatime", *OLD),
    "small-blocks": ("noatime,logbsize=32k", "-b", "size=1024", "-n", "size=8192"),
    "large-blocks": ("noatime", "-b", "size=16384", "-i", "size=2048", "-s", "size=4096"),
    "large-records": ("noatime,logbsize=256k", "-l", "su=64k", "-n", "size=65536"),
    "round-and-round": ("noatime", "--unsupported", "-l", "size=8m"),
}


def run(*words):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, check=False, timeout=200
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@contextlib.contextmanager
def mounted(image, options):
    at = Path(f"{image}.mount")
    at.mkdir(exist_ok=True)
    run("mount", "-t", "xfs", "-o", f"loop,{options}", image, at)
    try:
        yield at
    finally:
        run("umount", at)
        at.rmdir()


class Work:
    """Makes, changes and removes files of all kinds, and hardly ever waits for the disk."""

    def __init__(self, root, rng):
        self.rng = rng
        self.directories = [os.fsencode(root)]
        self.files = []
        kinds = [
            (35, self.write), (10, self.directory), (10, self.remove), (5, self.rename),
            (6, self.attributes), (4, self.link), (5, self.hard_link), (5, self.scattered),
            (4, self.truncate), (4, self.clone), (2, self.node), (1, self.remove_directory),
            (1, self.long_names), (7, self.owner),
        ]  # fmt: skip
        self.kinds = [kind for weight, kind in kinds for _ in range(weight)]

    def step(self):
        try:
            self.rng.choice(self.kinds)()
        except OSError as error:
            if error.errno not in EXPECTED:
                raise

    def new(self):
        name = b"n%0*d" % (self.rng.choice((3, 20, 120)), self.rng.randrange(10**6))
        return self.rng.choice(self.directories) + b"/" + name

    def any(self):
        if not self.files:
            raise FileNotFoundError(errno.ENOENT, "no file yet")
        return self.rng.choice(self.files)

    def write(self):
        path = self.new()
        with open(path, "wb") as file:
            file.write(self.rng.randbytes(self.rng.choice((0, 10, 5000, 70000))))
        self.files.append(path)

    def directory(self):
        path = self.new()
        os.mkdir(path)
        self.directories.append(path)

    def remove(self):
        path = self.any()
        os.unlink(path)
        self.files.remove(path)

    def rename(self):
        path, other = self.any(), self.new()
        os.rename(path, other)
        self.files.remove(path)
        self.files.append(other)

    def attributes(self):
        path = self.any()
        for _ in range(self.rng.choice((1, 1, 20))):
            value = self.rng.randbytes(self.rng.choice((5, 200, 3000)))
            os.setxattr(path, f"user.{self.rng.randrange(50)}", value, follow_symlinks=False)

    def link(self):
        path = self.new()
        os.symlink(b"x" * self.rng.choice((5, 300, 900)), path)
        self.files.append(path)

    def hard_link(self):
        path = self.new()
        os.link(self.any(), path, follow_symlinks=False)
        self.files.append(path)

    def scattered(self):
        path = self.new()
        with open(path, "wb") as file:
            for index in range(self.rng.choice((5, 60, 300))):
                file.seek(index * 16384)
                file.write(b"z" * 4096)
                if index % 20 == 0:
                    os.fdatasync(file.fileno())
        self.files.append(path)

    def truncate(self):
        path = self.any()
        if not os.path.islink(path):
            os.truncate(path, self.rng.randrange(100_000))

    def clone(self):
        path, other = self.any(), self.new()
        if os.path.isfile(path) and not os.path.islink(path):
            run("cp", "--reflink=auto", os.fsdecode(path), os.fsdecode(other))
            self.files.append(other)

    def node(self):
        path = self.new()
        os.mknod(path, 0o020644, os.makedev(self.rng.randrange(200), self.rng.randrange(200)))
        self.files.append(path)

    def remove_directory(self):
        path = self.rng.choice(self.directories)
        if path != self.directories[0]:
            shutil.rmtree(path)
            self.directories = [
                each for each in self.directories if not (each + b"/").startswith(path + b"/")
            ]
            self.files = [each for each in self.files if not each.startswith(path + b"/")]

    def long_names(self):
        path = self.new()
        os.mkdir(path)
        self.directories.append(path)
        for number in range(120):
            open(path + b"/%0200d" % number, "wb").close()

    def owner(self):
        path = self.any()
        os.chown(path, self.rng.randrange(9), 3, follow_symlinks=False)
        moment = self.rng.randrange(10**18)
        os.utime(path, ns=(moment, moment + 1), follow_symlinks=False)


def crashed(image, rng, made="default", steps=STEPS):
    """Make an image of a file system that was shut down in the middle of its work."""
    options, *words = MADE[made]
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.xfs", "-q", *words, image)
    with mounted(image, options) as root:
        work = Work(root, rng)
        for number in range(steps):
            work.step()
            if number == steps // 3:
                # From here on things are in place, and only what changes is in the log.
                run("sync", "-f", root)
        place = os.open(root, os.O_RDONLY)
        fcntl.ioctl(place, SHUTDOWN, struct.pack("I", FLUSH_LOG))
        os.close(place)
    return image


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Return where the program is that lists what a kernel shows."""
    target = tmp_path_factory.mktemp("program") / "file_tree"
    file_trees.compiled(Path(__file__).with_name("file_tree.c"), target)
    return target


def ours(image):
    """Return what we show of an image, and what we say of it."""
    with FileReader(image) as device:
        (volume,) = volumes.discover({"vda": device}).volumes
        assert "log" in volumes.allocation_of(volume, frozen=False).doubt
        system = volumes.open_file_system(volume)
        return file_trees.read(system), system.facts.notes


def kernels(image, program):
    """Return what the kernel shows of a copy of an image that it may write."""
    copy = image.with_suffix(".copy")
    run("cp", "--sparse=always", image, copy)
    with mounted(copy, "noatime,nouuid") as place:
        run(program, "list", place, image.with_suffix(".list"))
    return file_trees.parsed(image.with_suffix(".list").read_bytes())


def assert_same(image, program):
    shown, notes = ours(image)
    assert notes == ("it was not unmounted cleanly: it is shown as after its log was replayed",)
    theirs = kernels(image, program)
    different = file_trees.differences(shown, theirs, ignoring=frozenset())
    assert not different, "\n".join(different[:20])
    return shown


def records(image):
    """Return where in the image the records are that are not in place, first to last."""
    with FileReader(image) as device:
        volume = VolumeReader(device)
        found = superblock.load(volume)
        ring = LogRing(volume, found)
        start = found.address(found.log_start, found.log_blocks)
        last = ring.last_whole()
        return [(start + each.at * 512, each.sectors * 512) for each in ring.since_tail(last)]


@pytest.mark.parametrize("made", MADE)
def test_a_kernel_that_replays_the_log_shows_the_same(program, tmp_path, rng, made):
    image = crashed(tmp_path / "xfs.img", rng, made)
    assert len(assert_same(image, program)) > 500
    assert len(records(image)) > 30


@pytest.mark.parametrize("back", [1, 2, 7])
def test_a_torn_record_ends_the_log_as_it_does_for_the_kernel(program, tmp_path, rng, back):
    image = crashed(tmp_path / "xfs.img", rng, steps=800)
    before = ours(image)[0]
    places = records(image)
    start, length = places[-back]
    content = bytearray(image.read_bytes()[start : start + length])
    content[rng.randrange(516, length)] ^= 1
    with image.open("r+b") as file:
        file.seek(start)
        file.write(content)
    assert assert_same(image, program) != before
    assert records(image) == places[:-back]


def test_a_hole_among_the_last_records_ends_the_log_too(program, tmp_path, rng):
    image = crashed(tmp_path / "xfs.img", rng, steps=800)
    places = records(image)
    start, length = places[-3]
    with image.open("r+b") as file:
        file.seek(start)
        # As after mkfs: no lap has been here.
        file.write(bytes(length))
    assert_same(image, program)
    assert records(image) == places[:-3]


def test_damage_further_back_leaves_the_log_aside(program, tmp_path, rng):
    image = crashed(tmp_path / "xfs.img", rng, steps=800)
    start, length = records(image)[-30]
    with image.open("r+b") as file:
        file.seek(start + length - 200)
        file.write(b"\xa5" * 8)
    with FileReader(image) as device:
        (volume,) = volumes.discover({"vda": device}).volumes
        system = volumes.open_file_system(volume)
    assert "missing" in system.facts.notes[0]
    assert "checksum" in system.facts.notes[0]
    with pytest.raises(AssertionError, match="mount"):
        kernels(image, program)
