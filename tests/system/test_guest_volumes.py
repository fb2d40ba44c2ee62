"""Disks divided by the real tools: sgdisk, sfdisk, LVM (without device-mapper), thin_restore."""

import contextlib
import os
import random
import struct
import subprocess

import pytest

from ruchu.blocks.files import FileReader
from ruchu.errors import GuestUnsupported
from ruchu.guests import ranges, volumes

pytestmark = pytest.mark.system

MIB = 1 << 20
SIZE = 64 * MIB
CONTENT = {
    name: random.Random(name).randbytes(length * MIB)
    for name, length in {"root": 20, "striped": 16, "pool": 12}.items()
}
THIN = """<superblock uuid="" time="1" transaction="2" version="2" data_block_size="128"
 nr_data_blocks="192">
 <device dev_id="1" mapped_blocks="60" transaction="0" creation_time="0" snap_time="1">
  <range_mapping origin_begin="0" data_begin="5" length="30" time="0"/>
  <range_mapping origin_begin="50" data_begin="100" length="30" time="0"/>
 </device>
 <device dev_id="2" mapped_blocks="31" transaction="1" creation_time="1" snap_time="1">
  <range_mapping origin_begin="0" data_begin="5" length="30" time="0"/>
  <single_mapping origin_block="40" data_block="60" time="1"/>
 </device>
</superblock>"""


def run(*arguments, text=None):
    done = subprocess.run(arguments, input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blank(path, size=SIZE):
    with path.open("wb") as file:
        file.truncate(size)
    return path


@contextlib.contextmanager
def loops(*paths):
    """Yield loop devices of images."""
    with contextlib.ExitStack() as stack:
        found = []
        for path in paths:
            device = run("losetup", "-f", "--show", str(path)).strip()
            stack.callback(run, "losetup", "-d", device)
            found += [device]
        yield found


def lvm(devices, *arguments):
    filters = "".join(f'"a|^{device}$|", ' for device in devices)
    config = (
        f'devices {{ filter=[{filters} "r|.*|"] scan=["/dev"] use_devicesfile=0 }} '
        "backup { backup=0 archive=0 } activation { udev_sync=0 udev_rules=0 } "
        "global { use_lvmpolld=0 use_lvmlockd=0 event_activation=0 }"
    )
    return run(arguments[0], "--driverloaded", "n", "--config", config, *arguments[1:])


def entry(name, number, segment, *, extents, visible=True):
    status = '"READ", "WRITE"' + (', "VISIBLE"' if visible else "")
    return (
        f'{name} {{\nid = "{number:06d}-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa"\nstatus = [{status}]\n'
        f"flags = []\nsegment_count = 1\nsegment1 {{\nstart_extent = 0\n"
        f"extent_count = {extents}\n{segment}\n}}\n}}\n"
    )


def linear(name, number, where, first, extents):
    segment = f'type = "striped"\nstripe_count = 1\nstripes = ["{where}", {first}]'
    return entry(name, number, segment, extents=extents, visible=False)


def further_volumes():
    """Return what lvcreate does not make without the kernel: a thin pool, a mirror, a snapshot."""
    pool = (
        'type = "thin-pool"\nmetadata = "pool_tmeta"\npool = "pool_tdata"\ntransaction_id = 2\n'
        'chunk_size = 128\ndiscards = "passdown"\nzero_new_blocks = 1'
    )
    thin = 'type = "thin"\nthin_pool = "pool"\ntransaction_id = {}\ndevice_id = {}'
    raid = (
        'type = "raid1"\ndevice_count = 2\nregion_size = 1024\n'
        'raids = ["mir_rmeta_0", "mir_rimage_0", "mir_rmeta_1", "mir_rimage_1"]'
    )
    snapshot = 'type = "snapshot"\nchunk_size = 8\norigin = "root"\ncow_store = "cow"'
    return "".join(
        [
            entry("pool", 1, pool, extents=12),
            linear("pool_tmeta", 2, "pv1", 10, 2),
            linear("pool_tdata", 3, "pv1", 12, 12),
            linear("lvol0_pmspare", 4, "pv1", 24, 2),
            entry("thin", 5, thin.format(0, 1), extents=10),
            entry("thinsnap", 6, thin.format(1, 2) + '\norigin = "thin"', extents=10),
            entry("mir", 7, raid, extents=4),
            linear("mir_rmeta_0", 8, "pv0", 30, 1),
            linear("mir_rimage_0", 9, "pv0", 31, 4),
            linear("mir_rmeta_1", 10, "pv1", 30, 1),
            linear("mir_rimage_1", 11, "pv1", 31, 4),
            linear("cow", 12, "pv0", 40, 4).replace('"WRITE"', '"WRITE", "VISIBLE"'),
            entry("snapshot0", 13, snapshot, extents=20, visible=False),
        ]
    )


def end_of_section(text, name):
    depth = 0
    for at in range(text.index(f"{name} {{"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if text[at] == "}" and not depth:
            return at
    raise AssertionError(name)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Two disks with a volume group that the real LVM has accepted."""
    folder = tmp_path_factory.mktemp("lvm")
    paths = [blank(folder / "a.img"), blank(folder / "b.img")]
    with loops(*paths) as devices:
        lvm(devices, "pvcreate", "-y", "-ff", *devices)
        lvm(devices, "vgcreate", "-s", "1m", "vg0", *devices)
        create = ["lvcreate", "-an", "-Zn", "-Wn", "-y", "-n"]
        lvm(devices, *create, "root", "-L", "20m", "vg0")
        lvm(devices, *create, "striped", "-i2", "-I64k", "-L", "16m", "vg0")
        saved = folder / "saved.txt"
        lvm(devices, "vgcfgbackup", "-f", str(saved), "vg0")
        text = saved.read_text()
        at = end_of_section(text, "logical_volumes")
        saved.write_text(text[:at] + further_volumes() + text[at:])
        lvm(devices, "vgcfgrestore", "--force", "-y", "-f", str(saved), "vg0")
        free = lvm(
            devices, "pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "pv_name,pv_free"
        )
    fill(folder, paths)
    with contextlib.ExitStack() as stack:
        readers = {
            name: stack.enter_context(FileReader(path))
            for name, path in zip(["vda", "vdb"], paths, strict=True)
        }
        yield readers, [int(line.split()[1]) for line in free.splitlines()]


def fill(folder, paths):
    """Write content to the extents that the metadata names: extent 0 is at 1 MiB."""
    xml, metadata = folder / "thin.xml", blank(folder / "meta.img", 2 * MIB)
    xml.write_text(THIN)
    run("thin_restore", "-i", str(xml), "-o", str(metadata))
    with paths[0].open("r+b") as first, paths[1].open("r+b") as second:
        first.seek(MIB)
        first.write(CONTENT["root"])
        for number in range(16 * 16):
            target = second if number % 2 else first
            target.seek((1 if number % 2 else 21) * MIB + number // 2 * 65536)
            target.write(CONTENT["striped"][number * 65536 : (number + 1) * 65536])
        second.seek(11 * MIB)
        second.write(metadata.read_bytes())
        second.seek(13 * MIB)
        second.write(CONTENT["pool"])


def content(volume):
    buffer = bytearray(volume.device.size)
    volume.device.read_into(0, memoryview(buffer))
    return bytes(buffer)


def check_told_once(layout, disks):
    """Each byte of a disk is structure, a gap, free, or of volumes."""
    for key, reader in disks.items():
        apart = [layout.structure[key], layout.gaps[key], layout.free[key]]
        rest = ranges.union(*(v.device.everywhere()[key] for v in layout.on(key)))
        total = ranges.union(*apart, rest)
        assert total.tolist() == [[0, reader.size]]
        assert sum(map(ranges.total, [*apart, rest])) == reader.size


def test_logical_volumes_have_the_content_of_their_extents(group):
    disks, _ = group
    found = {volume.name: volume for volume in volumes.discover(disks).volumes}
    assert content(found["vg0/root"]) == CONTENT["root"]
    assert content(found["vg0/striped"]) == CONTENT["striped"]
    chunks = [CONTENT["pool"][at : at + 65536] for at in range(0, 12 * MIB, 65536)]
    zero = bytes(65536)
    thin = chunks[5:35] + [zero] * 20 + chunks[100:130] + [zero] * 80
    assert content(found["vg0/thin"]) == b"".join(thin)
    snapshot = chunks[5:35] + [zero] * 10 + [chunks[60]] + [zero] * 119
    assert content(found["vg0/thinsnap"]) == b"".join(snapshot)
    assert "raid1" in found["vg0/mir"].reason
    assert "snapshot" in found["vg0/cow"].reason
    with pytest.raises(GuestUnsupported, match="raid1"):
        volumes.open_file_system(found["vg0/mir"])


def test_free_extents_are_those_that_lvm_says_are_free(group):
    disks, free = group
    layout = volumes.discover(disks)
    check_told_once(layout, disks)
    assert layout.doubts == {}
    assert ranges.total(layout.free["vda"]) == free[0]
    # Of the pool's 192 chunks of 64 KiB the thin volumes hold 61.
    assert ranges.total(layout.free["vdb"]) == free[1] + (192 - 61) * 65536


def test_without_one_disk_all_of_the_other_counts(group):
    disks = {"vda": group[0]["vda"]}
    layout = volumes.discover(disks)
    assert ranges.total(layout.free["vda"]) == 0
    found = {volume.name: volume for volume in layout.leaves}
    assert "lacks" in found["vda"].reason
    assert "lacks" in found["vg0/root"].reason
    assert volumes.allocation_of(found["vda"], frozen=True).used.tolist() == [[0, SIZE]]


@pytest.mark.slow
def test_volumes_in_partitions_are_found_and_opened(tmp_path):
    path = blank(tmp_path / "disk.img", 200 * MIB)
    run(
        "sgdisk",
        "-n1:0:+16M",
        "-t1:ef00",
        "-n2:0:+80M",
        "-n3:0:+16M",
        "-t3:8200",
        "-n4:0:+16M",
        "-n5:0:+16M",
        str(path),
    )
    parts = {
        "esp": (1 * MIB, 16 * MIB, ["mkfs.fat", "-F", "16"]),
        "data": (17 * MIB, 80 * MIB, ["mkfs.ext4", "-q", "-F"]),
        "swap": (97 * MIB, 16 * MIB, ["mkswap"]),
        "crypt": (113 * MIB, 16 * MIB, None),
    }
    with path.open("r+b") as disk:
        for name, (start, length, maker) in parts.items():
            part = blank(tmp_path / name, length)
            if maker:
                run(*maker, str(part))
            else:
                part.write_bytes(b"LUKS\xba\xbe\0\2" + bytes(100))
            disk.seek(start)
            disk.write(part.read_bytes())
    with FileReader(path) as reader:
        disks = {"vda": reader}
        layout = volumes.discover(disks)
        check_told_once(layout, disks)
        kinds = {volume.name: volume.kind for volume in layout.volumes}
        assert kinds == {
            "vda1": "fat16", "vda2": "ext4", "vda3": "swap", "vda4": "luks", "vda5": "empty",
        }  # fmt: skip
        found = {volume.name: volume for volume in layout.volumes}
        assert found["vda1"].role.startswith("EFI system")
        assert volumes.open_file_system(found["vda1"]).facts.kind == "fat16"
        assert volumes.open_file_system(found["vda2"]).facts.kind == "ext4"
        for name, wanted in {"vda3": "swap", "vda4": "LUKS", "vda5": "empty"}.items():
            with pytest.raises(GuestUnsupported, match=wanted):
                volumes.open_file_system(found[name])
        maps = {name: volumes.allocation_of(volume, frozen=True) for name, volume in found.items()}
        assert maps["vda3"].used.tolist() == [[0, 4096]]
        assert not maps["vda1"].doubt
        assert not maps["vda2"].doubt
        assert "LUKS" in maps["vda4"].doubt
        assert maps["vda5"].used.tolist() == [[0, 16 * MIB]]
        assert "nothing is recognised" in maps["vda5"].doubt
        gaps = layout.gaps["vda"].tolist()
        assert gaps == [[145 * MIB, 200 * MIB - 33 * 512]]


@pytest.mark.slow
def test_a_physical_volume_on_a_logical_partition(tmp_path):
    path = blank(tmp_path / "disk.img", 96 * MIB)
    run(
        "sfdisk",
        str(path),
        text="label: dos\nstart=2048, size=20480, type=83\n"
        "start=22528, type=5\nstart=24576, size=131072, type=8e\n",
    )
    part = blank(tmp_path / "part.img", 64 * MIB)
    with loops(part) as devices:
        lvm(devices, "pvcreate", "-y", "-ff", *devices)
        lvm(devices, "vgcreate", "-s", "4m", "srv-data", *devices)
        lvm(devices, "lvcreate", "-an", "-Zn", "-Wn", "-y", "-n", "home", "-L", "16m", "srv-data")
    fs = blank(tmp_path / "fs.img", 16 * MIB)
    run("mkfs.ext4", "-q", "-F", str(fs))
    with path.open("r+b") as disk:
        disk.seek(24576 * 512)
        disk.write(part.read_bytes())
        disk.seek(24576 * 512 + MIB)
        disk.write(fs.read_bytes())
    with FileReader(path) as reader:
        layout = volumes.discover({"sda": reader})
        check_told_once(layout, {"sda": reader})
        found = {volume.name: volume for volume in layout.volumes}
        assert {name: volume.kind for name, volume in found.items()} == {
            "sda1": "empty", "sda5": "lvm-pv", "srv-data/home": "ext4",
        }  # fmt: skip
        assert found["sda5"].container
        assert volumes.open_file_system(found["srv-data/home"]).facts.kind == "ext4"
        used = volumes.allocation_of(found["srv-data/home"], frozen=False).used
        where = found["srv-data/home"].device.physical(used)
        assert where["sda"].tolist()[0][0] == 24576 * 512 + MIB
        assert ranges.total(where["sda"]) == ranges.total(used)


@pytest.mark.slow
def test_thin_metadata_with_many_volumes_agrees_with_thin_dump(tmp_path):
    rng = random.Random(5)
    chunks = 20000
    order = rng.sample(range(chunks), chunks)
    lines, model = [], {}
    for device in range(1, 6):
        mapping = {}
        for block in sorted(rng.sample(range(10000), 3000)):
            mapping[block] = order.pop()
        model[device] = mapping
        inner = "".join(
            f'<single_mapping origin_block="{at}" data_block="{to}" time="0"/>'
            for at, to in mapping.items()
        )
        lines.append(
            f'<device dev_id="{device}" mapped_blocks="3000" transaction="0" '
            f'creation_time="0" snap_time="0">{inner}</device>'
        )
    xml = tmp_path / "thin.xml"
    xml.write_text(
        '<superblock uuid="" time="0" transaction="0" version="2" '
        f'data_block_size="128" nr_data_blocks="{chunks}">{"".join(lines)}</superblock>'
    )
    metadata = blank(tmp_path / "meta.img", 8 * MIB)
    run("thin_restore", "-i", str(xml), "-o", str(metadata))
    from ruchu.guests import lvm_thin, segments  # noqa: PLC0415

    data = blank(tmp_path / "data.img", chunks * 65536)
    with FileReader(metadata) as meta_reader, FileReader(data) as data_reader:
        pool = lvm_thin.ThinPool(
            segments.whole("m", meta_reader), segments.whole("d", data_reader), 65536
        )
        for device, mapping in model.items():
            volume = pool.volume(device, 10000 * 65536)
            for at in range(0, 10000, 37):
                where = volume.physical(ranges.of_pairs([(at * 65536, at * 65536 + 100)]))
                to = mapping.get(at)
                expected = {} if to is None else {"d": [[to * 65536, to * 65536 + 100]]}
                assert {key: many.tolist() for key, many in where.items()} == expected
        used = {to for mapping in model.values() for to in mapping.values()}
        bits = ranges.of_pairs([(to * 65536, (to + 1) * 65536) for to in used])
        assert pool.used().tolist() == bits.tolist()


def test_a_hibernated_system_keeps_its_swap(tmp_path):
    path = blank(tmp_path / "swap.img", 8 * MIB)
    run("mkswap", str(path))
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"S1SUSPEND\0", 4086)
    with FileReader(path) as reader:
        (volume,) = volumes.discover({"vdc": reader}).volumes
        assert (volume.name, volume.kind) == ("vdc", "swap")
        found = volumes.allocation_of(volume, frozen=True)
        assert "hibernated" in found.doubt
        assert found.used.tolist() == [[0, 8 * MIB]]


def test_a_table_and_a_file_system_on_one_disk_are_a_doubt(tmp_path):
    path = blank(tmp_path / "disk.img", 32 * MIB)
    run("mkfs.ext4", "-q", "-F", str(path))
    with path.open("r+b") as file:
        os.pwrite(
            file.fileno(), struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 2048, 4096), 446
        )
        os.pwrite(file.fileno(), b"\x55\xaa", 510)
    with FileReader(path) as reader:
        layout = volumes.discover({"vda": reader})
        assert "ext4" in layout.doubts["vda"]
        assert layout.structure["vda"].tolist() == [[0, 32 * MIB]]
