"""Compaction: what is still needed of sparse packs moves into new ones; maps never change."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ruchu.errors import Damaged
from ruchu.model.ids import is_id
from ruchu.repository import layout, moves, packs
from ruchu.repository.chains import Chain
from ruchu.repository.ledger import Ledger, Usage
from ruchu.repository.pack_writing import Location, PackWriter
from ruchu.repository.relocating import intact_records

# Copying costs as many bytes as stay; below half, it frees more than it copies.
LIVE_RATIO_MIN = 0.5
# Frequent increments make small packs: this many of them are joined into one.
SMALL_PACK_BYTES = packs.PACK_BYTES_TARGET // 8
SMALL_PACKS_MAX = 16
# Small packs are joined again and again, and each time adds a table to the way of a reader, who
# goes through 64 at most. Half is left for repairs.
DEPTH_MAX = moves.HOPS_MAX // 2


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did: packs emptied, bytes copied, damaged packs left as they are."""

    packs: tuple[int, ...]
    bytes_copied: int
    damaged: tuple[str, ...]


def choose(usages: Iterable[Usage], keep: Callable[[int], bool]) -> list[int]:
    """Return the packs worth compacting: sparse ones, and small ones if there are many.

    Args:
        usages: of packs that are needed at all.
        keep: tells of a pack that it must stay as it is (immutable, or moved too often).
    """
    rows = [usage for usage in usages if usage.live > 0]
    sparse = [u.pack for u in rows if u.live < u.total * LIVE_RATIO_MIN and not keep(u.pack)]
    small = [u.pack for u in rows if u.total < SMALL_PACK_BYTES and not keep(u.pack)]
    if len(small) >= SMALL_PACKS_MAX:
        sparse += [pack for pack in small if pack not in sparse]
    return sparse


def deep_packs(chain: Chain) -> set[int]:
    """Return the packs that readers reach through so many tables that no more may be added."""
    targets: dict[int, set[int]] = {}
    for info in chain.storage.list(layout.packs(chain.id)):
        pack = layout.stem_of(info.name, ".moved")
        if info.name.endswith(".moved") and is_id(pack):
            number = chain.table.number(bytes.fromhex(pack))
            table = chain.reader.moves_of(number)
            if table is not None:
                targets[number] = set(chain.table.numbers(list(table.targets)).tolist())
    reached = set(targets)
    for _ in range(DEPTH_MAX):
        reached = {target for pack in reached for target in targets.get(pack, ())}
    return reached


def compact(chain: Chain, ledger: Ledger, chosen: list[int]) -> Compacted:
    """Copy what is needed of the chosen packs into new ones, and write where it went.

    The new packs are durable before the first table that points to them. The old packs stay
    where they are; the caller puts them into the trash. A pack with a damaged record that
    somebody needs stays whole, for a repair to find all that is left of it.
    """
    with PackWriter(
        chain.storage, chain.identity, chain.table, chain.surroundings.entropy, _ignore
    ) as writer:
        tables: dict[int, tuple[list[int], list[Location]]] = {}
        damaged = []
        for pack in chosen:
            try:
                tables[pack] = _copy(chain, ledger, pack, writer)
            except Damaged as error:
                damaged.append(str(error))
        writer.finish()
        for pack, (old, places) in tables.items():
            # A table left by a crash: the pack is still there, so nobody has followed it.
            chain.storage.delete(layout.moved(chain.id, chain.table.id(pack).hex()))
            write_moves(chain, pack, old, places)
        chain.reader.forget_moves()
        return Compacted(tuple(tables), writer.bytes_written, tuple(damaged))


def _copy(
    chain: Chain, ledger: Ledger, pack: int, writer: PackWriter
) -> tuple[list[int], list[Location]]:
    entries = chain.reader.entries(pack)
    wanted = entries[np.isin(entries["offset"], ledger.needed(pack))]
    old: list[int] = []
    places: list[Location] = []
    for entry, prepared in intact_records(chain, pack, wanted):
        places += writer.append([prepared])
        old.append(int(entry["offset"]))
    return old, places


def _ignore(pack: int, entries: packs.Entries) -> None:
    """Nobody looks up chunks while packs are compacted."""


def write_moves(chain: Chain, pack: int, old: list[int], places: list[Location]) -> None:
    """Write the table that says where the records of a pack are now."""
    targets = sorted({place.pack for place in places})
    rank = {number: at for at, number in enumerate(targets)}
    order = np.argsort(np.array(old, "<u4"))
    table = moves.Moves(
        tuple(chain.table.id(number) for number in targets),
        np.array(old, "<u4")[order],
        np.array([rank[place.pack] for place in places], "<u4")[order],
        np.array([place.offset for place in places], "<u4")[order],
    )
    pack_id = chain.table.id(pack)
    nonce = chain.surroundings.entropy(12)
    cipher = chain.reader.cipher(pack)
    data = table.packed(pack_id, bytes.fromhex(chain.id), nonce, cipher)
    chain.storage.put(layout.moved(chain.id, pack_id.hex()), data)
