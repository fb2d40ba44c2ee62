"""Sealed storages: what Ruchu does goes on, on a real file system and on one that loses power."""

import os
import subprocess

import pytest

from ruchu import errors
from ruchu.storage import directory
from ruchu.storage.guarding import inodes, trees
from ruchu.testing import simulated_disk

needs_root = pytest.mark.system


@pytest.fixture
def sealed(real, root):
    real.put("chains/c/packs/00/a.pack", b"one")
    trees.seal_all(str(root))
    yield real
    trees.unseal_all(str(root))


def is_sealed(root, name):
    found = inodes.look(f"{root}/{name}")
    return found.sealed if os.path.isfile(f"{root}/{name}") else found.append


@needs_root
def test_what_was_there_and_what_comes_is_sealed(sealed, root):
    sealed.put("chains/c/packs/00/b.pack", b"two")
    sealed.put("chains/c/chain.json", b"{}")
    sealed.put("chains/d/points/x.json", b"{}")
    objects = {name for name, _ in trees.objects(str(root))}
    assert len(objects) == 5
    assert all(is_sealed(root, name) for name in objects)
    flagged = {name for name in trees.directories(str(root)) if is_sealed(root, name)}
    assert flagged == {"", "chains", "chains/c", "chains/c/packs", "chains/d"}


@needs_root
def test_the_system_refuses_what_ruchu_does_not_do(sealed, root):
    pack = root / "chains/c/packs/00/a.pack"
    with pytest.raises(PermissionError):
        pack.write_bytes(b"other")
    with pytest.raises(PermissionError):
        os.truncate(pack, 0)
    with pytest.raises(PermissionError):
        pack.unlink()
    with pytest.raises(PermissionError):
        pack.rename(f"{pack}x")
    with pytest.raises(PermissionError):
        pack.parent.rename(root / "gone")
    with pytest.raises(PermissionError):
        (root / "chains").rename(root / "gone")


@needs_root
def test_ruchu_removes_objects_everywhere(sealed, root):
    sealed.delete("chains/c/packs/00/a.pack")
    sealed.put("chains/c/chain.json", b"{}")
    sealed.delete("chains/c/chain.json")
    sealed.delete("chains/c/chain.json")
    assert [name for name, _ in trees.objects(str(root))] == ["ruchu-storage.json"]
    assert is_sealed(root, "chains/c")


@needs_root
def test_a_lock_is_told_from_a_seal(sealed, root):
    name = "chains/c/packs/00/a.pack"
    assert not sealed.is_protected(name)
    sealed.protect(name)
    assert sealed.is_protected(name)
    with pytest.raises(errors.StorageReadOnly):
        sealed.delete(name)
    trees.seal_all(str(root))
    assert sealed.is_protected(name)
    trees.unseal_all(str(root))
    assert sealed.is_protected(name)
    trees.seal_all(str(root))
    sealed.release(name)
    assert not sealed.is_protected(name)
    assert is_sealed(root, name)
    sealed.delete(name)


@needs_root
def test_a_name_that_is_taken_and_a_writer_that_gives_up(sealed, root):
    with pytest.raises(errors.ObjectExists):
        sealed.put("chains/c/packs/00/a.pack", b"two")
    with pytest.raises(errors.ObjectExists), sealed.open_writer("ruchu-storage.json") as writer:
        writer.write([b"x"])
        writer.commit()
    with sealed.open_writer("half") as writer:
        writer.write([b"x"])
    assert sorted(os.listdir(root)) == ["chains", "ruchu-storage.json"]
    assert is_sealed(root, "")


@needs_root
def test_two_processes_are_not_in_each_others_way(sealed, root):
    code = (
        "import sys; from ruchu.storage.directory import DirectoryStorage;"
        "storage = DirectoryStorage(sys.argv[1]);"
        "[(storage.put(f'chains/{sys.argv[2]}{n}', b'x'), storage.delete(f'chains/{sys.argv[2]}{n}'))"
        " for n in range(100)]"
    )
    import sys  # noqa: PLC0415

    running = [
        subprocess.Popen([sys.executable, "-c", code, root, letter], stderr=subprocess.PIPE)
        for letter in "ab"
    ]
    assert [process.communicate()[1] for process in running] == [b"", b""]
    assert os.listdir(root / "chains") == ["c"]
    assert is_sealed(root, "chains")


@needs_root
def test_unsealing_leaves_nothing(sealed, root):
    trees.unseal_all(str(root))
    assert not any(is_sealed(root, name) for name, _ in trees.objects(str(root)))
    assert not any(is_sealed(root, name) for name in trees.directories(str(root)))


def test_flags_that_are_not_there_are_told(real, root, monkeypatch):
    def refuse(*_args, **_more):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(trees._HOST, "set_sealed", refuse)
    with pytest.raises(errors.ImmutableNotApplied, match="not permitted"):
        trees.seal(str(root), "ruchu-storage.json")
    monkeypatch.setattr(trees._HOST, "set_sealed", lambda *_args, **_more: None)
    with pytest.raises(errors.ImmutableNotApplied):
        trees.seal(str(root), "")
    trees.seal(str(root), "nothing/there")


def seal_simulated(disk):
    handle = disk.open_root("/storage")
    disk.set_sealed(handle, sealed=True)
    disk.sync_directory(handle)
    disk.close(handle)


def work(storage, promised):
    for turn in range(2):
        name = f"chains/c/packs/0{turn}/p.pack"
        storage.put(name, b"record" * 50)
        promised[name] = b"record" * 50
    storage.put("chains/c/chain.json", b"{}")
    promised["chains/c/chain.json"] = b"{}"
    doomed = "chains/c/packs/00/p.pack"
    del promised[doomed]
    storage.delete(doomed)
    storage.delete("chains/c/chain.json")
    promised.pop("chains/c/chain.json")


@pytest.mark.parametrize("lose_power", [True, False], ids=["power", "killed"])
def test_a_crash_at_any_call_costs_nothing_that_was_promised(rng, lose_power):
    calls = 0
    while True:
        disk = simulated_disk.SimulatedFileSystem(rng)
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        storage.put("ruchu-storage.json", b'{"id": 1}')
        seal_simulated(disk)
        promised = {"ruchu-storage.json": b'{"id": 1}'}
        disk.cut_power_after(calls)
        try:
            work(storage, promised)
            finished = True
        except simulated_disk.PowerFailure:
            finished = False
        if lose_power:
            disk.crash()
        else:
            disk.kill()
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        found = {info.name for info in storage.list("")}
        undecided = {"chains/c/packs/00/p.pack", "chains/c/packs/01/p.pack", "chains/c/chain.json"}
        certain = set(promised) - ({"chains/c/chain.json"} if not finished else set())
        assert certain <= found <= set(promised) | undecided
        for name in certain:
            assert storage.get(name, 1000) == promised[name]
        # Whatever flags were left: the next run works on.
        storage.sweep_unfinished("")
        for name in found - {"ruchu-storage.json"}:
            storage.delete(name)
        storage.put("chains/c/packs/00/p.pack", b"again")
        assert not storage.foreign()
        if finished:
            break
        calls += 1
    assert calls > 50
