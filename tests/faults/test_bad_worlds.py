"""The world at its worst: the error is the right one, it says what to do, and nothing is lost."""

import contextlib
import datetime
import errno
import json
import random

import pytest
from blake3 import blake3

from ruchu import errors
from ruchu.model.ids import new_id
from ruchu.model.sources import Kind
from ruchu.repository import (
    chains,
    documents,
    keyring,
    layout,
    locking,
    marks,
    merging,
    moves,
    packs,
    repositories,
    trash,
)
from ruchu.testing import worlds
from ruchu.testing.worlds import BLOCK, World

ZERO = datetime.timedelta(0)
DAY = datetime.timedelta(days=1)
POOL = [random.Random(number).randbytes(BLOCK) for number in range(40)]
ODD_NAMES = ("notes.json", "0000000001-xyz.json", "sub/0000000001.json", "a.txt", f"{'0' * 32}")


@pytest.fixture(autouse=True)
def _small():
    with worlds.small():
        yield


@pytest.fixture
def world():
    world = World(5)
    server = world.start()
    for start in (0, 6):
        content = b"".join(POOL[start : start + 12])
        world.back_up(server, Kind.FULL, {"vda": content})
    world.host.kill(server.process)
    return world


@pytest.fixture
def server(world):
    return world.start()


@contextlib.contextmanager
def refused(*kinds):
    """Expect an error of one of the kinds that says what is wrong and what to do."""
    with pytest.raises(kinds) as failure:
        yield failure
    assert str(failure.value)
    assert failure.value.advice, f"{failure.value!r} gives no advice"


def back_up(world, server, start=20):
    return world.back_up(server, Kind.FULL, {"vda": b"".join(POOL[start : start + 14])})


def merge(server, stems=(), grace=ZERO):
    with server.chain.exclusive("merge") as lock:
        if stems:
            merging.delete_points(server.chain, lock, stems, grace=grace)
        merging.sweep(server.chain, lock, grace=grace)
        merging.purge(server.chain, lock)


def replace(storage, name, data):
    storage.delete(name)
    storage.put(name, data)


def resealed(data, keys=None, **fields):
    """Return a document with some fields changed, and a seal that fits again."""
    value = json.loads(data)
    seal = "check" if "check" in value else "sum"
    del value[seal]
    value |= fields
    plain = documents.canonical(value)
    value[seal] = keys.seal(plain) if keys is not None else blake3(plain).hexdigest()
    return documents.canonical(value)


# The disk.


def test_a_full_disk_at_every_write_of_a_backup(world, server):
    """The same process goes on as soon as there is room: no lock of its own is in its way."""
    refusals = 0
    room = 0
    while True:
        world.disk.capacity = world.disk.used() + room
        try:
            back_up(world, server)
        except errors.StorageFull:
            refusals += 1
        else:
            break
        finally:
            world.disk.capacity = 1 << 60
        world.pending = None
        world.check(server)
        room += 499
        assert refusals < 200
    assert refusals > 20
    world.check(world.start())
    assert server.storage.sweep_unfinished("") == 0


def test_a_full_disk_at_every_write_of_a_merge(world, server):
    back_up(world, server)
    first = min(world.model)
    for room in range(0, 30_000, 997):
        world.disk.capacity = world.disk.used() + room
        with contextlib.suppress(errors.StorageFull, errors.NotFound):
            merge(server, [first])
        world.disk.capacity = 1 << 60
        if first in world.model and first not in server.chain.stems():
            del world.model[first]
        world.check(server)
    merge(server)
    world.check(world.start())


def test_a_disk_that_is_read_only(world, server):
    world.disk.read_only = True
    with refused(errors.StorageReadOnly):
        back_up(world, server)
    with refused(errors.StorageReadOnly):
        merge(server, [min(world.model)])
    world.check(server)
    world.disk.read_only = False
    world.pending = None
    world.check(world.start())


def test_a_storage_that_is_unplugged_at_any_call(world, server):
    """And plugged in again: the process that lived on can work at once."""
    real = type(world.disk)._call
    for calls in range(0, 700, 13):
        left = iter(range(calls))

        def call(disk, left=left, **named):
            if next(left, None) is None:
                disk.gone = True
            if disk.gone:
                raise OSError(errno.ENODEV, "gone")
            return real(disk, **named)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(world.disk), "_call", call)
            with contextlib.suppress(errors.StorageError):
                back_up(world, server)
        world.disk.gone = False
        world.disk.kill()
        world.recover(server)
    back_up(world, server)
    world.check(world.start())


def test_a_lease_that_could_not_be_given_back_binds_nobody(world, server):
    first = min(world.model)
    with pytest.raises(errors.StorageError), server.chain.reading(server.chain.head(first), "r"):
        world.disk.gone = True
    world.disk.gone = False
    merge(server, [first])
    del world.model[first]
    world.check(server)


def test_the_error_of_the_work_wins_over_that_of_the_release(world, server):
    def work():
        with server.chain.exclusive("test"):
            world.disk.read_only = True
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failure:
        work()
    assert "Giving the chain back failed" in failure.value.__notes__[0]


# Keys.


@pytest.mark.parametrize("secret", [
    None, keyring.NO_SECRET, keyring.Secret("passphrase", b"wrong"), keyring.Secret("keyfile", b"x"),
])  # fmt: skip
def test_a_wrong_secret(world, server, secret):
    surroundings = world.surroundings(world.host.start())
    with refused(errors.WrongKey):
        repositories.open_repository(world.storage(), secret, surroundings)
    world.check(world.start())


def test_a_slot_without_a_secret_is_planted_in_an_encrypted_storage(world, server):
    for _ in range(8):  # whatever its name, it may come before ours
        slot = new_id(world.entropy)
        fields = keyring.new_slot(
            server.repository.facts.id, slot, bytes(32), keyring.NO_SECRET, world.entropy,
            worlds.CHEAP,
        )  # fmt: skip
        data = documents.sealed(repositories.KEY_FORMAT, {**fields, "created": "x"})
        server.storage.put(layout.key_slot(slot), data)
    with refused(errors.WrongKey):
        repositories.open_repository(world.storage(), None, world.surroundings(world.host.start()))
    world.check(world.start())
    made = world.start().repository.create_chain(chains.ProtectedObject("image", "new"), 1)
    with refused(errors.WrongKey):
        name = layout.chain_document(made.id)
        keyring.unwrap_chain_key(name, bytes(32), chains.read_document(server.storage, made.id))


# Formats of another time.


def documents_of(world, server):
    """Return a name, and what meets a document, for each kind of document."""
    chain, storage = server.chain, server.storage
    stem = min(world.model)
    marks.star(storage, chain.id, stem[11:], world.clock.now())
    (slot,) = [info.name for info in storage.list(layout.KEYS)]
    return {
        "storage": (layout.STORAGE, world.start),
        "key": (slot, world.start),
        "chain": (layout.chain_document(chain.id), world.start),
        "point": (layout.head(chain.id, stem), lambda: world.check(world.start())),
    }


@pytest.mark.parametrize("kind", ["storage", "key", "chain", "point"])
def test_a_document_of_an_unknown_version(world, server, kind):
    name, use = documents_of(world, server)[kind]
    data = server.storage.get(name, 1 << 20)
    keys = server.chain.keys if kind == "point" else None
    for version in (2, 0, "1", None, True):
        replace(server.storage, name, resealed(data, keys, version=version))
        with refused(errors.UnknownFormat):
            use()
    replace(server.storage, name, data)
    world.check(world.start())


def test_a_trash_record_of_an_unknown_version(world, server):
    merge(server, [min(world.model)], grace=DAY)
    del world.model[min(world.model)]
    for info in list(server.storage.list(layout.trash(world.chain_id))):
        data = server.storage.get(info.name, 1 << 20)
        replace(server.storage, info.name, resealed(data, version=2))
    with refused(errors.UnknownFormat):
        merge(server)
    for stem, disks in world.model.items():
        assert world.read(server.chain, stem) == disks


def test_a_lock_of_an_unknown_version_holds(world, server):
    fields = {"number": 7, "host": "h", "boot": "b", "pid": 1, "started": 1}
    data = resealed(documents.sealed("ruchu-lock", fields), version=2)
    server.storage.put(f"{layout.locks(world.chain_id)}/{7:010d}.json", data)
    with refused(errors.ChainBusy, errors.UnknownFormat):
        back_up(world, server)
    world.pending = None
    world.check(server)
    locking.break_lock(server.storage, world.chain_id)
    back_up(world, server)


def test_a_pack_of_an_unknown_version(world, server):
    name = next(info.name for info in server.storage.list("chains") if info.name.endswith(".pack"))
    whole = server.storage.get(name, 1 << 20)
    front = bytearray(whole[:48])
    front[8] = 2
    header = bytes(front) + blake3(bytes(front)).digest()[:16]
    replace(server.storage, name, header + whole[64:])
    number = server.chain.table.number(bytes.fromhex(layout.stem_of(name, ".pack")))
    with refused(errors.UnknownFormat):
        server.chain.reader.entries(number)
    back_up(world, world.start())  # it builds upon the other packs
    replace(server.storage, name, whole)
    world.check(world.start())


def test_a_table_of_moves_of_an_unknown_version(world):
    empty = moves.Moves((), *(packs.np.zeros(0, "<u4"),) * 3)
    data = bytearray(empty.packed(bytes(16), bytes(16), bytes(12), None)[:-32])
    data[8] = 2
    sealed = bytes(data) + blake3(bytes(data)).digest()
    with refused(errors.UnknownFormat):
        moves.parse("moved", sealed, bytes(16), bytes(16), None)


# Files of others, and names that lie.


@pytest.mark.parametrize("folder", ["points", "packs", "packs/ab", "marks", "trash", "leases"])
def test_foreign_files_harm_nothing(world, server, folder):
    for name in ODD_NAMES:
        server.storage.put(f"chains/{world.chain_id}/{folder}/{name}", b"foreign")
    server.storage.put("keys/notes.json", b"foreign")
    server.storage.put("chains/notes.json", b"foreign")
    server.storage.put("chains/somebody/chain.json", b"foreign")
    fresh = world.start()
    world.check(fresh)
    back_up(world, fresh)
    first = min(world.model)
    merge(fresh, [first])
    del world.model[first]
    world.check(world.start())


def test_copies_of_objects_in_other_folders_harm_nothing(world, server):
    storage, chain = server.storage, world.chain_id
    for info in list(storage.list(f"chains/{chain}/packs")):
        leaf = info.name.rpartition("/")[2]
        storage.put(f"chains/{chain}/packs/backup/{leaf}", storage.get(info.name, 1 << 20))
    first = min(world.model)
    merge(server, [first])
    del world.model[first]
    back_up(world, server)
    world.check(world.start())


def test_a_head_with_names_that_lead_out(world, server, tmp_path):
    """The keys are ours, and yet the names and ids in a head are not believed."""
    chain, storage = server.chain, server.storage
    stem = min(world.model)
    name = layout.head(chain.id, stem)
    data = storage.get(name, 1 << 20)
    disks = json.loads(data)["disks"]
    root = disks[0]["root"]
    for evil in ("../../../../etc/passwd", "/etc/passwd", "A" * 32, "", "0" * 31, "0" * 33):
        lies = [
            {"point": evil},
            {"parent": evil},
            {"disks": [disks[0] | {"root": root | {"pack": evil}}]},
            {"disks": [disks[0] | {"root": root | {"id": evil}}]},
            {"attachments": {"native": root | {"pack": evil}}},
        ]
        for lie in lies:
            replace(storage, name, resealed(data, chain.keys, **lie))
            with refused(errors.Damaged, errors.UnsafeName):
                chain.head(stem)
    # Names of disks and attachments are names only: any text, never a path.
    replace(storage, name, resealed(data, chain.keys, disks=[disks[0] | {"name": "../../x"}]))
    head = chain.head(stem)
    assert head.disks[0].name == "../../x"
    assert chain.disk(head, head.disks[0]).size == 12 * BLOCK
    replace(storage, name, data)
    world.check(server)


@pytest.mark.parametrize("evil", ["../x", "..", "a/b", "A" * 32, "", "0" * 32 + "\n"])
def test_ids_from_outside_never_become_paths(evil):
    for make in (
        layout.chain, layout.key_slot, lambda one: layout.pack("0" * 32, one),
        lambda one: layout.moved("0" * 32, one), lambda one: layout.star("0" * 32, one),
        lambda one: layout.trash_record("0" * 32, one), lambda one: layout.head("0" * 32, one),
        lambda one: layout.lease("0" * 32, one, "0" * 32), lambda one: layout.point_stem(1, one),
    ):  # fmt: skip
        with refused(errors.UnsafeName):
            make(evil)


def test_documents_that_cannot_be_written_again(world, server):
    name = layout.head(world.chain_id, min(world.model))
    data = server.storage.get(name, 1 << 20)
    for odd in (b'"\\ud800"', b"[" * 600 + b"]" * 600, b"1e999", b"NaN", b"-0", b"1.0"):
        replace(server.storage, name, data.replace(b'"facts": {', b'"facts": {"a": ' + odd + b","))
        with refused(errors.Damaged):
            server.chain.head(min(world.model))
    replace(server.storage, name, data)
    world.check(server)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"null", b"{" * 9999])
def test_marks_leases_and_locks_of_odd_content_count_by_their_names(world, server, content):
    storage, chain, stem = server.storage, world.chain_id, min(world.model)
    other = max(world.model)
    storage.put(layout.star(chain, stem[11:]), content)
    with refused(errors.PointProtected):
        merge(server, [stem])
    marks.unstar(storage, chain, stem[11:])
    storage.put(layout.lock_until(chain, stem[11:], "99999999T999999Z"), content)
    with refused(errors.PointProtected):
        merge(server, [stem])
    lease = layout.lease(chain, other[11:], "1" * 32)
    storage.put(lease, content)
    with refused(errors.PointInUse, errors.Damaged):
        merge(server, [other])
    storage.delete(lease)
    storage.put(f"{layout.locks(chain)}/{900:010d}.json", content)
    with refused(errors.ChainBusy, errors.Damaged):
        merge(server, [other])
    assert locking.break_lock(storage, chain) is not None
    world.check(server)
    merge(server, [other])


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_a_damaged_trash_record_stops_every_purge(world, server, content):
    server.storage.put(layout.trash_record(world.chain_id, "2" * 32), content)
    with refused(errors.Damaged):
        merge(server)
    for stem, disks in world.model.items():
        assert world.read(server.chain, stem) == disks


# Time.


def test_a_clock_that_goes_back(world, server):
    stem, last = min(world.model), max(world.model)
    marks.lock(server.storage, world.chain_id, stem[11:], world.clock.now() + DAY,
               world.clock.now())  # fmt: skip
    world.clock.move(-400 * DAY)
    with refused(errors.PointProtected):
        merge(server, [stem])
    new = back_up(world, server)
    assert new > last  # the sequence does not ask the clock
    merge(server, [last], grace=DAY)
    going = world.model.pop(last)
    world.check(server)
    world.clock.move(-DAY)
    merge(server)
    assert world.read(server.chain, last) == going
    world.clock.move(800 * DAY)
    merge(server)
    world.check(server)
    assert not server.chain.stems(deleted=True)


# Moves.


def test_small_packs_that_are_joined_again_and_again_stay_readable(monkeypatch):
    """A reader goes through so many tables at most: compaction must not outrun it."""
    monkeypatch.setattr(moves, "HOPS_MAX", 8)
    monkeypatch.setattr(merging.compaction, "DEPTH_MAX", 4)
    world = World(9)
    server = world.start()
    content = bytearray(24 * BLOCK)
    content[:5] = b"stays"
    stems = [world.back_up(server, Kind.FULL, {"vda": bytes(content)})]
    for turn in range(60):
        content[20 * BLOCK : 20 * BLOCK + 8] = b"%8d" % turn
        stems.append(world.back_up(
            server, Kind.INCREMENTAL, {"vda": bytes(content)}, base=stems[-1],
            changed={"vda": [20]},
        ))  # fmt: skip
        oldest = [stems.pop(0)] if len(stems) > 5 else []
        merge(server, oldest)
        for stem in oldest:
            del world.model[stem]
        world.check(server)
    world.check(world.start())


def test_a_deleted_point_is_whole_until_its_own_time_has_come(world, server):
    """Whatever the grace of what is swept after it."""
    first = min(world.model)
    with server.chain.exclusive("merge") as lock:
        merging.delete_points(server.chain, lock, [first], grace=7 * DAY)
    merge(server)
    going = world.model.pop(first)
    world.check(server)
    assert world.read(world.start().chain, first) == going
    world.clock.move(8 * DAY)
    merge(server)
    world.check(server)
    assert not list(server.storage.list(layout.trash(world.chain_id)))


def test_a_star_that_comes_in_between_saves_the_point(world, server, monkeypatch):
    first = min(world.model)
    real = trash.write

    def write(*arguments):
        marks.star(server.storage, world.chain_id, first[11:], world.clock.now())
        real(*arguments)

    monkeypatch.setattr(trash, "write", write)
    with refused(errors.PointProtected), server.chain.exclusive("merge") as lock:
        merging.delete_points(server.chain, lock, [first], grace=ZERO)
    world.check(world.start())
