import numpy as np
import pytest
from histories import noisy

from ruchu import errors
from ruchu.repository import layout, maps, moves
from ruchu.repository.reach import Places


def put_table(history, old, offset, target, new):
    table = moves.Moves((target,), np.array([offset], "<u4"), np.array([0], "<u4"),
                        np.array([new], "<u4"))  # fmt: skip
    number = history.chain.table.number(old)
    data = table.packed(old, bytes.fromhex(history.chain.id), bytes(12),
                        history.chain.reader.cipher(number))  # fmt: skip
    history.storage.put(layout.moved(history.chain.id, old.hex()), data)


def slot_of(history, pack, offset):
    slots = np.zeros(1, maps.SLOT)
    slots["pack"], slots["offset"] = history.chain.table.number(pack), offset
    slots["stored"], slots["prefix"] = 100, 5
    return slots


def test_records_that_moved_in_a_circle_are_damage(history):
    one, two = b"1" * 16, b"2" * 16
    put_table(history, one, 64, two, 64)
    put_table(history, two, 64, one, 64)
    slots = slot_of(history, one, 64)
    with pytest.raises(errors.Damaged, match="circle"):
        Places(history.chain.reader, set()).current(slots)
    with pytest.raises(errors.Damaged, match="moved more than"):
        list(history.chain.reader.read(slots, 1))


def test_a_record_that_was_dropped_is_damage(history):
    one, two = b"1" * 16, b"2" * 16
    put_table(history, one, 64, two, 64)
    slots = slot_of(history, one, 200)
    with pytest.raises(errors.Damaged, match="dropped"):
        Places(history.chain.reader, set()).current(slots)
    with pytest.raises(errors.Damaged, match="dropped"):
        list(history.chain.reader.read(slots, 1))


def test_the_most_hops_that_are_allowed_are_followed(history):
    head = history.backup(noisy(1))
    slot = history.chain.disk_map(head, head.disks[0]).segment(0)[1]
    where = bytes(history.chain.table.id(int(slot["pack"]))), int(slot["offset"])
    packs = [bytes([n]) * 16 for n in range(1, moves.HOPS_MAX)]
    for pack, target in zip(packs, [*packs[1:], where[0]], strict=True):
        put_table(history, pack, where[1], target, where[1])
    slots = slot_of(history, packs[0], where[1])
    slots["stored"], slots["prefix"] = slot["stored"], slot["prefix"]
    assert len(list(history.chain.reader.read(slots, 1))) == 1
    alive = history.chain.numbers(history.chain.pack_ids())
    assert Places(history.chain.reader, alive).current(slots)["pack"] == slot["pack"]


def test_a_missing_pack_is_damage(history):
    slots = slot_of(history, b"1" * 16, 64)
    with pytest.raises(errors.Damaged, match="missing"):
        Places(history.chain.reader, set()).current(slots)
