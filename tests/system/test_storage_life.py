"""Storages at run time: room, evacuation, removal, through the command line and the kernel."""

import os

import pytest

from ruchu import commands
from ruchu.errors import Cancelled, Damaged, PointInUse, PointProtected, WrongKey
from ruchu.operations import storage_evacuation, storage_removal
from ruchu.operations.registry import Registry
from ruchu.operations.storages import Storages
from ruchu.repository import layout, locking, protecting
from ruchu.testing.command_line import CommandLine
from ruchu.units import KIB, MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]

SIZE = 12 * MIB + 777


@pytest.fixture
def cli(tmp_path):
    (tmp_path / "key").write_bytes(b"k" * 32)
    return CommandLine(tmp_path)


@pytest.fixture
def image(cli, rng):
    path = cli.home / "image"
    path.write_bytes(rng.randbytes(SIZE))
    return path


@pytest.fixture
def storages(cli):
    """Return the storages as the command line sees them, in this process."""
    return Storages(Registry(cli.state))


def add(cli, name, *words):
    cli.run("storage", "add", name, name, "--key-file", "key", *words)


def back_up(cli, storage, *words):
    return cli.json("backup", "image", "image", "--storage", storage, "--name", "o", *words)


def change(path, start, content):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)
    return path.read_bytes()


def test_evacuated_points_go_on_elsewhere(cli, image, rng, storages):
    add(cli, "s")
    add(cli, "t")
    truth = {back_up(cli, "s")["point"]: image.read_bytes()}
    content = change(image, MIB, rng.randbytes(10_000))
    truth[back_up(cli, "s")["point"]] = content
    starred = next(iter(truth))
    cli.run("points", "star", starred[:8])

    # Interrupted in the middle: nothing is seen on the other side, and it goes on from there.
    watch = storage_evacuation.Watch()
    watch = storage_evacuation.Watch(watch.progress, lambda: watch.progress.data > MIB)
    with pytest.raises(Cancelled):
        storage_evacuation.evacuate(storages, "s", "t", watch)
    assert storages.open("t").chain_ids() == []
    refused = cli.fails(2, "usage", "backup", "image", "image", "--storage", "s", "--name", "o")
    assert "evacuating" in refused["message"]

    done = cli.json("storage", "evacuate", "s", "--to", "t")
    assert done["there_already"] > 0
    assert len(done["chains"]) == 1
    assert cli.json("storage", "verify", "t", "--full")["clean"]
    cli.run("storage", "remove", "s")
    assert [state["name"] for state in cli.json("storage", "list")] == ["t"]
    points = cli.json("points", "list")
    assert [point["point"] for point in points] == list(truth)
    assert [point["starred"] for point in points] == [True, False]
    for point, expected in truth.items():
        target = cli.home / point
        cli.run("restore", "image", point[:10], target)
        assert target.read_bytes() == expected

    change(image, 2 * MIB, rng.randbytes(1000))
    following = back_up(cli, "t")
    assert (following["kind"], following["parent"]) == ("incremental", list(truth)[-1])
    assert following["bytes_stored"] < 300 * KIB
    # A second time finds everything there, and another run of the tests of a storage nothing wrong.
    cli.run("storage", "adopt", "s", "s", "--key-file", "key")
    cli.fails(2, "usage", "storage", "evacuate", "s", "--to", "s")


def test_what_differs_on_the_other_side_is_noticed(cli, image, storages):
    add(cli, "s")
    add(cli, "t")
    back_up(cli, "s")
    source, target = storages.open("s").storage, storages.open("t").storage
    (chain,) = storages.open("s").chain_ids()
    pack = next(iter(source.list(layout.packs(chain))))
    content = bytearray(source.get(pack.name, pack.size))
    content[pack.size // 2] ^= 1
    target.put(pack.name, content)
    with pytest.raises(Damaged, match="differs"):
        storage_evacuation.evacuate(storages, "s", "t", storage_evacuation.Watch())
    assert storages.open("t").chain_ids() == []
    assert storages.registry.storage("s").state == "evacuating"
    cli.run("storage", "set", "s", "--active")
    back_up(cli, "s")


def test_a_clear_storage_takes_no_encrypted_chain(cli, image, storages):
    add(cli, "s")
    cli.run("storage", "add", "t", "t", "--no-encryption")
    back_up(cli, "s")
    with pytest.raises(WrongKey, match="the other is not"):
        storage_evacuation.evacuate(storages, "s", "t", storage_evacuation.Watch())


def test_nothing_is_removed_by_mistake(cli, image, storages):
    add(cli, "s")
    point = back_up(cli, "s")["point"]
    refused = cli.fails(2, "usage", "storage", "remove", "s")
    assert "evacuate" in refused["hint"]
    cli.fails(2, "usage", "storage", "remove", "s", "--destroy")
    cli.fails(2, "usage", "storage", "remove", "s", "--destroy", "--confirm", "t")
    repository = storages.open("s")
    (chain,) = repository.all_chains()
    with (
        locking.lease(chain.storage, chain.id, point, "restore", storages.surroundings),
        pytest.raises(PointInUse),
    ):
        storage_removal.remove(storages, "s", force=True, destroy="s")
    assert cli.json("points", "verify", point[:8])["clean"]

    now = storages.surroundings.clock.now()
    with chain.exclusive("lock"):
        protecting.protect_point(chain, chain.find(point[:8]), now.replace(year=now.year + 1),
                                 require=False)  # fmt: skip
    try:
        with pytest.raises(PointProtected):
            storage_removal.remove(storages, "s", destroy="s")
    finally:
        commands.run(["chattr", "-R", "-i", str(cli.home / "s")], timeout_s=30)
    for mark in list(chain.storage.list(layout.marks(chain.id))):
        chain.storage.delete(mark.name)

    done = cli.json("storage", "remove", "s", "--destroy", "--confirm", "s")
    assert done["objects_deleted"] > 5
    assert [path for path in (cli.home / "s").rglob("*") if path.is_file()] == []
    assert cli.json("storage", "list") == []


def test_a_storage_that_is_gone_is_forgotten_by_force_only(cli):
    add(cli, "s")
    (cli.home / "s").rename(cli.home / "elsewhere")
    cli.fails(5, "storage-gone", "storage", "remove", "s")
    cli.run("storage", "remove", "s", "--force")
    assert cli.json("storage", "list") == []
    cli.run("storage", "adopt", "s", "elsewhere", "--key-file", "key")


def test_backups_stop_before_the_storage_is_full(cli, rng):
    place = cli.home / "small"
    place.mkdir()
    commands.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(place)], timeout_s=30)
    try:
        cli.run("storage", "add", "s", place / "s", "--key-file", "key",
                "--warn", "90%", "--stop", "40%")  # fmt: skip
        (state,) = cli.json("storage", "list")
        assert (state["room"], state["warn"], state["stop"]) == ("ok", "90%", "40%")
        assert state["used"] + 0 < 10 * MIB
        assert state["total"] == 200 * MIB
        (cli.home / "image").write_bytes(rng.randbytes(30 * MIB))
        back_up(cli, "s")
        assert cli.json("storage", "list")[0]["room"] == "low"
        # This one would take it below the limit: it is stopped on the way, nothing is lost.
        (cli.home / "image").write_bytes(rng.randbytes(120 * MIB))
        words = ["backup", "image", "image", "--storage", "s", "--name", "o"]
        cli.fails(5, "storage-full", *words)
        assert os.statvfs(place).f_bavail * os.statvfs(place).f_frsize >= 70 * MIB
        cli.run("storage", "set", "s", "--stop", "95%")
        refused = cli.fails(5, "storage-full", *words)
        assert "must stay free" in refused["message"]
        assert cli.json("storage", "list")[0]["room"] == "full"
        cli.fails(2, "usage", "storage", "set", "s", "--stop", "half")
        assert cli.json("storage", "verify", "s", "--full")["clean"]
        assert cli.json("storage", "probe", "s")["file_system"] == "tmpfs"
    finally:
        commands.run(["umount", str(place)], timeout_s=30)
