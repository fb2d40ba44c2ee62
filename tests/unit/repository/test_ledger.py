import random
import sqlite3

import numpy as np
import pytest
from histories import noisy

from ruchu import errors
from ruchu.repository import layout, ledger, maps, packs
from ruchu.repository.ledger import Ledger
from ruchu.repository.reach import Places, branch_slots, reference_slots


def recount(chain):
    """Count who needs each record the slow way; return the needed places by pack."""
    places = Places(chain.reader, chain.numbers(chain.live_packs()))
    needed = {}

    def note(slots):
        now = places.current(slots)
        for slot in now:
            needed.setdefault(int(slot["pack"]), set()).add(int(slot["offset"]))

    for head in chain.points():
        note(reference_slots(
            [*(disk.root for disk in head.disks), *head.attachments.values()], chain.table
        ))  # fmt: skip
        for disk in head.disks:
            disk_map = chain.disk_map(head, disk)
            note(branch_slots(disk_map.branches))
            for number in range(disk_map.segment_count):
                slots = disk_map.segment(number)
                if slots is not None:
                    note(slots[slots["stored"] > 0])
    return needed


def check(chain):
    wanted = recount(chain)
    with Ledger(chain) as counts:
        counts.sync()
        for usage in counts.usage():
            offsets = set(counts.needed(usage.pack).tolist())
            assert offsets == wanted.pop(usage.pack, set())
            entries = chain.reader.entries(usage.pack)
            lengths = dict(zip(entries["offset"].tolist(), entries["stored"].tolist(), strict=True))
            assert usage.live == sum(lengths[at] + packs.RECORD_BYTES for at in offsets)
            assert usage.total == sum(lengths.values()) + packs.RECORD_BYTES * len(lengths)
    assert wanted == {}


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_a_recount(history, seed, monkeypatch):
    monkeypatch.setattr(ledger, "_ROWS_KEPT", 2 if seed == 1 else 512)
    rng = random.Random(seed)
    for step in range(16):
        history.random_backup(rng, rng.choice([1, 5, 20]))
        if step % 3 == 2:
            history.delete(*rng.sample(sorted(history.contents), 2))
            history.sweep()
            history.purge()
        if step % 4 == 3:
            history.reopen()
            check(history.chain)
    check(history.chain)


def test_a_database_that_is_no_database_is_made_anew(plain):
    plain.backup(noisy(1, 2))
    check(plain.chain)
    path = plain.chain.cache / "ledger"
    for content in (b"garbage" * 1000, path.read_bytes()[:5000] + b"x" * 3000):
        path.write_bytes(content)
        check(plain.chain)


def test_counts_that_are_wrong_are_counted_anew(plain):
    head = plain.backup(noisy(1, 2, 3))
    plain.backup(noisy(1, 2, 3, salt=1))
    check(plain.chain)
    path = plain.chain.cache / "ledger"
    with sqlite3.connect(path) as database:
        for pack, counts in database.execute("select id, counts from packs").fetchall():
            zeros = bytes(len(counts))
            database.execute("update packs set counts = ? where id = ?", (zeros, pack))
    database.close()
    plain.delete(head.stem)
    check(plain.chain)


def test_a_ledger_that_forgot_a_pack_counts_anew(plain):
    head = plain.backup(noisy(1, 2, 3))
    plain.backup(noisy(1, salt=1))
    check(plain.chain)
    for other in (b"\0" * 16,):
        with sqlite3.connect(plain.chain.cache / "ledger") as database:
            database.execute("update packs set id = ? where rowid = 1", (other,))
        database.close()
    plain.delete(head.stem)
    check(plain.chain)


def test_a_damaged_map_leaves_the_counts_as_they_were(plain, disk):
    head = plain.backup(noisy(1, 2, 3))
    check(plain.chain)
    plain.backup(noisy(4))
    lost = plain.chain.latest().disks[0].root.pack
    name = layout.pack(plain.chain.id, lost)
    content = plain.storage.get(name, 1 << 30)
    plain.storage.delete(name)
    plain.reopen()
    with Ledger(plain.chain) as counts:
        with pytest.raises(errors.Damaged):
            counts.sync()
        stems = [row[0] for row in counts._database.execute("select stem from points")]
    assert stems == [head.stem]
    plain.storage.put(name, content)
    plain.reopen()
    check(plain.chain)


def test_a_map_that_names_what_is_no_record_is_damage(plain):
    plain.backup(noisy(1))
    with Ledger(plain.chain) as counts:
        counts.sync()
        slots = np.zeros(1, maps.SLOT)
        slots["pack"] = next(iter(plain.chain.numbers(plain.chain.pack_ids())))
        slots["offset"] = 65
        with pytest.raises(errors.Damaged, match="no record"):
            counts._count(slots, 1)
        assert len(counts._count(slots[:0], 1)) == 0
