"""Valid data only: what does not count stays out of a backup, and nothing that counts does."""

import os
import shutil

import pytest

from ruchu import commands
from ruchu.testing.command_line import CommandLine
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
SECTOR = 512


def sh(*words):
    return commands.run([str(word) for word in words], timeout_s=120).text


@pytest.fixture
def cli(tmp_path):
    cli = CommandLine(tmp_path)
    cli.run("storage", "add", "s", "s", "--no-encryption")
    os.chmod(tmp_path, 0o755)
    return cli


def test_a_running_machine(cli, libvirt_uri, place):
    cli.run("platform", "add", "kvm", libvirt_uri, "--scratch", place)
    options = ("--storage", "s", "--leave-out", "all")
    with guests.booted(libvirt_uri, [GuestDisk("vda", 256 * MIB)], prefix="ruchu-x") as guest:
        # So the image keeps what is removed, as on most machines.
        guest.run("mount -o remount,nodiscard /mnt/vda")
        sums = {"kept": guest.write("/mnt/vda/kept", 8 * MIB)}
        guest.write("/mnt/vda/gone", 48 * MIB)
        guest.run("rm /mnt/vda/gone; sync")
        (full,) = cli.json("backup", "vm", guest.name, *options)
        (disk,) = full["disks"]
        assert full["consistency"] == "filesystem"
        assert disk["degraded"] == [] or {r["code"] for r in disk["degraded"]} == {"no-base"}
        assert disk["left_out"]["free"] > 40 * MIB
        assert disk["bytes_read"] < 40 * MIB
        # Changed blocks and valid data together: what was written and removed again costs nothing.
        sums["second"] = guest.write("/mnt/vda/second", 4 * MIB)
        guest.write("/mnt/vda/gone", 32 * MIB)
        guest.run("rm /mnt/vda/gone; sync")
        (incremental,) = cli.json("backup", "vm", guest.name, *options)
        (disk,) = incremental["disks"]
        assert (incremental["kind"], disk["read"]) == ("incremental", "changes")
        assert 4 * MIB <= disk["bytes_read"] < 16 * MIB
        assert disk["left_out"]["free"] > 24 * MIB
        # Without it, the same chain goes on.
        sums["third"] = guest.write("/mnt/vda/third", 2 * MIB)
        (whole,) = cli.json("backup", "vm", guest.name, "--storage", "s")
        assert whole["kind"] == "incremental"
        assert "left_out" not in whole["disks"][0]
        guest.stop()
    for number, point in enumerate((full, incremental, whole), 1):
        check_files(cli, point["point"], dict(list(sums.items())[:number]))
    assert cli.json("storage", "verify", "s", "--full")["clean"]


def check_files(cli, point, sums):
    """Restore a disk; its file system is clean, and the files are in it."""
    image = cli.home / f"restored-{point}"
    cli.run("restore", "image", point, image)
    sh("e2fsck", "-fn", image)
    for name, digest in sums.items():
        found = cli.home / f"{name}-{point}"
        sh("debugfs", "-R", f"dump /{name} {found}", image)
        assert sh("sha256sum", found).split()[0] == digest


@pytest.fixture
def disk(tmp_path):
    """Yield an image: GPT with ext4, swap, NTFS with files of Windows, a gap, and an unknown."""
    image = tmp_path / "disk.raw"
    sh("truncate", "-s", "256M", image)
    layout = "label: gpt\n"
    layout += (
        "start=2048, size=131072\nstart=133120, size=65536, type=swap\nstart=200704, size=131072\n"
    )
    layout += "start=409600, size=32768\n"
    (tmp_path / "layout").write_text(layout)
    commands.run(["sfdisk", "-q", str(image)], timeout_s=60, input=layout.encode())
    random = os.urandom(1 << 20)
    with image.open("r+b") as file:
        for at in range(1 << 20, 254 << 20, 1 << 20):
            file.seek(at)
            file.write(random)
    # Old content lies everywhere; the file systems come over it.
    put(image, 2048, extended(tmp_path, 131072))
    swap = tmp_path / "swap"
    sh("truncate", "-s", 65536 * SECTOR, swap)
    sh("mkswap", "-q", swap)
    put(image, 133120, swap, first=4096)
    put(image, 200704, windows(tmp_path, 131072))
    return image


def put(image, sector, part, first=None):
    """Lay the allocated blocks of a partition's image over the old content."""
    with part.open("rb") as source, image.open("r+b") as target:
        at = 0
        size = first or part.stat().st_size
        while at < size:
            try:
                at = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = min(os.lseek(source.fileno(), at, os.SEEK_HOLE), size)
            source.seek(at)
            target.seek(sector * SECTOR + at)
            target.write(source.read(end - at))
            at = end


def extended(tmp_path, sectors):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(3 * MIB))
    (tree / "中文").write_text("你好")
    part = tmp_path / "ext4"
    sh("truncate", "-s", sectors * SECTOR, part)
    sh("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard", "-d", tree, part)
    return part


def windows(tmp_path, sectors):
    part = tmp_path / "ntfs"
    sh("truncate", "-s", sectors * SECTOR, part)
    sh("mkntfs", "-q", "-F", "-f", "-p", 200704, "-H", 16, "-S", 63, part)
    for name, size in (("pagefile.sys", 9), ("hiberfil.sys", 7), ("swapfile.sys", 5), ("a", 3)):
        content = tmp_path / f"win-{name}"
        # What sleeps is marked in the first bytes; this system does not.
        content.write_bytes(bytes(4096) + os.urandom(size * MIB - 4096))
        sh("ntfscp", "-q", part, content, name)
    return part


def test_every_reason_by_itself(cli, disk, tmp_path):
    def back_up(name, what):
        words = ("backup", "image", disk, "--storage", "s", "--name", name, "--leave-out", what)
        return cli.json(*words)

    plain = back_up("plain", "none")
    assert plain["left_out"] == {}
    everything = back_up("all", "all")
    left_out = everything["left_out"]
    assert left_out["swap"] > 30 * MIB
    assert left_out["free"] > 60 * MIB
    for name, size in (("pagefile", 9), ("hiberfil", 7), ("swapfile", 5)):
        assert (size - 1) * MIB < left_out[name] <= size * MIB
    assert left_out["gaps"] > 50 * MIB
    assert plain["bytes_read"] - everything["bytes_read"] == sum(left_out.values())
    # What is unknown counts, and it is said so.
    assert any("disk0p4" in reason["text"] for reason in everything["reasons"]), everything
    for reason, size in left_out.items():
        alone = back_up(reason, reason)
        assert set(alone["left_out"]) == {reason}
        assert abs(alone["left_out"][reason] - size) <= 128 * 1024
    check_restored(cli, everything, disk, tmp_path)
    cli.fails(2, "usage", "backup", "image", disk, "--storage", "s", "--name", "x",
              "--leave-out", "air")  # fmt: skip


def check_restored(cli, point, disk, tmp_path):
    image = tmp_path / "restored"
    cli.run("restore", "image", point["point"], image)
    assert sh("sfdisk", "-d", image) == sh("sfdisk", "-d", disk).replace(str(disk), str(image))
    part = tmp_path / "part"
    cut(image, 2048, 131072, part)
    sh("e2fsck", "-fn", part)
    sh("debugfs", "-R", f"dump /file {tmp_path}/file", part)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "tree" / "file").read_bytes()
    cut(image, 200704, 131072, part)
    sh("ntfsfix", "-n", part)
    found = commands.run(["ntfscat", str(part), "a"], timeout_s=60).stdout
    assert found == (tmp_path / "win-a").read_bytes()
    cut(image, 133120, 65536, part)
    assert sh("blkid", "-p", "-o", "value", "-s", "TYPE", part).strip() == "swap"
    cut(image, 409600, 32768, part)
    cut(disk, 409600, 32768, tmp_path / "before")
    assert part.read_bytes() == (tmp_path / "before").read_bytes()


def cut(image, sector, sectors, target):
    with image.open("rb") as source, target.open("wb") as file:
        source.seek(sector * SECTOR)
        file.write(source.read(sectors * SECTOR))
    assert shutil.disk_usage(target).free
