"""Image formats before the judge: what QEMU makes we read, and what we show QEMU reads."""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from ruchu import commands
from ruchu.blocks.files import FileReader
from ruchu.blocks.formats.opening import format_of, open_image
from ruchu.blocks.formats.presenting import FORMATS, present
from ruchu.errors import Unsupported
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import NbdServer
from ruchu.units import KIB, MIB, TIB

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed"),
]
SIZE = 48 * MIB
QEMU_NAMES = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}


def run(*args, limit_s=120):
    return commands.run([str(each) for each in args], timeout_s=limit_s).text


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix="rn-") as made:
        yield Path(made)


@pytest.fixture
def truth(directory, rng):
    """Return a sparse raw image."""
    path = directory / "truth.raw"
    write_raw(path, SIZE, rng)
    return path


def write_raw(path, size, rng):
    with path.open("wb") as file:
        for start in range(0, size - MIB, 5 * MIB):
            file.seek(start + rng.randrange(0, MIB, 512))
            file.write(rng.randbytes(rng.randrange(1, 700 * KIB)))
        file.seek(size - 3000)
        file.write(b"the end")
        file.truncate(size)


def compare(image, truth):
    """See that our disk of an image is the raw image, whole and in pieces, and the extents fit."""
    expected = truth.read_bytes()
    with open_image(image) as disk:
        assert disk.size == len(expected)
        found = bytearray(disk.size)
        disk.read_into(0, memoryview(found))
        assert found == expected
        draw = random.Random(7)
        for _ in range(200):
            start = draw.randrange(len(expected))
            length = draw.randrange(min(300 * KIB, len(expected) - start))
            piece = memoryview(bytearray(length))
            disk.read_into(start, piece)
            assert piece == expected[start : start + length]
        at = 0
        for extent in disk.extents():
            assert extent.start == at
            at = extent.end
            if extent.reads_as_zeros:
                assert not any(expected[extent.start : extent.end])
        assert at == disk.size


MADE = {
    "qcow2": ("qcow2", []),
    "qcow2 v2": ("qcow2", ["-o", "compat=0.10"]),
    "qcow2 small clusters": ("qcow2", ["-o", "cluster_size=512"]),
    "qcow2 large clusters": ("qcow2", ["-o", "cluster_size=2M"]),
    "qcow2 zlib": ("qcow2", ["-c"]),
    "qcow2 zstd": ("qcow2", ["-c", "-o", "compression_type=zstd"]),
    "qcow2 zlib, small": ("qcow2", ["-c", "-o", "cluster_size=4k"]),
    "vmdk sparse": ("vmdk", ["-o", "subformat=monolithicSparse"]),
    "vmdk stream": ("vmdk", ["-o", "subformat=streamOptimized"]),
    "vmdk flat": ("vmdk", ["-o", "subformat=monolithicFlat"]),
    "vmdk split": ("vmdk", ["-o", "subformat=twoGbMaxExtentSparse"]),
    "vmdk split flat": ("vmdk", ["-o", "subformat=twoGbMaxExtentFlat"]),
    "vmdk zeroed": ("vmdk", ["-o", "zeroed_grain=on"]),
    "vhd dynamic": ("vpc", ["-o", "subformat=dynamic,force_size=on"]),
    "vhd fixed": ("vpc", ["-o", "subformat=fixed,force_size=on"]),
    "vhdx dynamic": ("vhdx", []),
    "vhdx fixed": ("vhdx", ["-o", "subformat=fixed"]),
    "vhdx small blocks": ("vhdx", ["-o", "block_size=1M"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE)
def test_what_qemu_makes_is_read(truth, directory, kind):
    image_format, options = MADE[kind]
    image = directory / "image"
    run("qemu-img", "convert", "-f", "raw", "-O", image_format, *options, truth, image)
    with FileReader(image) as source:
        assert QEMU_NAMES[format_of(source)] == image_format
    compare(image, truth)


def test_a_disk_in_several_pieces(directory, rng):
    truth, image = directory / "truth.raw", directory / "image.vmdk"
    with truth.open("wb") as file:
        for start in (0, 2 << 30, (4 << 30) - 100):
            file.seek(start)
            file.write(rng.randbytes(5000))
        file.truncate((4 << 30) + MIB)
    for subformat in ("twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
        options = ["-o", f"subformat={subformat}"]
        run("qemu-img", "convert", "-O", "vmdk", *options, truth, image)
        with open_image(image) as disk, FileReader(truth) as raw:
            assert disk.size == raw.size
            for start in (0, (2 << 30) - 3000, (4 << 30) - 3000):
                pieces = [memoryview(bytearray(9000)) for _ in range(2)]
                disk.read_into(start, pieces[0])
                raw.read_into(start, pieces[1])
                assert pieces[0] == pieces[1]


def test_qcow2_after_a_life(truth, directory):
    """Zero clusters, discards, overwritten compressed clusters, an internal snapshot."""
    image = directory / "image.qcow2"
    run("qemu-img", "convert", "-c", "-O", "qcow2", truth, image)
    run("qemu-img", "snapshot", "-c", "before", image)
    orders = ["write -P 5 100k 900k", "write -z 3M 2M", "write -z -u 6M 1M", "discard 20M 3M",
              "write -P 9 47M 1M", "write -P 3 5M 1"]  # fmt: skip
    for order in orders:
        run("qemu-io", "-f", "qcow2", "-c", order, image)
    now = directory / "now.raw"
    run("qemu-img", "convert", "-O", "raw", image, now)
    compare(image, now)


def test_a_backing_file_is_used_only_if_it_is_given(truth, directory):
    image = directory / "image.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-b", truth, "-F", "raw", image, str(SIZE + MIB))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 1M 100k", image)
    with pytest.raises(Unsupported, match=r"truth\.raw"), open_image(image):
        pass
    now = directory / "now.raw"
    run("qemu-img", "convert", "-O", "raw", image, now)
    with FileReader(truth) as below, open_image(image, backing=below) as disk:
        found = bytearray(disk.size)
        disk.read_into(0, memoryview(found))
        assert sum(extent.length for extent in disk.extents()) == disk.size
    assert found == now.read_bytes()


@pytest.mark.slow
def test_external_data_encryption_subclusters_are_refused(directory):
    image = directory / "image.qcow2"
    for options in (["-o", "data_file=" + str(directory / "data")], ["-o", "extended_l2=on"], []):
        run("qemu-img", "create", "-f", "qcow2", *options, image, "1M")
        if not options:
            with open_image(image):
                pass
            # The method of encryption, 2 for LUKS: QEMU itself fails to make such an image where
            # it cannot measure the processor in peace.
            with image.open("r+b") as file:
                file.seek(32)
                file.write((2).to_bytes(4, "big"))
        with pytest.raises(Unsupported), open_image(image):
            pass


def test_changes_to_other_images_are_refused(truth, directory):
    for image_format in ("vmdk",):
        below, image = directory / "below", directory / "image"
        run("qemu-img", "convert", "-O", image_format, truth, below)
        args = ["-b", below, "-F", image_format]
        run("qemu-img", "create", "-f", image_format, *args, image)
        with pytest.raises(Unsupported), open_image(image):
            pass


def write_files(shown, directory):
    """Write what is shown into files, sparse; return the one to open."""
    for name, content in shown.files.items():
        with (directory / name).open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
                continue
            for extent in content.extents():
                if extent.reads_as_zeros:
                    continue
                for start in range(extent.start, extent.end, MIB):
                    data = bytearray(min(MIB, extent.end - start))
                    content.read_into(start, memoryview(data))
                    file.seek(start)
                    file.write(data)
            file.truncate(content.size)
    return directory / shown.main


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, 10 * MIB + 512, 3 * MIB + 12345])
@pytest.mark.parametrize("image_format", FORMATS)
def test_qemu_reads_what_we_show(directory, rng, image_format, size):
    truth = directory / "truth.raw"
    write_raw(truth, size, rng)
    place = directory / "shown"
    place.mkdir()
    with FileReader(truth) as device:
        image = write_files(present(device, image_format, "disk"), place)
    name = QEMU_NAMES[image_format]
    info = json.loads(run("qemu-img", "info", "--output=json", "-f", name, image))
    rounded = -(-size // 512) * 512
    assert info["virtual-size"] == rounded
    os.truncate(truth, rounded)
    run("qemu-img", "compare", "-f", "raw", "-F", name, truth, image)
    if image_format in {"qcow2", "vhdx"}:
        checked = json.loads(run("qemu-img", "check", "--output=json", "-f", name, image))
        assert checked["check-errors"] == 0
        assert not {"corruptions", "leaks"} & checked.keys()
    if image_format == "raw":
        os.truncate(truth, size)
    compare(image, truth)


def test_the_map_of_a_shown_qcow2(truth, directory):
    with FileReader(truth) as device:
        image = write_files(present(device, "qcow2", "disk"), directory)
    told = json.loads(run("qemu-img", "map", "--output=json", "-f", "qcow2", image))
    expected = truth.read_bytes()
    assert sum(each["length"] for each in told) == SIZE
    for each in told:
        if not each["data"]:
            assert not any(expected[each["start"] : each["start"] + each["length"]])
    assert sum(each["length"] for each in told if each["data"]) < 12 * MIB


@pytest.mark.parametrize("image_format", ["qcow2", "vhdx", "vhd"])
def test_shown_over_our_own_server(truth, directory, image_format):
    socket = directory / "s"
    name = QEMU_NAMES[image_format]
    with FileReader(truth) as device:
        shown = present(device, image_format, "disk")
        with NbdServer([NbdExport("image", shown.files[shown.main])]) as server:
            server.listen_unix(socket)
            uri = f"nbd+unix:///image?socket={socket}"
            run("qemu-img", "compare", "-f", "raw", "-F", name, truth, uri)
            if image_format == "qcow2":
                run("qemu-img", "check", "-f", name, uri)


@pytest.mark.slow
@pytest.mark.parametrize("image_format", ["qcow2", "vhdx"])
def test_ten_tebibytes_are_shown_at_once(directory, rng, image_format):
    truth = directory / "huge.raw"
    with truth.open("wb") as file:
        file.truncate(10 * TIB)
        for start in (0, 5 * TIB + 12345, 10 * TIB - 9000):
            file.seek(start)
            file.write(rng.randbytes(9000))
    socket = directory / "s"
    with FileReader(truth) as device:
        shown = present(device, image_format, "disk")
        with NbdServer([NbdExport("image", shown.files[shown.main])]) as server:
            server.listen_unix(socket)
            uri = f"nbd+unix:///image?socket={socket}"
            info = run("qemu-img", "info", "--output=json", "-f", image_format, uri)
            assert json.loads(info)["virtual-size"] == 10 * TIB
            for start in (0, 5 * TIB + 12345, 10 * TIB - 9000):
                order = f"read -v {start // 512 * 512} 512"
                said = run("qemu-io", "-r", "-f", image_format, "-c", order, uri)
                data = memoryview(bytearray(16))
                device.read_into(start // 512 * 512, data)
                assert data.hex(" ") in said
