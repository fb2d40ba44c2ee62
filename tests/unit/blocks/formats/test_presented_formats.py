"""Formats without QEMU: what is shown is read again, and what is damaged or hostile is refused."""

import random
import struct
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ruchu.blocks.formats import opening, presenting, qcow2, vhd, vhdx, vmdk
from ruchu.blocks.formats.mapping import BytesDisk, ComposedDisk
from ruchu.blocks.formats.opening import detect, format_of, open_image, read_image
from ruchu.blocks.formats.presenting import FORMATS, present
from ruchu.errors import ImageDamaged, InvalidName, NotFound, RuchuError, Unsupported, UsageError
from ruchu.units import GIB, KIB, MIB, TIB


def read(disk):
    buffer = bytearray(disk.size)
    disk.read_into(0, memoryview(buffer))
    return bytes(buffer)


def shown_bytes(disk, image_format):
    shown = present(disk, image_format, "d")
    return {
        name: content if isinstance(content, bytes) else read(content)
        for name, content in shown.files.items()
    }, shown.main


def written(disk, image_format, directory):
    files, main = shown_bytes(disk, image_format)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory / main


@pytest.mark.parametrize("image_format", FORMATS)
def test_what_is_shown_is_read_again(disk, tmp_path, image_format):
    path = written(disk, image_format, tmp_path)
    with open_image(path) as again:
        expected = read(disk)
        assert read(again)[: disk.size] == expected
        assert again.size == (disk.size if image_format == "raw" else 5 * MIB + 512)
        assert sum(extent.length for extent in again.extents()) == again.size
    assert set(opening.files_of(path)) == {path, *tmp_path.iterdir()}


@pytest.mark.parametrize("image_format", FORMATS)
def test_formats_are_known_by_their_content(disk, image_format):
    files, main = shown_bytes(disk, image_format)
    assert format_of(BytesDisk(files[main])) == image_format


@pytest.mark.parametrize("image_format", ["vhd", "vhdx", "qcow2", "vmdk"])
def test_the_same_disk_is_shown_the_same(disk, image_format):
    assert shown_bytes(disk, image_format) == shown_bytes(disk, image_format)


def test_small_things_are_raw():
    for content in (b"", b"x", bytes(511), b"QFI"):
        assert format_of(BytesDisk(content)) == "raw"
    assert detect(b"QFI\xfb") == "qcow2"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", 'a"b', "a\\b", "a\nb"])
def test_names_of_files_are_plain(disk, name):
    with pytest.raises(InvalidName):
        present(disk, "vmdk", name)


def test_unknown_formats_are_refused(disk):
    with pytest.raises(UsageError):
        present(disk, "vdi", "d")
    with pytest.raises(UsageError):
        read_image(disk, "vdi")


def test_disks_that_are_too_large_are_refused():
    for image_format, size in (("vhd", 2041 * GIB), ("vhdx", 65 * TIB), ("qcow2", 2049 * TIB)):
        with pytest.raises(UsageError):
            present(ComposedDisk(size, []), image_format, "d")
    with pytest.raises(UsageError):
        present(ComposedDisk(0, []), "vhdx", "d")


@pytest.mark.parametrize("image_format", FORMATS)
def test_ten_tebibytes_are_shown_at_once(image_format):
    if image_format == "vhd":
        return
    shown = present(ComposedDisk(10 * TIB, []), image_format, "d")
    assert shown.main in shown.files


@pytest.mark.parametrize(
    ("sectors", "expected"),
    [
        (65535 * 16 * 255, (65535, 16, 255)),
        (2**40, (65535, 16, 255)),
        (65535 * 16 * 63, (16191, 16, 255)),
        (65535 * 16 * 63 - 1, (65534, 16, 63)),
        (4 * 17 * 1000, (1000, 4, 17)),
        (16 * 17 * 1024 - 1, (1023, 16, 17)),
        (100 * MIB // 512, (1003, 12, 17)),
        (200 * MIB // 512, (825, 16, 31)),
        (600 * MIB // 512, (1219, 16, 63)),
    ],
)
def test_the_geometry_of_a_vhd(sectors, expected):
    assert vhd.geometry(sectors) == expected


# ------------------------------------------------------------------------------ made by hand


def make_qcow2(clusters, *, level_1=None, header=None, version=3, bits=9, size=None, tail=b""):
    """Return a qcow2: header, first table, one second table; `clusters` are its entries."""
    cluster = 1 << bits
    fields = [
        qcow2.MAGIC, version, 0, 0, bits, size if size is not None else len(clusters) * cluster,
        0, 1, cluster, 0, 0, 0, 0,
    ]  # fmt: skip
    for index, value in (header or {}).items():
        fields[index] = value
    front = qcow2.HEADER.pack(*fields) + qcow2.HEADER_V3.pack(0, 0, 0, 4, 104)
    first = struct.pack(">Q", 2 * cluster if level_1 is None else level_1)
    second = struct.pack(f">{len(clusters)}Q", *clusters)
    data = b"".join(part.ljust(cluster, b"\0") for part in (front, first, second))
    return BytesDisk(data + tail)


def test_clusters_of_all_kinds():
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(b"c" * 512) + packer.flush()
    clusters = [0, 3 * 512, 1, 4 * 512 | 1, qcow2.COMPRESSED | 4 * 512, 3 * 512 | qcow2.COPIED]
    image = make_qcow2(clusters, tail=b"d" * 512 + packed)
    disk = qcow2.Qcow2Disk(image)
    d, zero = b"d" * 512, bytes(512)
    assert read(disk) == zero + d + zero + zero + b"c" * 512 + d
    assert [(each.start // 512, each.content.value) for each in disk.extents()] == [
        (0, "hole"), (1, "data"), (2, "hole"), (3, "zero"), (4, "data"),
    ]  # fmt: skip


def test_a_first_table_with_holes_and_zstd():
    cluster = zstandard.compress(b"z" * 512)
    image = bytearray(make_qcow2([qcow2.COMPRESSED | 3 * 512], size=65 * 512).content)
    image[36:40] = struct.pack(">I", 2)
    image[72:80], image[100:105] = struct.pack(">Q", 8), struct.pack(">IB", 105, 1)
    for data, right in ((cluster, True), (b"rubbish" * 9, False), (cluster[:-9], False)):
        disk = qcow2.Qcow2Disk(BytesDisk(bytes(image) + data))
        if right:
            assert read(disk) == b"z" * 512 + bytes(64 * 512)
            continue
        with pytest.raises(ImageDamaged):
            read(disk)
    image[104] = 9
    with pytest.raises(Unsupported):
        qcow2.Qcow2Disk(BytesDisk(bytes(image)))


def test_version_2_knows_no_zero_clusters():
    image = make_qcow2([3 * 512 | 1], version=2, tail=b"d" * 512)
    assert read(qcow2.Qcow2Disk(image)) == b"d" * 512


def test_the_last_cluster_may_be_cut_off():
    image = make_qcow2([3 * 512], size=100, tail=b"d" * 100)
    assert read(qcow2.Qcow2Disk(image)) == b"d" * 100


def test_a_backing_disk_that_is_shorter():
    image = make_qcow2([0, 0, 3 * 512], header={2: 200, 3: 4}, tail=b"d" * 512)
    disk = qcow2.Qcow2Disk(image, BytesDisk(b"b" * 600))
    assert read(disk) == b"b" * 600 + bytes(424) + b"d" * 512
    with pytest.raises(Unsupported):
        qcow2.Qcow2Disk(image)


@pytest.mark.parametrize(
    "image",
    [
        make_qcow2([10**9 // 512 * 512]),
        make_qcow2([3 * 512 + 512]),
        make_qcow2([qcow2.COMPRESSED | 3 * 512], tail=b"\xff" * 600),
        make_qcow2([qcow2.COMPRESSED | 3 * 512], tail=b""),
        make_qcow2([0], level_1=512 * 1000),
        make_qcow2([0], level_1=512 + 1 << 9 | 512),
    ],
)
def test_qcow2_that_points_outside_or_holds_rubbish(image):
    with pytest.raises(ImageDamaged):
        read(qcow2.Qcow2Disk(image))


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({1: 4}, Unsupported),
        ({4: 8}, ImageDamaged),
        ({4: 22}, ImageDamaged),
        ({5: 2**63}, ImageDamaged),
        ({6: 2}, Unsupported),
        ({7: 2**32 - 1}, ImageDamaged),
        ({7: 0}, ImageDamaged),
        ({8: 2**63}, ImageDamaged),
        ({2: 2**62, 3: 5}, ImageDamaged),
        ({2: 5, 3: 2**32 - 1}, ImageDamaged),
    ],
)
def test_headers_of_qcow2_that_are_refused(header, error):
    with pytest.raises(error):
        qcow2.Qcow2Disk(make_qcow2([0], header=header))


@pytest.mark.parametrize(
    ("bits", "error"),
    [(2, ImageDamaged), (4, Unsupported), (8, ImageDamaged), (16, Unsupported), (32, Unsupported)],
)
def test_features_of_qcow2_that_are_refused(bits, error):
    image = bytearray(make_qcow2([0]).content)
    image[72:80] = struct.pack(">Q", bits)
    with pytest.raises(error):
        qcow2.Qcow2Disk(BytesDisk(bytes(image)))


def descriptor(*lines, parent="ffffffff"):
    return "\n".join([vmdk.DESCRIPTOR_MAGIC.decode(), f"parentCID={parent}", *lines])


def test_pieces_of_a_vmdk(tmp_path):
    (tmp_path / "a-flat.vmdk").write_bytes(b"x" * 512 + b"a" * 1024)
    (tmp_path / "a.vmdk").write_text(
        descriptor('RW 2 FLAT "a-flat.vmdk" 1', "RW 1 ZERO", 'RDONLY 1 VMFS "a-flat.vmdk"')
    )
    with open_image(tmp_path / "a.vmdk") as disk:
        assert read(disk) == b"a" * 1024 + bytes(512) + b"x" * 512


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (descriptor(), ImageDamaged),
        (descriptor("RW x FLAT"), ImageDamaged),
        (descriptor('RW 1 FLAT "gone"'), NotFound),
        (descriptor("RW 1 FLAT"), InvalidName),
        (descriptor('RW 1 FLAT "/etc/passwd" 0'), InvalidName),
        (descriptor('RW 1 FLAT "../secret" 0'), InvalidName),
        (descriptor('RW 1 FLAT ".." 0'), InvalidName),
        (descriptor('RW 1 FLAT "link" 0'), UsageError),
        (descriptor('RW 3 FLAT "file" 0'), ImageDamaged),
        (descriptor('RW 1 FLAT "file" 99'), ImageDamaged),
        (descriptor('RW 1 SPARSE "file"'), ImageDamaged),
        (descriptor('RW 1 SPARSE "a.vmdk"'), ImageDamaged),
        (descriptor('RW 1 VMFSSPARSE "file"'), Unsupported),
        (descriptor('RW 1 FLAT "file"', parent="12345678"), Unsupported),
        (descriptor(*["RW 1 ZERO"] * 5000), ImageDamaged),
        (descriptor("RW 999999999999999 ZERO " * 2), ImageDamaged),
        (descriptor("#" * vmdk.DESCRIPTOR_MAX), ImageDamaged),
    ],
)  # fmt: skip
def test_descriptors_that_are_refused(tmp_path, text, error):
    (tmp_path / "file").write_bytes(bytes(1024))
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "a.vmdk").write_text(text)
    with pytest.raises(error), open_image(tmp_path / "a.vmdk"):
        pass


def test_a_vmdk_of_an_old_server_is_refused():
    with pytest.raises(Unsupported):
        read_image(BytesDisk(vmdk.ESX_MAGIC + bytes(1000)), "vmdk")
    with pytest.raises(Unsupported):
        read_image(BytesDisk(descriptor('RW 1 FLAT "x"').encode()), "vmdk")


def make_vmdk(grains, *, flags=3, compression=0, tail=b"", capacity=None, per_table=4):
    """Return a sparse VMDK with grains of 8 sectors; its tables lie in sectors 1 and 2."""
    size = capacity if capacity is not None else 8 * len(grains)
    header = vmdk._HEADER.pack(
        b"KDMV", 1, flags, size, 8, 0, 0, per_table, 0, 1, 0, 0, b"\n \r\n", compression
    )
    table = struct.pack(f"<{len(grains)}I", *grains)
    parts = (header, struct.pack("<I", 2), table)
    return BytesDisk(b"".join(part.ljust(512, b"\0") for part in parts) + tail)


def test_grains_of_all_kinds():
    grain = b"g" * 4096
    disk = vmdk.SparseVmdk(make_vmdk([0, 3, 1, 3], flags=7, tail=grain))
    assert read(disk) == bytes(4096) + grain + bytes(4096) + grain
    assert [extent.content.value for extent in disk.extents()] == ["hole", "data", "zero", "data"]


def test_directories_with_holes_and_at_the_end():
    grain = b"g" * 4096
    image = make_vmdk([3], capacity=8 * 9, tail=grain)
    disk = vmdk.SparseVmdk(image)
    assert read(disk) == grain + bytes(8 * 4096)
    header = bytearray(image.content[:512])
    ahead = bytearray(header)
    ahead[56:64] = b"\xff" * 8
    turned = bytes(ahead) + image.content[512:] + bytes(header) + bytes(512)
    assert read(vmdk.SparseVmdk(BytesDisk(turned))) == grain + bytes(8 * 4096)


def test_a_sparse_vmdk_that_is_a_change_to_another_one_is_refused():
    image = bytearray(make_vmdk([0], tail=descriptor(parent="12345678").encode()).content)
    image[28:44] = struct.pack("<QQ", 3, 1)
    with pytest.raises(Unsupported):
        vmdk.SparseVmdk(BytesDisk(bytes(image).ljust(2048, b"\0")))
    image[4:8] = struct.pack("<I", 9)
    with pytest.raises(Unsupported):
        vmdk.SparseVmdk(BytesDisk(bytes(image)))


def stream(place, data, length=None):
    packed = zlib.compress(data)
    return struct.pack("<QI", place, len(packed) if length is None else length) + packed


@pytest.mark.parametrize(
    ("tail", "right"),
    [
        (stream(8, b"g" * 4096), True),
        (stream(0, b"g" * 4096), False),
        (stream(8, b"g" * 4095), False),
        (stream(8, b"g" * 4096, 2**32 - 1), False),
        (stream(8, b"g" * 4096, 5), False),
        (b"\xff" * 500, False),
        (b"", False),
    ],
)
def test_compressed_grains(tail, right):
    image = make_vmdk([0, 3], flags=3 | 1 << 16, compression=1, tail=tail)
    disk = vmdk.SparseVmdk(image)
    if right:
        assert read(disk) == bytes(4096) + b"g" * 4096
        return
    with pytest.raises(ImageDamaged):
        read(disk)


@pytest.mark.parametrize(
    "more", [{"capacity": 2**50}, {"capacity": 2**63}, {"per_table": 0}, {"per_table": 2**31}]
)
def test_a_vmdk_with_huge_tables_is_refused(more):
    with pytest.raises(ImageDamaged):
        read(vmdk.SparseVmdk(make_vmdk([0], **more)))


def test_a_vmdk_of_unknown_compression_is_refused():
    with pytest.raises(Unsupported):
        vmdk.SparseVmdk(make_vmdk([0], flags=1 << 16, compression=2))


def make_dynamic_vhd(blocks, *, kind=3, size=None, block=4096, count=None, table=1536, tail=b""):
    identity = vhd.make_footer(size if size is not None else len(blocks) * block, "x")
    footer = bytearray(identity)
    footer[16:24], footer[60:64] = struct.pack(">Q", 512), struct.pack(">I", kind)
    footer[64:68] = struct.pack(">I", vhd._checksum(bytes(footer), vhd._CHECKSUM))
    header = bytearray(1024)
    entries = count if count is not None else len(blocks)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 2**64 - 1, table, 1 << 16, entries, block)
    header[36:40] = struct.pack(">I", vhd._checksum(bytes(header), vhd._DYNAMIC_CHECKSUM))
    told = struct.pack(f">{len(blocks)}I", *blocks).ljust(512, b"\xff")
    return BytesDisk(bytes(footer) + bytes(header) + told + tail + bytes(footer))


def test_blocks_of_a_dynamic_vhd():
    disk = read_image(make_dynamic_vhd([2**32 - 1, 4], tail=bytes(512) + b"d" * 4096), "vhd")
    assert read(disk) == bytes(4096) + b"d" * 4096
    assert [extent.content.value for extent in disk.extents()] == ["hole", "data"]


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"kind": 4}, Unsupported),
        ({"kind": 7}, Unsupported),
        ({"block": 0, "size": 4096}, ImageDamaged),
        ({"block": 4097, "size": 4096}, ImageDamaged),
        ({"size": 2**62}, ImageDamaged),
        ({"size": 2**41, "count": 2**32 - 1}, ImageDamaged),
        ({"count": 0}, ImageDamaged),
        ({"table": 2**60}, ImageDamaged),
        ({"blocks": [10**9]}, ImageDamaged),
    ],
)
def test_dynamic_vhds_that_are_refused(more, error):
    blocks = more.pop("blocks", [2**32 - 1])
    with pytest.raises(error):
        read(read_image(make_dynamic_vhd(blocks, **more), "vhd"))


def test_a_vhd_without_a_footer_is_refused():
    with pytest.raises(ImageDamaged):
        read_image(BytesDisk(vhd.COOKIE + bytes(5000)), "vhd")


def test_a_raw_disk_that_ends_like_a_vhd_of_another_size_is_raw():
    footer = vhd.make_footer(1 * MIB, "x")
    assert format_of(BytesDisk(bytes(64 * KIB) + footer)) == "raw"


# ------------------------------------------------------------------------------------- at random

SMALL = {
    image_format: shown_bytes(BytesDisk(random.Random(1).randbytes(80_000)), image_format)
    for image_format in ("qcow2", "vhd")
}
TINY = {
    "qcow2": make_qcow2([0, 3 * 512, 1, qcow2.COMPRESSED | 4 * 512], tail=b"d" * 1024).content,
    "vmdk": make_vmdk([0, 3, 1, 3], flags=7, tail=bytes(4096)).content,
    "vmdk stream": make_vmdk(
        [0, 3], flags=3 | 1 << 16, compression=1, tail=stream(8, b"g" * 4096)
    ).content,
    "vhd": make_dynamic_vhd([2**32 - 1, 4], tail=bytes(4608)).content,
    "vmdk text": descriptor("RW 1 ZERO", 'RW 1 FLAT "x" 0').encode(),
    "qcow2 shown": SMALL["qcow2"][0]["d.qcow2"],
}
CHANGES = st.lists(
    st.tuples(st.integers(0, 1200), st.sampled_from([b"\0", b"\1", b"\xff", b"\x80" * 4, b"\0" * 8])
              | st.binary(min_size=1, max_size=8)), max_size=4)  # fmt: skip


@given(st.sampled_from(sorted(TINY)), CHANGES, st.integers(0, 6000))
def test_damaged_images_are_refused_or_read(kind, changes, cut):
    image = bytearray(TINY[kind])
    for start, value in changes:
        image[start : start + len(value)] = value
    if cut < 3000:
        del image[len(image) - min(cut, len(image)) :]
    source = BytesDisk(bytes(image))
    try:
        disk = read_image(source, kind.partition(" ")[0], beside=lambda _: BytesDisk(bytes(512)))
        at = 0
        for extent in disk.extents():
            assert extent.start == at
            at = extent.end
            if at > 64 * MIB:
                break
        for start in (0, disk.size // 2, max(0, disk.size - 5000)):
            piece = bytearray(min(5000, disk.size - start))
            disk.read_into(start, memoryview(piece))
    except RuchuError:
        pass


@pytest.fixture(scope="module")
def small_vhdx():
    files, main = shown_bytes(BytesDisk(random.Random(1).randbytes(80_000)), "vhdx")
    return files[main][: 4 * MIB + 80_384]


def patched(image, changes, *, seal=()):
    data = bytearray(image)
    for start, value in changes.items():
        data[start : start + len(value)] = value
    for start, length in seal:
        data[start : start + length] = vhdx.sealed(bytes(data[start : start + length]))
    return BytesDisk(bytes(data))


HEADERS = [(offset, vhdx.HEADER_SIZE) for offset in vhdx.HEADER_OFFSETS]
REGIONS = [(offset, vhdx.REGION_SIZE) for offset in vhdx.REGION_OFFSETS]
FIRST = vhdx.REGION_OFFSETS[0]
META = 2 * MIB


@pytest.mark.parametrize(
    ("changes", "seal", "error"),
    [
        ({0: b"x"}, (), ImageDamaged),
        ({64 * KIB + 9: b"x", 128 * KIB + 9: b"x"}, (), ImageDamaged),
        ({64 * KIB + 48: b"x", 128 * KIB + 48: b"x"}, HEADERS, Unsupported),  # a log
        ({64 * KIB + 66: b"\2", 128 * KIB + 66: b"\2"}, HEADERS, Unsupported),  # a version
        ({FIRST + 20: b"x", FIRST + 65556: b"x"}, (), ImageDamaged),
        ({FIRST + 20: b"x", FIRST + 65556: b"x"}, REGIONS, Unsupported),  # a required region
        ({FIRST + 32: b"\xff" * 7}, REGIONS, ImageDamaged),  # far outside
        ({FIRST + 8: b"\xff" * 4, FIRST + 65544: b"\xff" * 4}, REGIONS, ImageDamaged),
        ({META: b"x"}, (), ImageDamaged),
        ({META + 10: b"\xff\xff"}, (), ImageDamaged),
        ({META + 32: b"x", META + 56: b"\4"}, (), Unsupported),  # required metadata
        ({META + 48: b"\xff" * 4}, (), ImageDamaged),
        ({META + 64 * KIB: b"\0" * 4}, (), ImageDamaged),  # a block size
        ({META + 64 * KIB + 4: b"\2"}, (), Unsupported),  # a parent
        ({META + 64 * KIB + 8: b"\xff" * 8}, (), ImageDamaged),  # a disk size
        ({3 * MIB: b"\7"}, (), ImageDamaged),  # a block that is partly there
        ({3 * MIB + 4: b"\xff" * 4}, (), ImageDamaged),  # a block far outside
    ],
)
def test_vhdx_images_that_are_refused(small_vhdx, changes, seal, error):
    with pytest.raises(error):
        read(vhdx.VhdxDisk(patched(small_vhdx, changes, seal=seal)))


def test_one_damaged_header_or_region_table_is_survived(small_vhdx):
    whole = read(vhdx.VhdxDisk(BytesDisk(small_vhdx)))
    for place in (64 * KIB, 128 * KIB, 192 * KIB, 256 * KIB):
        assert read(vhdx.VhdxDisk(patched(small_vhdx, {place + 20: b"x"}))) == whole


def test_blocks_of_a_vhdx_that_are_not_there(small_vhdx):
    for state, content in ((0, "hole"), (1, "hole"), (2, "zero"), (3, "hole")):
        disk = vhdx.VhdxDisk(patched(small_vhdx, {3 * MIB: bytes([state])}))
        assert not any(read(disk))
        assert [extent.content.value for extent in disk.extents()] == [content]


def test_formats_named_in_the_documents_are_all(disk):
    assert set(presenting.FORMATS) == {"raw", "qcow2", "vmdk", "vhd", "vhdx"}
