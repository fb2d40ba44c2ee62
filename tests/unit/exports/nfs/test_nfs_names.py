"""The tree: looking up, listing, and the files that clients make beside the disks."""

import json
import os
from dataclasses import replace

import pytest

from ruchu.errors import CacheDamaged
from ruchu.exports.nfs import scratch as scratch_module
from ruchu.exports.nfs import tree as tree_module
from ruchu.exports.nfs.exporting import ExportedDisk
from ruchu.exports.nfs.messages import Status
from ruchu.exports.nfs.xdr import FALSE, TRUE, U32, U64, opaque
from ruchu.testing import nfs

NFS = 100003
UNCHECKED = U32.pack(0)
EXCLUSIVE = U32.pack(2)


def refused(call, *args):
    with pytest.raises(nfs.Refusal) as caught:
        call(*args)
    return Status(caught.value.status)


def mkdir(client, directory, name):
    packed = opaque(directory) + opaque(name.encode()) + nfs.new_attributes()
    reader = client.call(nfs.MKDIR, packed)
    assert reader.flag()
    return reader.opaque(64)


def remove(client, directory, name, procedure=nfs.REMOVE):
    client.call(procedure, opaque(directory) + opaque(name.encode()))


def rename(client, source, name, target, new_name):
    names = opaque(source) + opaque(name.encode()) + opaque(target) + opaque(new_name.encode())
    client.call(nfs.RENAME, names)


def set_attributes(client, handle, new, guard=FALSE):
    client.call(nfs.SETATTR, opaque(handle) + new + guard)


def attributes_of(client, handle):
    return nfs.attributes(client.call(nfs.GETATTR, opaque(handle)), bare=True)


def test_lookup(client, root, disk):
    assert client.lookup(root, ".") == root
    assert client.lookup(root, "..") == root
    made = mkdir(client, root, "d")
    assert client.lookup(made, ".") == made
    assert client.lookup(made, "..") == root
    assert refused(client.lookup, root, "nothing") is Status.NOENT
    assert refused(client.lookup, root, "x" * 256) is Status.NAMETOOLONG
    assert refused(client.lookup, root, "../disk.raw") is Status.NOENT
    assert refused(client.lookup, disk, "x") is Status.NOTDIR


def test_given_files_are_read_only(client, root):
    handle = client.lookup(root, "disk.vmdk")
    assert client.read(handle, 2, 100) == (b"descriptor", True)
    assert refused(client.write, handle, 0, b"x") is Status.ROFS
    assert refused(set_attributes, client, handle, nfs.new_attributes(size=1)) is Status.ROFS
    assert refused(remove, client, root, "disk.vmdk") is Status.DENIED


def test_a_file_is_made_written_read_and_removed(client, root, export):
    handle = client.create(root, "vm.log")
    assert client.write(handle, 0, b"hello")[0] == 0
    client.write(handle, 8, b"world", 2)
    assert client.read(handle, 0, 100) == (b"hello\0\0\0world", True)
    assert attributes_of(client, handle)["size"] == 13
    client.commit(handle)
    remove(client, root, "vm.log")
    assert refused(client.read, handle, 0, 1) is Status.STALE
    assert refused(client.lookup, root, "vm.log") is Status.NOENT
    assert [path.name for path in export.scratch.iterdir()] == ["index.json"]


def test_no_name_of_a_client_becomes_a_path(client, root, export):
    for name in ("a/b", "../../etc/passwd", "", "x\0y"):
        assert refused(client.create, root, name) is Status.INVAL
    for name in (".", ".."):
        assert refused(client.create, root, name) is Status.EXIST
    assert refused(client.create, root, "x" * 256) is Status.NAMETOOLONG
    client.create(root, "index.json")
    client.create(root, "00000001.data")
    client.create(root, "\N{SNOWMAN} -rf *")
    names = sorted(path.name for path in export.scratch.iterdir())
    assert names == ["00000001.data", "00000002.data", "00000003.data", "index.json"]
    assert json.loads((export.scratch / "index.json").read_text())["next"] == 4


def test_how_a_file_is_made(client, root):
    handle = client.create(root, "x", UNCHECKED + nfs.new_attributes(size=10))
    assert attributes_of(client, handle)["size"] == 10
    assert client.create(root, "x", UNCHECKED + nfs.new_attributes(size=3)) == handle
    assert attributes_of(client, handle)["size"] == 3
    assert refused(client.create, root, "x") is Status.EXIST
    once = client.create(root, "lock", EXCLUSIVE + b"verifier")
    assert client.create(root, "lock", EXCLUSIVE + b"verifier") == once
    assert refused(client.create, root, "lock", EXCLUSIVE + b"another!") is Status.EXIST
    assert refused(client.create, root, "y", U32.pack(3)) is Status.INVAL
    assert client.read(handle, 0, 9) == (bytes(3), True)


def test_disks_cannot_be_removed_renamed_or_resized(client, root, disk, device):
    client.create(root, "x")
    assert refused(remove, client, root, "disk.raw") is Status.DENIED
    assert refused(rename, client, root, "disk.raw", root, "y") is Status.DENIED
    assert refused(rename, client, root, "x", root, "disk.raw") is Status.DENIED
    for size in (0, device.size - 1, device.size + 1):
        new = nfs.new_attributes(size=size)
        assert refused(set_attributes, client, disk, new) is Status.INVAL
        assert refused(client.create, root, "disk.raw", UNCHECKED + new) is Status.INVAL
    same = nfs.new_attributes(size=device.size, mode=0o600)
    set_attributes(client, disk, same)
    assert attributes_of(client, disk)["mode"] == 0o600
    assert client.create(root, "disk.raw", UNCHECKED + same) == disk
    assert refused(client.create, root, "disk.raw") is Status.EXIST
    assert refused(client.create, root, "disk.raw", EXCLUSIVE + bytes(8)) is Status.EXIST


def test_attributes_are_set(client, root):
    handle = client.create(root, "x")
    before = attributes_of(client, handle)
    times = U32.pack(2) + U32.pack(7) + U32.pack(8) + U32.pack(1)
    set_attributes(client, handle, FALSE * 3 + TRUE + U64.pack(100) + times)
    after = attributes_of(client, handle)
    assert (after["size"], after["accessed"]) == (100, 7_000_000_008)
    assert after["changed"] > before["changed"]
    guard = TRUE + U32.pack(after["changed"] // 10**9) + U32.pack(after["changed"] % 10**9)
    set_attributes(client, handle, nfs.new_attributes(mode=0o640), guard)
    assert refused(set_attributes, client, handle, nfs.new_attributes(), guard) is Status.NOT_SYNC
    set_attributes(client, handle, FALSE + (TRUE + U32.pack(0)) * 2 + FALSE * 3)
    foreign = FALSE + TRUE + U32.pack(1000) + FALSE * 4
    assert refused(set_attributes, client, handle, foreign) is Status.PERM
    assert refused(set_attributes, client, root, nfs.new_attributes(size=1)) is Status.ISDIR


def test_directories(client, root):
    outer = mkdir(client, root, "outer")
    inner = mkdir(client, outer, "inner")
    client.create(inner, "file")
    assert refused(mkdir, client, root, "outer") is Status.EXIST
    assert refused(remove, client, root, "outer") is Status.ISDIR
    assert refused(remove, client, root, "outer", nfs.RMDIR) is Status.NOTEMPTY
    assert refused(remove, client, inner, "file", nfs.RMDIR) is Status.NOTDIR
    remove(client, inner, "file")
    remove(client, outer, "inner", nfs.RMDIR)
    assert refused(client.create, inner, "file") is Status.STALE
    remove(client, root, "outer", nfs.RMDIR)
    assert client.names(root) == [".", "..", "disk.raw", "disk.vmdk"]


def test_renaming(client, root):
    outer, other = mkdir(client, root, "outer"), mkdir(client, root, "other")
    handle = client.create(outer, "a")
    client.write(handle, 0, b"content")
    rename(client, outer, "a", other, "b")
    assert client.lookup(other, "b") == handle
    assert refused(client.lookup, outer, "a") is Status.NOENT
    replaced = client.create(outer, "c")
    rename(client, other, "b", outer, "c")
    assert refused(client.read, replaced, 0, 1) is Status.STALE
    assert client.read(client.lookup(outer, "c"), 0, 100)[0] == b"content"
    rename(client, outer, "c", outer, "c")
    assert refused(rename, client, root, "outer", root, "other/x") is Status.INVAL
    assert refused(rename, client, outer, "c", root, "other") is Status.ISDIR
    assert refused(rename, client, root, "other", outer, "c") is Status.NOTDIR
    rename(client, root, "other", outer, "moved")
    assert client.lookup(other, "..") == outer


def test_a_directory_cannot_be_moved_into_itself(client, root):
    outer = mkdir(client, root, "outer")
    inner = mkdir(client, outer, "inner")
    assert refused(rename, client, root, "outer", inner, "x") is Status.INVAL
    assert refused(rename, client, root, "outer", outer, "x") is Status.INVAL


def test_directories_are_not_nested_without_end(client, root):
    directory = root
    for number in range(tree_module.DEPTH_MAX):
        directory = mkdir(client, directory, str(number))
    assert refused(mkdir, client, directory, "deeper") is Status.DQUOT


def test_the_number_of_files_is_limited(client, root, monkeypatch):
    monkeypatch.setattr(scratch_module, "ENTRIES_MAX", 3)
    for number in range(3):
        client.create(root, str(number))
    assert refused(client.create, root, "one more") is Status.DQUOT
    remove(client, root, "0")
    client.create(root, "one more")


def test_the_bytes_of_files_are_limited(export):
    small = replace(export, scratch_max=1000)
    with nfs.serving(small) as running, nfs.Client(running.address) as client:
        root = client.mount()
        one, other = client.create(root, "one"), client.create(root, "other")
        client.write(one, 0, b"x" * 600)
        assert refused(client.write, other, 0, b"x" * 401) is Status.NOSPC
        assert refused(client.write, other, 1 << 40, b"x") is Status.NOSPC
        assert refused(client.write, other, (1 << 63) - 1, b"x") is Status.FBIG
        assert refused(set_attributes, client, other, nfs.new_attributes(size=401)) is Status.NOSPC
        client.write(other, 0, b"x" * 400)
        client.write(other, 0, b"y" * 400)
        set_attributes(client, one, nfs.new_attributes(size=100))
        client.write(other, 400, b"x" * 500)
        remove(client, root, "one")
    # It is counted again from what is there.
    with nfs.serving(small) as running, nfs.Client(running.address) as client:
        other = client.lookup(client.mount(), "other")
        assert refused(client.write, other, 1000, b"x") is Status.NOSPC
        client.write(other, 900, b"x" * 100)


def test_files_and_their_handles_outlive_the_server(export):
    with nfs.serving(export) as running, nfs.Client(running.address) as client:
        root = client.mount()
        young = mkdir(client, root, "young")
        old = mkdir(client, root, "old")
        handle = client.create(young, "file \N{SNOWMAN}")
        client.write(handle, 0, b"kept", 2)
        set_attributes(client, handle, nfs.new_attributes(mode=0o600))
        rename(client, root, "young", old, "young")
        exclusive = client.create(root, "lock", EXCLUSIVE + b"verifier")
    (export.scratch / "000000ff.data").write_bytes(b"left by a crash")
    with nfs.serving(export) as running, nfs.Client(running.address) as client:
        assert client.read(handle, 0, 10) == (b"kept", True)
        assert attributes_of(client, handle)["mode"] == 0o600
        assert client.lookup(client.lookup(old, "young"), "file \N{SNOWMAN}") == handle
        assert client.create(root, "lock", EXCLUSIVE + b"verifier") == exclusive
    assert not (export.scratch / "000000ff.data").exists()


def test_a_new_scratch_directory_has_new_handles(export, tmp_path):
    with nfs.serving(export) as running, nfs.Client(running.address) as client:
        handle = client.create(client.mount(), "x")
    emptied = replace(export, scratch=tmp_path / "another")
    with nfs.serving(emptied) as running, nfs.Client(running.address) as client:
        assert client.create(client.mount(), "x") != handle
        assert refused(client.read, handle, 0, 1) is Status.STALE


def test_a_disk_comes_before_a_file_of_its_name(export, device):
    with nfs.serving(export) as running, nfs.Client(running.address) as client:
        client.create(mkdir(client, client.mount(), "second.raw"), "below")
    more = replace(export, disks=(*export.disks, ExportedDisk("second.raw", device)))
    with nfs.serving(more) as running, nfs.Client(running.address) as client:
        second = client.lookup(client.mount(), "second.raw")
        assert attributes_of(client, second)["size"] == device.size


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.pop("entries"),
        lambda index: index.update(version=9),
        lambda index: index["entries"][0].update(name="../x"),
        lambda index: index["entries"][0].update(parent=77),
        lambda index: index["entries"][0].update(number=77),
        lambda index: index["entries"][0].update(parent=2),
        lambda index: index["entries"][0].update(parent=1),
        lambda index: index["entries"][0].update(directory=False),
        lambda index: index["entries"].append(dict(index["entries"][0], number=3)),
        lambda index: index.update(next=0),
    ],
    ids=[
        "no entries",
        "version",
        "name",
        "no parent",
        "number",
        "own parent",
        "circle",
        "file as directory",
        "name twice",
        "next",
    ],
)
def test_an_index_that_contradicts_itself_is_refused(export, change):
    with nfs.serving(export) as running, nfs.Client(running.address) as client:
        client.create(mkdir(client, client.mount(), "directory"), "file")
    path = export.scratch / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(CacheDamaged):
        nfs.RunningServer(export)


def test_an_index_that_is_no_json_is_refused(export):
    export.scratch.mkdir()
    (export.scratch / "index.json").write_bytes(os.urandom(100))
    with pytest.raises(CacheDamaged):
        nfs.RunningServer(export)


def test_a_change_that_cannot_be_kept_changes_nothing(client, root, export, server):
    client.create(root, "before")
    (export.scratch / "index.json.new").mkdir()
    assert refused(client.create, root, "x") is Status.IO
    assert refused(remove, client, root, "before") is Status.IO
    (export.scratch / "index.json.new").rmdir()
    assert client.names(root) == [".", "..", "disk.raw", "disk.vmdk", "before"]
    client.create(root, "x")
    assert len(server.failures) == 2


def test_long_listings_come_in_parts_and_miss_nothing(client, root):
    names = {f"{number}-{'x' * (number % 60)}" for number in range(60)}
    for name in names:
        client.create(root, name)
    expected = {".", "..", "disk.raw", "disk.vmdk"} | names
    for count in (400, 1 << 30):
        found = client.names(root, count)
        assert len(found) == len(expected)
        assert set(found) == expected


def test_listings_end_where_they_must(client, root):
    for number in range(20):
        client.create(root, f"file-{number}")
    for procedure in (nfs.READDIR, nfs.READDIRPLUS):
        for limit in (300, 500, 2000):
            sizes = U32.pack(limit) * (1 + (procedure == nfs.READDIRPLUS))
            client.post(NFS, procedure, opaque(root) + bytes(16) + sizes)
            assert len(client.answer()[2]) <= limit


def test_a_listing_without_room_is_refused(client, root):
    where = opaque(root) + bytes(16)
    assert refused(client.call, nfs.READDIR, where + U32.pack(110)) is Status.TOOSMALL
    sizes = U32.pack(10) + U32.pack(4096)
    assert refused(client.call, nfs.READDIRPLUS, where + sizes) is Status.TOOSMALL


def test_a_cookie_needs_its_verifier(client, root):
    where = opaque(root) + U64.pack(1) + b"wrong..." + U32.pack(4096)
    assert refused(client.call, nfs.READDIR, where) is Status.BAD_COOKIE


def test_a_listing_that_goes_on_after_a_removal_misses_nothing(client, root):
    for number in range(10):
        client.create(root, f"file-{number}")
    reader = client.call(nfs.READDIR, opaque(root) + bytes(16) + U32.pack(350))
    nfs.attributes(reader)
    verifier = reader.fixed(8)
    seen, cookie = [], 0
    while reader.flag():
        reader.u64()
        seen.append(reader.opaque(255).decode())
        cookie = reader.u64()
    assert "file-0" in seen
    assert "file-9" not in seen
    remove(client, root, "file-0")
    rest = U64.pack(cookie) + verifier + U32.pack(1 << 20)
    reader = client.call(nfs.READDIR, opaque(root) + rest)
    nfs.attributes(reader)
    reader.fixed(8)
    while reader.flag():
        reader.u64()
        seen.append(reader.opaque(255).decode())
        reader.u64()
    assert [name for name in seen if name.startswith("file")] == [f"file-{n}" for n in range(10)]


def test_listings_with_attributes(client, root, disk, device):
    sizes = U32.pack(8192) * 2
    reader = client.call(nfs.READDIRPLUS, opaque(root) + bytes(16) + sizes)
    nfs.attributes(reader)
    reader.fixed(8)
    found = {}
    while reader.flag():
        file_id = reader.u64()
        name = reader.opaque(255).decode()
        reader.u64()
        there = nfs.attributes(reader)
        assert there["file_id"] == file_id
        assert reader.flag()
        found[name] = (reader.opaque(64), there["size"])
    assert reader.flag()
    assert found["disk.raw"] == (disk, device.size)
    assert found["."] == found[".."]
    assert found["."][0] == root
