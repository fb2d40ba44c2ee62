"""FAT: names, times, chains, and what makes its table a doubt. Images by mkfs.fat and mtools."""

import datetime
import os
import subprocess

import numpy as np
import pytest

from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests import fat, ranges
from ruchu.guests.contract import NodeKind
from ruchu.guests.fat import fat_boot, fat_volume, files
from ruchu.guests.fat.clusters import Chains, Heap
from ruchu.guests.volume_reading import VolumeReader
from ruchu.testing.memory_disk import MemoryDisk

ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}


def run(*arguments):
    subprocess.run(arguments, check=True, capture_output=True, env=ENVIRONMENT)


@pytest.fixture(scope="module", params=["12", "16", "32"])
def image(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fat")
    path = folder / "fat.img"
    with path.open("wb") as file:
        file.truncate((36 if request.param == "32" else 4) << 20)
    cluster = {"12": "8", "16": "1", "32": "1"}[request.param]
    run("mkfs.fat", "-F", request.param, "-s", cluster, "-n", "BACKUP", "-i", "12ab34cd", str(path))
    source = folder / "file"
    source.write_bytes(bytes(range(256)) * 40)
    os.utime(source, (1_600_000_000, 1_600_000_000))
    for name in ("README.TXT", "lower.txt", "Mixed.txt", "文件", "a" * 200):
        run("mcopy", "-m", "-i", str(path), str(source), f"::/{name}")
    run("mmd", "-i", str(path), "::/folder")
    run("mattrib", "+r", "+h", "-i", str(path), "::/README.TXT")
    return path.read_bytes()


def opened(content):
    return fat.open_file_system(MemoryDisk(bytes(content)))


def doubt(content):
    found = fat.allocation(MemoryDisk(bytes(content)), frozen=True)
    assert bool(found.doubt) == (found.used.tolist() == [[0, len(content)]])
    return found.doubt


def geometry(content):
    return fat_boot.read_geometry(VolumeReader(MemoryDisk(bytes(content))))


def test_names_attributes_and_times(image):
    system = opened(image)
    found = {entry.name.decode(): entry for entry in system.entries(system.root)}
    assert set(found) == {"README.TXT", "lower.txt", "Mixed.txt", "文件", "a" * 200, "folder"}
    assert found["folder"].kind is NodeKind.DIRECTORY
    stat = system.stat(found["README.TXT"].node)
    assert (stat.mode, stat.attributes & 3, stat.size) == (0o444, 3, 10240)
    assert stat.modified == 1_600_000_000 * 10**9
    assert system.stat(found["lower.txt"].node).mode == 0o644
    assert system.stat(system.root).kind is NodeKind.DIRECTORY
    assert list(system.entries(found["folder"].node)) == []
    assert (system.facts.label, system.facts.uuid) == ("BACKUP", "12AB-34CD")


def test_content_and_where_it_lies(image):
    system = opened(image)
    node = next(e.node for e in system.entries(system.root) if e.name == b"lower.txt")
    buffer = bytearray(300)
    system.read_into(node, 9900, memoryview(buffer))
    assert bytes(buffer) == (bytes(range(256)) * 40)[9900:10200]
    (first, end), *_ = system.placed(node).tolist()
    assert image[first:end][:10240] == bytes(range(256)) * 40
    assert (end - first) % system.facts.block == 0
    with pytest.raises(GuestDamaged):
        system.read_into(node, 10200, memoryview(buffer))
    with pytest.raises(NotFound):
        system.link_target(node)
    with pytest.raises(NotFound):
        system.read_into(node, 0, memoryview(buffer), "stream")
    with pytest.raises(NotFound):
        system.placed(system.root)
    assert (system.xattrs(node), system.streams(node)) == ({}, {})


def test_a_clean_file_system_has_a_map(image):
    assert doubt(image) == ""
    used = fat.allocation(MemoryDisk(image), frozen=False).used
    system = opened(image)
    for entry in system.entries(system.root):
        if entry.kind is NodeKind.FILE:
            placed = system.placed(entry.node)
            assert ranges.difference(placed, used, len(image)).tolist() == []


def test_a_dirty_mark_is_a_doubt(image):
    marked = bytearray(image)
    marked[65 if geometry(image).bits == 32 else 37] |= 1
    assert "mounted" in doubt(marked)
    place = geometry(image)
    if place.bits == 12:
        return
    unclean = bytearray(image)
    for start in place.tables:
        unclean[start + place.bits // 4 - 1] &= 0x77
    assert "cleanly" in doubt(unclean)
    assert len(opened(unclean).facts.notes) == 2


def test_tables_that_differ_or_lead_nowhere_are_doubts(image):
    place = geometry(image)
    differing = bytearray(image)
    differing[place.tables[1] + 300] ^= 1
    assert "differ" in doubt(differing)
    broken = bytearray(image)
    # A chain whose next cluster is free: clusters 300 and 301 are.
    for start in place.tables:
        at = start + 300 * place.bits // 8
        broken[at : at + 2] = (301).to_bytes(2, "little")
    assert "free" in doubt(broken)


def test_a_volume_that_is_cut_off_is_a_doubt(image):
    assert "larger" in doubt(image[: 3 << 20])


def test_a_name_that_no_system_would_take_is_damage(image):
    for bad in (b"A/B     TXT", b"A\0B     TXT"):
        content = bytearray(image)
        at = content.find(b"README  TXT")
        content[at : at + 11] = bad
        with pytest.raises(GuestDamaged):
            list(opened(content).entries(files.ROOT))


def test_a_long_name_of_another_entry_is_not_shown(image):
    content = bytearray(image)
    at = content.find("Mixed".encode("utf-16-le")) - 1
    assert content[at + 11] == 0x0F
    content[at + 13] ^= 1
    names = {entry.name for entry in opened(content).entries(files.ROOT)}
    assert b"Mixed.txt" not in names
    assert any(name.startswith(b"MIXED") for name in names)


def test_chains_are_followed_in_runs():
    table = np.zeros(20, np.uint32)
    table[[2, 3, 4, 9, 10, 7]] = [3, 4, 9, 10, 7, 0xFFF]
    chains = Chains(table, 0xFF8)
    assert chains.runs(2, 100) == [(2, 3), (9, 2), (7, 1)]
    assert chains.runs(2, 4) == [(2, 3), (9, 1)]
    table[7] = 2
    with pytest.raises(GuestDamaged, match="circle"):
        Chains(table, 0xFF8).runs(2, 100)
    table[7] = 0
    with pytest.raises(GuestDamaged, match="leads to 0"):
        Chains(table, 0xFF8).runs(2, 100)
    with pytest.raises(GuestDamaged):
        Heap(0, 512, 10).position(12)


def test_dos_times():
    when = datetime.datetime(2024, 2, 29, 23, 59, 58, tzinfo=datetime.UTC)
    date, time = (44 << 9) | (2 << 5) | 29, (23 << 11) | (59 << 5) | 29
    assert files.moment(date, time, 150) == int(when.timestamp()) * 10**9 + 1_500_000_000
    assert files.moment(0, 0) is None
    assert files.moment((44 << 9) | (2 << 5) | 30, 0) is None


def test_the_checksum_of_a_short_name_is_microsofts():
    # Known pair: an entry that mtools made beside its long name, as fsck.fat accepts it.
    assert fat_volume._checksum(b"FILENA~1TXT") == sum_of(b"FILENA~1TXT")


def sum_of(name):
    total = 0
    for byte in name:
        total = (((total & 1) << 7) | ((total & 0xFE) >> 1)) + byte & 0xFF
    return total


@pytest.mark.parametrize("kind", ["zeros", "short", "mbr"])
def test_what_is_no_fat_is_not_recognised(kind):
    content = {"zeros": bytes(1 << 20), "short": b"x", "mbr": bytes(510) + b"\x55\xaa"}[kind]
    assert fat.recognise(MemoryDisk(content)) == ""
    assert fat.allocation(MemoryDisk(content), frozen=False).doubt
