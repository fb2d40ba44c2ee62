"""Thousands of odd files of each file system: what a guest's kernel shows, and what we show.

There are 20,000 of each with RUCHU_PROFILE=faults (`make long`), a tenth of that otherwise.

Of each: names in Chinese, with a newline, of 255 bytes (or characters), not in UTF-8; holes, room
set aside, hard links, symbolic links, devices, extended attributes, ACLs, times from 1906 to 2242,
paths too long for a system call, a terabyte with holes. See `file_tree.c`.

Debian's kernel has no driver for NTFS that writes; there ntfs-3g takes its place, on the host.
"""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ruchu.blocks.files import FileReader
from ruchu.guests import ranges, volumes
from ruchu.testing.guests import file_trees
from ruchu.testing.guests.guest import GuestDisk, defined

pytestmark = [pytest.mark.system, pytest.mark.slow]

MIB = 1 << 20
SHARE = 1 if os.environ.get("RUCHU_PROFILE") == "faults" else 10
FILES = 20_000 // SHARE
# Emulated, beside other work on two cores.
GROW_LIMIT_S = 400
# Of 20,000: what every file system takes, and what those of Linux take.
EVERYWHERE = {"files": 12_000, "directories": 400, "renamed": 100, "removed": 100, "cjk": 1500}
LINUX = EVERYWHERE | {
    "hard": 500,
    "symlinks": 400,
    "nodes": 100,
    "xattrs": 1500,
    "acls": 500,
    "allocated": 150,
    "newline": 800,
    "longest": 800,
    "not-utf8": 800,
    "times": 2000,
    "owners": 2000,
    "large": 3,
}
WINDOWS = EVERYWHERE | {"longest": 1500, "times": 2000}


@dataclass(frozen=True)
class Case:
    """A file system, and how it is made, filled and judged.

    Attributes:
        make: program and options that make it.
        modules: what the guest's kernel needs for it.
        fill: options of mounts that each fill a part of it.
        options: of every mount.
        judge: program that says whether it is sound.
        made: at least so many of each kind.
        ignoring: what of `Shown` the file system does not keep, or the kernel makes up.
    """

    make: str
    modules: tuple[str, ...]
    judge: str
    fill: tuple[str, ...] = ("rw",)
    options: str = "noatime"
    size: int = 900 * MIB
    huge: int = 3
    made: dict[str, int] = field(default_factory=lambda: LINUX)
    ignoring: frozenset[str] = frozenset()


# A kernel counts the links of a directory of FAT as it likes, makes numbers of inodes up, has no
# holes to tell of, and shows the time of a change of content for that of a change of state.
MADE_UP = frozenset({"links", "node", "data", "changed"})
FAT = {"huge": 0, "made": WINDOWS, "ignoring": MADE_UP}
OWNERLESS = "noatime,fmask=0133,dmask=0022"
CASES = {
    "ext4": Case("mkfs.ext4 -q -F", (), "e2fsck -fn"),
    "ext4-1k": Case(
        "mkfs.ext4 -q -F -b 1024 -O inline_data,^flex_bg", (), "e2fsck -fn", fill=("rw",) * 4
    ),
    "xfs": Case("mkfs.xfs -q", ("xfs",), "xfs_repair -n"),
    "btrfs": Case("mkfs.btrfs -q", ("btrfs",), "btrfs check --readonly"),
    "btrfs-compressed": Case(
        "mkfs.btrfs -q --csum xxhash",
        ("btrfs",),
        "btrfs check --readonly",
        fill=("compress=zstd", "compress=lzo", "compress-force=zlib"),
    ),
    "vfat": Case(
        "mkfs.vfat -F 32 -s 8", ("vfat",), "fsck.vfat -n", options=f"{OWNERLESS},tz=UTC", **FAT
    ),
    "exfat": Case("mkfs.exfat -c 4096", ("exfat",), "fsck.exfat -n", options=OWNERLESS, **FAT),
}


def run(*words):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, check=False, timeout=250
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Return the program that fills and lists, linked statically."""
    target = tmp_path_factory.mktemp("program") / "file_tree"
    return file_trees.compiled(Path(__file__).with_name("file_tree.c"), target)


def seen_in_guest(uri, program, kind, case, image):
    """Fill a file system in a guest; return what its kernel shows of it, freshly mounted."""
    disks = [GuestDisk("vda", case.size, "raw", filesystem=False)]
    disks += [GuestDisk("vdb", 64 * MIB, "raw", filesystem=False)]
    with defined(uri, disks, modules=case.modules) as guest:
        run(*case.make.split(), guest.disks["vda"])
        guest.start()
        guest.put("/tmp/file_tree", program, executable=True)
        guest.run("umount /mnt/vda 2>/dev/null; mkdir -p /mnt/v")
        made = {}
        for number, options in enumerate(case.fill):
            mount = f"mount -t {kind} -o {case.options},{options} /dev/vda /mnt/v"
            grow = f"/tmp/file_tree grow /mnt/v/part{number} {number + 1}"
            count, huge = FILES // len(case.fill), case.huge if number == 0 else 0
            said = guest.run(f"{mount} && {grow} {count} {huge} && umount /mnt/v", GROW_LIMIT_S)
            part = file_trees.counts(said)
            made = {name: made.get(name, 0) + part[name] for name in part}
        too_few = {
            name: made[name] for name, least in case.made.items() if made[name] * SHARE < least
        }
        assert not too_few, made
        mount = f"mount -t {kind} -o {case.options},ro /dev/vda /mnt/v"
        guest.run(f"{mount} && /tmp/file_tree list /mnt/v /dev/vdb", GROW_LIMIT_S)
        guest.run("umount /mnt/v")
        guest.stop()
        shutil.move(guest.disks["vda"], image)
        return file_trees.parsed(guest.disks["vdb"].read_bytes())


@contextlib.contextmanager
def the_volume(image):
    with FileReader(image) as device:
        layout = volumes.discover({"vda": device})
        (volume,) = layout.volumes
        assert not layout.doubts
        assert not volume.reason
        yield volume


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CASES)
def test_a_guests_kernel_shows_what_we_show(libvirt_uri, program, tmp_path, name):
    case, kind = CASES[name], name.partition("-")[0]
    image = tmp_path / "vda.raw"
    kernels = seen_in_guest(libvirt_uri, program, kind, case, image)
    assert len(kernels) > FILES * 9 // 10
    if case.made is WINDOWS:
        del kernels[b""]  # The times of the root are the kernel's invention.
    with the_volume(image) as volume:
        ours = everything = file_trees.read(volumes.open_file_system(volume))
        if case.made is WINDOWS:
            ours = {path: shown for path, shown in ours.items() if path}
        if kind == "btrfs":
            ours = file_trees.in_sectors(ours)
        different = file_trees.differences(ours, kernels, ignoring=case.ignoring)
        assert not different, "\n".join(different[:20])
        found = volumes.allocation_of(volume, frozen=False)
        assert found.doubt == ""
        assert ranges.total(found.used) < case.size * 2 // 3
    copy = file_trees.only_mapped(image, found.used)
    run(*case.judge.split(), copy)
    with the_volume(copy) as volume:
        assert file_trees.read(volumes.open_file_system(volume)) == everything


# What ntfs-3g makes up, and what it gets wrong: its nanoseconds before 1970 are negative.
OF_NTFS = frozenset({"mode", "owner", "group", "created", "xattrs", "data", "allocated"})


@pytest.mark.timeout(600)
def test_ntfs_3g_shows_what_we_show(tmp_path, program):
    image, place, tool = tmp_path / "vda.raw", tmp_path / "mount", tmp_path / "file_tree"
    tool.write_bytes(program)
    tool.chmod(0o755)
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(900 * MIB)
    run("mkfs.ntfs", "-q", "-F", "-Q", image)
    options = "noatime,streams_interface=none,permissions"
    with mounted_by_ntfs_3g(image, place, options):
        done = subprocess.run(
            [tool, "grow", place / "part", "1", str(FILES), "0"],
            check=True,
            capture_output=True,
            timeout=250,
        )
    made = file_trees.counts(done.stdout.decode())
    least = WINDOWS | {"hard": 500, "symlinks": 400, "nodes": 100, "newline": 800}
    assert not {name: made[name] for name in least if made[name] * SHARE < least[name]}
    with mounted_by_ntfs_3g(image, place, f"ro,{options}"):
        run(tool, "list", place, tmp_path / "list")
    theirs = file_trees.parsed((tmp_path / "list").read_bytes())
    with the_volume(image) as volume:
        ours = file_trees.read(volumes.open_file_system(volume))
    for path in ours.keys() & theirs.keys():
        theirs[path] = as_we_see_it(ours[path], theirs[path])
    different = file_trees.differences(ours, theirs, ignoring=OF_NTFS)
    assert not different, "\n".join(different[:20])


@contextlib.contextmanager
def mounted_by_ntfs_3g(image, place, options):
    run("ntfs-3g", "-o", options, image, place)
    try:
        yield
    finally:
        run("umount", place)


def as_we_see_it(ours, theirs):
    """Return what ntfs-3g shows without its errors and its view of Windows' system files."""
    if theirs.kind in {"f", "s"}:
        # It takes an empty system file for a FIFO, one of a byte for a socket.
        theirs = replace(theirs, kind=ours.kind, size=ours.size, content=ours.content)
    if theirs.kind in {"c", "b"}:
        theirs = replace(theirs, size=ours.size)
    if ours.modified < 0:
        theirs = replace(theirs, modified=ours.modified)
    if ours.accessed < 0:
        theirs = replace(theirs, accessed=ours.accessed)
    return theirs
