"""A small world for simulations: a repository on a simulated disk, processes, and a model of it.

Everything in it is small, so that a few blocks fill packs, segments and whole lives of them. All
choices come from the seed.
"""

import concurrent.futures
import contextlib
import random
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from ruchu.model.sources import Kind
from ruchu.repository import (
    chains,
    compaction,
    disk_writing,
    keyring,
    maps,
    pack_writing,
    packs,
    repositories,
)
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter
from ruchu.storage.contract import Storage
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing.clocks import ManualClock
from ruchu.testing.processes import SeededEntropy, SimulatedHost, SimulatedProcess
from ruchu.testing.simulated_disk import PowerFailure, SimulatedFileSystem

BLOCK = 4096
SEGMENT_BLOCKS = 8
PACK_BYTES = 24_000  # five or six blocks that do not shrink
ROOT = "/storage"
ATTACHMENT = "machine.json"
CHEAP = keyring.Costs(memory_kib=8, iterations=1, lanes=1)
_FIRST = keyring.Secret("passphrase", b"first")
OBJECT = chains.ProtectedObject("image", "machine")

Disks = Mapping[str, bytes]
"""Content of disks, by name."""


class _Inline(concurrent.futures.Executor):
    """Runs at once and in the caller's thread: where the power fails depends on no scheduler."""

    def __init__(self, *_: object) -> None:
        """Take what a ThreadPoolExecutor takes."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
        """Run it now."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(work(*args, **named))
        except Exception as error:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(error)
        return future


@contextlib.contextmanager
def small(*, threads: bool = False) -> Iterator[None]:
    """Make packs and segments small, and (unless threads are wanted) everything one thread."""
    with contextlib.ExitStack() as stack:
        for where, name, value in (
            (packs, "PACK_BYTES_TARGET", PACK_BYTES),
            (compaction, "SMALL_PACK_BYTES", PACK_BYTES // 8),
            (compaction, "SMALL_PACKS_MAX", 4),
            (maps, "SEGMENT_BLOCKS", SEGMENT_BLOCKS),
            (disk_writing._Spill, "_BYTES", SEGMENT_BLOCKS * maps.SLOT.itemsize),  # noqa: SLF001
        ):
            stack.enter_context(mock.patch.object(where, name, value))
        if not threads:
            futures = types.SimpleNamespace(ThreadPoolExecutor=_Inline)
            inline = types.SimpleNamespace(futures=futures)
            stack.enter_context(mock.patch.object(pack_writing, "concurrent", inline))
        yield


@dataclass(slots=True)
class Server:
    """One process with the repository open, as long as it lives."""

    process: SimulatedProcess
    storage: Storage
    repository: repositories.Repository
    chain: chains.Chain


@dataclass(slots=True)
class World:
    """The world. Use inside of `small`.

    Attributes:
        cache: directory of the caches; None: in memory only.
        ignore: syncs that the disk does not do.
        model: what each committed point holds, by its stem.
        pending: what a backup that is under way holds.
    """

    seed: int
    cache: Path | None = None
    ignore: Collection[str] = ()
    choose: random.Random = field(init=False)
    disk: SimulatedFileSystem = field(init=False)
    clock: ManualClock = field(init=False, default_factory=ManualClock)
    host: SimulatedHost = field(init=False, default_factory=SimulatedHost)
    secret: keyring.Secret = _FIRST
    model: dict[str, Disks] = field(default_factory=dict)
    pending: Disks | None = None
    entropy: SeededEntropy = field(init=False)
    chain_id: str = ""

    def __post_init__(self) -> None:
        self.choose = random.Random(self.seed)  # noqa: S311 - a test
        self.disk = SimulatedFileSystem(self.choose, ignore=self.ignore)
        self.entropy = SeededEntropy(self.seed)
        process = self.host.start()
        repository = repositories.create(
            self.storage(), "world", self.secret, self.surroundings(process), costs=CHEAP
        )
        self.chain_id = repository.create_chain(OBJECT, 1, block_size=BLOCK).id
        self.host.kill(process)

    def storage(self) -> DirectoryStorage:
        """Open the storage."""
        return DirectoryStorage(ROOT, filesystem=self.disk, reserve_bytes=0)

    def surroundings(self, process: SimulatedProcess) -> Surroundings:
        """Return what a process sees."""
        return Surroundings(self.clock, self.entropy, process, self.cache)

    def start(self) -> Server:
        """Start a process that opens the repository."""
        process = self.host.start()
        storage = self.storage()
        repository = repositories.open_repository(storage, self.secret, self.surroundings(process))
        return Server(process, storage, repository, repository.open_chain(self.chain_id))

    def back_up(
        self,
        server: Server,
        kind: Kind,
        disks: Disks,
        *,
        base: str | None = None,
        changed: Mapping[str, Iterable[int]] | None = None,
    ) -> str:
        """Commit a point and note it in the model; return its stem.

        Args:
            server: who does it.
            kind: of the point.
            disks: what the point shall hold.
            base: stem of the point that it builds on.
            changed: numbers of the blocks to write, of the disks that build on the base.
        """
        chain = server.chain
        parent = chain.head(base) if base is not None else None
        with chain.exclusive("backup") as lock, PointWriter(chain, lock, kind, parent) as writer:
            for name, content in disks.items():
                blocks = (changed or {}).get(name)
                disk = writer.open_disk(name, len(content), on_base=blocks is not None)
                _fill(disk, content, blocks)
            writer.attach(ATTACHMENT, attachment_of(disks))
            self.pending = disks
            head = writer.commit(self.clock.now(), {})
        self.model[head.stem], self.pending = disks, None
        return head.stem

    def read(self, chain: chains.Chain, stem: str) -> Disks:
        """Return what a point holds, by the reader of a process."""
        head = chain.head(stem)
        found = {}
        for entry in head.disks:
            disk = chain.disk(head, entry)
            buffer = bytearray(disk.size)
            disk.read_into(0, memoryview(buffer))
            found[entry.name] = bytes(buffer)
        assert chain.attachment(head, ATTACHMENT) == attachment_of(found), f"{stem}: attachment"
        return found

    def check(self, server: Server) -> None:
        """Compare the repository with the model; AssertionError if it is not the same."""
        assert server.chain.stems() == sorted(self.model), "points vanished or came back"
        for stem, disks in self.model.items():
            assert self.read(server.chain, stem) == disks, f"{stem} holds something else"

    def recover(self, server: Server) -> None:
        """After a death: take what the interrupted backup committed into the model, and check."""
        unknown = set(server.chain.stems()) - self.model.keys()
        if unknown and self.pending is not None:
            assert len(unknown) == 1, "points came back"
            self.model[unknown.pop()] = self.pending
        self.pending = None
        self.check(server)

    def run_until(self, calls: int, work: Callable[[], object]) -> bool:
        """Let so many calls of the disk succeed; return whether the work went through.

        Afterwards the process is over either way: call `fail_power` or `kill`.
        """
        self.disk.cut_power_after(calls)
        try:
            work()
        except PowerFailure:
            return False
        return True

    def fail_power(self) -> None:
        """Cut the power: what was not synced is lost or torn, and no process lives."""
        self.disk.crash()
        self.host.reboot()

    def kill(self, server: Server) -> None:
        """Kill a process: what it has written stays, what it had open is left as it is."""
        self.disk.kill()
        self.host.kill(server.process)


def attachment_of(disks: Disks) -> bytes:
    """Return what is attached to a point, which must fit to its disks."""
    return repr(sorted((name, len(content)) for name, content in disks.items())).encode()


def _fill(disk: disk_writing.DiskWriter, content: bytes, blocks: Iterable[int] | None) -> None:
    for block in range(-(-len(content) // BLOCK)) if blocks is None else sorted(blocks):
        data = content[block * BLOCK : (block + 1) * BLOCK]
        if any(data):
            disk.write(block * BLOCK, memoryview(data))
        elif blocks is not None:
            disk.zero(block * BLOCK, len(data))
