"""A point as a directory, and over iSCSI, by the command line."""

import os
import random
import socket

import pytest

from ruchu import commands
from ruchu.testing.command_line import CommandLine
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]
PASSWORD = "correct-horse-battery"


def sh(*words, status=0):
    done = commands.run([str(word) for word in words], timeout_s=60, check=False)
    assert done.status == status, (words, done.stdout, done.stderr)
    return done.text


@pytest.fixture
def cli(tmp_path):
    cli = CommandLine(tmp_path)
    (tmp_path / "passphrase").write_text("correct horse\n")
    cli.run("storage", "add", "s", "s", "--passphrase-file", "passphrase")
    return cli


@pytest.fixture
def point(cli, tmp_path):
    """Yield a point of a disk with a partition of ext4, and its files."""
    tree = tmp_path / "tree"
    (tree / "目录").mkdir(parents=True)
    (tree / "目录" / "file").write_bytes(random.Random(1).randbytes(3 * MIB))
    (tree / "link").symlink_to("目录/file")
    part, image = tmp_path / "part", tmp_path / "image"
    sh("truncate", "-s", 30 * MIB, part)
    sh("mkfs.ext4", "-q", "-d", tree, part)
    sh("truncate", "-s", 33 * MIB, image)
    layout = b"label: gpt\nstart=2048, size=61440\n"
    commands.run(["sfdisk", "-q", str(image)], timeout_s=60, input=layout)
    with image.open("r+b") as file:
        file.seek(MIB)
        file.write(part.read_bytes())
    done = cli.json("backup", "image", image, "--storage", "s", "--name", "o")
    return done["point"]


def test_a_point_is_a_directory(cli, point, tmp_path):
    directory = tmp_path / "mounted"
    directory.mkdir()
    with cli.serving("mount", point, directory, "--json") as mount:
        assert mount.answer["disks"] == ["disk0.raw"]
        assert mount.answer["volumes"] == ["disk0p1"]
        assert (directory / "disk0.raw").read_bytes() == (tmp_path / "image").read_bytes()
        inside = directory / "volumes" / "disk0p1"
        assert (inside / "link").read_bytes() == (tmp_path / "tree/目录/file").read_bytes()
        assert os.readlink(inside / "link") == "目录/file"
        with pytest.raises(OSError, match="Read-only"):
            (inside / "new").write_text("x")
        cli.fails(9, "point-in-use", "points", "delete", point, "--yes")
        assert mount.end() == 0
    assert not list(directory.iterdir())
    with cli.serving("mount", point, directory, "--json") as mount:
        sh("fusermount3", "-u", directory)
        assert mount.process.wait(30) == 0
    cli.fails(3, "not-found", "mount", point, tmp_path / "nowhere")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_disks_are_served_over_iscsi(cli, point, tmp_path):
    (tmp_path / "chap").write_text(f"{PASSWORD}\n")
    port = free_port()
    words = ["export", "iscsi", point, "--listen", f"127.0.0.1:{port}", "--user", "web"]
    words += ["--password-file", "chap"]
    cache = tmp_path / "cache"
    with cli.serving(*words, "--writable", cache) as served:
        assert served.answer["writable"]
        url = served.answer["url"].replace("iscsi://", f"iscsi://web%{PASSWORD}@")
        image = tmp_path / "image"
        sh("qemu-img", "compare", "-f", "raw", "-F", "raw", url, image)
        sh("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush", url)
        sh("qemu-img", "compare", "-f", "raw", "-F", "raw", url, image, status=1)
        wrong = url.replace(PASSWORD, "incorrect-horse-battery")
        assert commands.run(
            ["qemu-img", "info", "-f", "raw", wrong], timeout_s=60, check=False
        ).status
        assert served.end() == 0
    with cli.serving(*words, "--writable", cache) as served:
        url = served.answer["url"].replace("iscsi://", f"iscsi://web%{PASSWORD}@")
        sh("qemu-io", "-f", "raw", "-c", "read -P 7 1M 64k", url)
    assert cli.json("storage", "verify", "s", "--full")["clean"]


def test_image_formats_are_shown_over_nfs(cli, point, tmp_path):
    listen = f"127.{random.randrange(2, 250)}.{random.randrange(250)}.{random.randrange(1, 250)}"
    # QEMU does not find the second file of a VMDK over NFS, so it is given that one.
    shown = (("vmdk", "-flat.vmdk", "raw"), ("vhdx", ".vhdx", "vhdx"), ("qcow2", ".qcow2", "qcow2"))
    for image_format, ending, driver in shown:
        words = ["export", "nfs", point, "--listen", f"{listen}:0", "--portmapper"]
        words += ["--allow", "127.0.0.0/8", "--format", image_format]
        with cli.serving(*words) as served:
            path = served.answer["url"].partition("//")[2].partition("/")[2]
            url = f"nfs://{listen}/{path}/disk0{ending}"
            image = tmp_path / "image"
            sh("qemu-img", "compare", "-f", driver, "-F", "raw", url, image)
    cli.run(*words, "--writable", tmp_path / "w", status=2)
