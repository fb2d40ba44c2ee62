"""Moves all chains of a storage to another one, byte for byte, and gives the first one up.

Each chain is copied under its writer's lock on both sides: data first, then what says what counts
(tables, marks, trash), then the heads, and `chain.json` at the very end. So whoever sees the chain
on the other storage sees all of it, and an evacuation that was interrupted goes on where it was.
"""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from blake3 import blake3

from ruchu.blocks.copying import Progress
from ruchu.errors import (
    Cancelled,
    Damaged,
    ImmutableNotApplied,
    Incomplete,
    ObjectExists,
    ObjectMissing,
    UsageError,
)
from ruchu.operations.storages import EVACUATED, EVACUATING, Storages
from ruchu.repository import layout, locking
from ruchu.repository.repositories import Repository
from ruchu.storage.contract import ObjectInfo, Storage
from ruchu.units import MIB

# One piece in memory for each of the copiers.
PIECE_BYTES = 8 * MIB
# Objects under way at the same time: enough to keep a line to S3 busy.
COPIERS = 4
# Points may come while we copy; each round takes what came in the last one. Every chain is locked
# in the end, so a second round finds new chains only.
_ROUNDS_MAX = 100


@dataclass(slots=True)
class Evacuated:
    """What an evacuation did: chains, objects, bytes; objects that could not be protected there."""

    chains: list[str] = field(default_factory=list)
    objects: int = 0
    there_already: int = 0
    bytes: int = 0
    unprotected: int = 0


@dataclass(frozen=True, slots=True)
class Watch:
    """Shows how much was copied, and is asked whether to stop."""

    progress: Progress = field(default_factory=Progress)
    cancelled: Callable[[], bool] = lambda: False


def evacuate(storages: Storages, name: str, to: str, watch: Watch) -> Evacuated:
    """Copy all chains of a storage to another, verified, and mark the first one evacuated.

    Backups to it are refused from the beginning. Readers of it go on.

    Raises:
        UsageError: the two are one.
        WrongKey: one is encrypted, the other is not.
        ChainBusy: somebody writes to a chain on either side; run again when that is over.
        Damaged: what was copied is not what is there.
    """
    entry, other = storages.registry.storage(name), storages.registry.storage(to)
    if entry.id == other.id:
        raise UsageError("(a storage cannot be evacuated to itself)")
    if other.state:
        raise UsageError(f"(storage {to!r} is {other.state} itself)")
    source, target = storages.open(name), storages.open_for_backup(to)
    if entry.state != EVACUATED:
        entry = replace(entry, state=EVACUATING)
        storages.registry.put_storage(entry, replace=True)
    done = Evacuated()
    with contextlib.ExitStack() as locks:
        for _ in range(_ROUNDS_MAX):
            new = [chain for chain in source.chain_ids() if chain not in done.chains]
            if not new:
                break
            for chain in new:
                locks.enter_context(_locked(source, target, chain, storages))
                _Copying(source, target, chain, done, watch).run()
                done.chains.append(chain)
        storages.registry.put_storage(replace(entry, state=EVACUATED), replace=True)
    return done


@contextlib.contextmanager
def _locked(
    source: Repository, target: Repository, chain: str, storages: Storages
) -> Iterator[None]:
    with (
        locking.exclusive(source.storage, chain, "evacuation", storages.surroundings),
        locking.exclusive(target.storage, chain, "evacuation", storages.surroundings),
    ):
        yield


class _Copying:
    """One chain on its way."""

    def __init__(
        self, source: Repository, target: Repository, chain: str, done: Evacuated, watch: Watch
    ) -> None:
        self._source = source
        self._target = target
        self._chain = chain
        self._done = done
        self._watch = watch

    def run(self) -> None:
        """Copy all of it; `chain.json` last."""
        chain, target = self._chain, self._target.storage
        document = self._target.welcome(chain, self._source)
        for folder in (layout.packs, layout.marks, layout.trash, layout.points):
            target.sweep_unfinished(folder(chain))
            self._copy_all(list(self._source.storage.list(folder(chain))))
        with contextlib.suppress(ObjectExists):
            target.put(layout.chain_document(chain), document)
        # It must open there with the key of the other storage, and hold as many points.
        there, here = self._target.open_chain(chain), self._source.open_chain(chain)
        if there.keys != here.keys or there.stems() != here.stems():
            raise Damaged(f"{layout.chain(chain)}: the other storage holds something else")

    def _copy_all(self, infos: list[ObjectInfo]) -> None:
        self._watch.progress.total += sum(info.size for info in infos)
        pool = concurrent.futures.ThreadPoolExecutor(COPIERS, "ruchu-evacuate")
        try:
            futures = {pool.submit(self._copy, info): info for info in infos}
            for future in concurrent.futures.as_completed(futures):
                copied, protected = future.result()
                info = futures[future]
                self._done.objects += copied
                self._done.there_already += not copied
                self._done.unprotected += not protected
                self._done.bytes += info.size if copied else 0
                self._watch.progress.data += info.size
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _copy(self, info: ObjectInfo) -> tuple[bool, bool]:
        """Copy one object; return whether it was not there, and whether it is as protected."""
        source, target = self._source.storage, self._target.storage
        copied = False
        if not _is_there(target, info):
            with contextlib.suppress(ObjectExists):
                self._write(source, target, info)
                copied = True
        if self._digest(target, info) != self._digest(source, info):
            raise Damaged(f"{info.name}: what is on the other storage differs")
        if not source.is_protected(info.name):
            return copied, True
        try:
            target.protect(info.name)
        except ImmutableNotApplied:
            return copied, False
        return copied, True

    def _write(self, source: Storage, target: Storage, info: ObjectInfo) -> None:
        with target.open_writer(info.name) as writer:
            for piece in self._pieces(source, info):
                writer.write([piece])
            writer.commit()

    def _digest(self, storage: Storage, info: ObjectInfo) -> bytes:
        digest = blake3()
        for piece in self._pieces(storage, info):
            digest.update(piece)
        return digest.digest()

    def _pieces(self, storage: Storage, info: ObjectInfo) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(PIECE_BYTES, info.size)))
        for start in range(0, info.size, PIECE_BYTES):
            if self._watch.cancelled():
                raise Cancelled
            piece = buffer[: min(PIECE_BYTES, info.size - start)]
            storage.read_into(info.name, start, piece)
            yield piece


def _is_there(target: Storage, info: ObjectInfo) -> bool:
    try:
        size = target.size(info.name)
    except ObjectMissing:
        return False
    if size != info.size:
        raise Incomplete(f"({info.name}: {size} bytes there, {info.size} here)")
    return True


def fields(done: Evacuated, name: str, to: str) -> dict[str, Any]:
    """Return what was done, for a document."""
    return {
        "storage": name,
        "to": to,
        "chains": done.chains,
        "objects": done.objects,
        "there_already": done.there_already,
        "bytes": done.bytes,
        "unprotected": done.unprotected,
    }
