"""Storages of a few kilobytes, with points whose contents are known."""

import datetime
import random
from dataclasses import dataclass, field
from pathlib import Path

from ruchu.model.sources import Kind
from ruchu.repository import keyring, layout, marks, relocating, repositories, trash
from ruchu.repository.chains import Chain, ProtectedObject
from ruchu.repository.heads import Head
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage

BLOCK = 4096
COSTS = keyring.Costs(8, 1, 1)
SECRETS = {
    "encrypted": keyring.Secret("passphrase", b"correct horse"),
    "plain": keyring.NO_SECRET,
}
WHAT = ProtectedObject("image", "small")


@dataclass
class Small:
    """A storage, and what its points must hold: bytes of the disk by point id."""

    root: Path
    mode: str
    contents: dict[str, bytes] = field(default_factory=dict)
    machine: bytes = b'{"name": "small"}'

    def open(self) -> repositories.Repository:
        storage = DirectoryStorage(self.root)
        return repositories.open_repository(storage, SECRETS[self.mode], Surroundings())

    def chain(self) -> Chain:
        (chain,) = self.open().all_chains()
        return chain

    def at(self, root: Path) -> "Small":
        """Return the same for a copy of the directory."""
        return Small(root, self.mode, self.contents, self.machine)

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    def backup(self, chain: Chain, content: bytes) -> Head:
        base = chain.latest()
        kind = Kind.INCREMENTAL if base is not None else Kind.FULL
        with chain.exclusive("backup") as lock, PointWriter(chain, lock, kind, base) as writer:
            on_base = writer.base_map("vda", len(content)) is not None
            disk = writer.open_disk("vda", len(content), on_base=on_base)
            old = self.contents[base.point] if base is not None else b""
            for start in range(0, len(content), BLOCK):
                block = content[start : start + BLOCK]
                if block != old[start : start + BLOCK]:
                    disk.write(start, memoryview(block))
            writer.attach("machine.json", self.machine)
            now = datetime.datetime(2026, 11, 22, 18, tzinfo=datetime.UTC)
            head = writer.commit(now, {})
        self.contents[head.point] = content
        return head

    def restored(self, chain: Chain, head: Head) -> bytes:
        disk = chain.disk(head, head.disks[0])
        buffer = bytearray(disk.size)
        disk.read_into(0, memoryview(buffer))
        assert chain.attachment(head, "machine.json") == self.machine
        return bytes(buffer)


def contents_of(rng: random.Random, blocks: int = 5) -> list[bytes]:
    """Return three states of a disk: text, zeros, noise; the last block is short."""
    text = b"a line of text, again and again\n" * 128
    first = [text, bytes(BLOCK), rng.randbytes(120) + bytes(BLOCK - 120)]
    first += [(b"%d " % number) * 999 for number in range(blocks - 4)]
    disk = b"".join(block[:BLOCK].ljust(BLOCK, b"-") for block in first) + rng.randbytes(77)
    second = disk[: 3 * BLOCK] + b"changed " * (BLOCK // 8) + disk[4 * BLOCK :]
    third = second[:BLOCK] + text[::-1] + second[2 * BLOCK :]
    return [disk, second, third]


def compacted(chain: Chain, pack_id: str) -> None:
    """Move all records of a pack elsewhere, as a compaction does, and remove it."""
    (number,) = chain.numbers([pack_id])
    entries = chain.reader.entries(number)
    found = relocating.intact_records(chain, number, entries)
    records = (relocating.Relocated(int(entry["offset"]), prepared) for entry, prepared in found)
    relocating.relocate(chain, number, records)
    chain.storage.delete(layout.pack(chain.id, pack_id))


def make(root: Path, mode: str, rng: random.Random, *, compact: bool = True) -> Small:
    """Make a storage with three points, a star, a lock, a trash record and a compacted pack."""
    root.mkdir()
    small = Small(root, mode)
    surroundings = Surroundings()
    storage = DirectoryStorage(root)
    repository = repositories.create(storage, "small", SECRETS[mode], surroundings, costs=COSTS)
    chain = repository.create_chain(WHAT, 1 << 20, block_size=BLOCK)
    heads = [small.backup(chain, content) for content in contents_of(rng)]
    now = surroundings.clock.now()
    marks.star(storage, chain.id, heads[0].point, now)
    marks.lock(storage, chain.id, heads[1].point, now + datetime.timedelta(days=9), now)
    record = trash.new_record(surroundings.entropy, now, "test")
    trash.write(storage, chain.id, record, now)
    if compact:
        compacted(chain, heads[1].disks[0].root.pack)
    return small
