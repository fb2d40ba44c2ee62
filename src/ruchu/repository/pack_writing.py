"""Writing chunks into packs: one open pack, sealed and made durable behind the writers' backs."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from ruchu.chunks.codec import Bytes
from ruchu.model.ids import Entropy, new_id
from ruchu.repository import layout, maps, packs
from ruchu.repository.pack_reading import Chain
from ruchu.storage.contract import Buffer, ObjectWriter, Storage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Packs being made durable while the next one is filled; bounds what is not durable yet.
_SEALS_MAX = 2


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chunk ready to be stored."""

    kind: int
    id: bytes
    plain: int
    codec: int
    payload: Bytes


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk is: number of the pack in the table, offset, stored length."""

    pack: int
    offset: int
    stored: int


class _OpenPack:
    """The pack that is being filled."""

    def __init__(
        self, writer: ObjectWriter, stack: contextlib.ExitStack, number: int, header: bytes
    ) -> None:
        self.writer = writer
        self.stack = stack
        self.number = number
        self.header = header
        self.end = packs.HEADER_BYTES
        self.rows: list[tuple[bytes, int, int, int, int, int, int]] = []

    def commit(self) -> None:
        """Make the pack durable and give its handles back."""
        with self.stack:
            self.writer.commit()


class PackWriter:
    """Stores chunks of one chain. Safe in several threads; first error wins.

    Leaving the context without `finish` drops the open pack; sealed packs stay, for the next run
    to find their chunks.
    """

    def __init__(
        self,
        storage: Storage,
        chain: Chain,
        table: maps.PackTable,
        entropy: Entropy,
        on_sealed: Callable[[int, packs.Entries], None],
    ) -> None:
        self._storage = storage
        self._chain = chain
        self._table = table
        self._entropy = entropy
        self._on_sealed = on_sealed
        self._lock = threading.Lock()
        self._open: _OpenPack | None = None
        self._cipher: AESGCM | None = None
        self._sealer = concurrent.futures.ThreadPoolExecutor(1, "ruchu-seal")
        self._sealing: list[concurrent.futures.Future[None]] = []
        self.bytes_written = 0
        self.sealed: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Waits for seals under way: they use the storage, which the caller closes next.
        self._sealer.shutdown(wait=True)
        if self._open is not None:
            self._open.stack.close()

    def append(self, chunks: list[Prepared]) -> list[Location]:
        """Store chunks, in order, next to one another where possible; return where they are.

        They are durable after `finish`.
        """
        with self._lock:
            return self._append(chunks)

    def _append(self, chunks: list[Prepared]) -> list[Location]:
        parts: list[Buffer] = []
        places = []
        for chunk in chunks:
            if self._open is not None and self._open.end >= packs.PACK_BYTES_TARGET:
                self._write(self._open, parts)
                parts = []
                self._seal()
            if self._open is None:
                parts.append(self._begin())
            assert self._open is not None
            places.append(self._add(self._open, chunk, parts))
        if self._open is not None:
            self._write(self._open, parts)
        return places

    def _begin(self) -> bytes:
        pack = bytes.fromhex(new_id(self._entropy))
        encrypted = self._chain.encrypted
        header = packs.pack_header(pack, bytes.fromhex(self._chain.id), encrypted=encrypted)
        name = layout.pack(self._chain.id, pack.hex())
        stack = contextlib.ExitStack()
        writer = stack.enter_context(self._storage.open_writer(name))
        self._cipher = self._chain.keys.pack_cipher(pack) if encrypted else None
        self._open = _OpenPack(writer, stack, self._table.number(pack), header)
        return header

    def _add(self, pack: _OpenPack, chunk: Prepared, parts: list[Buffer]) -> Location:
        number = len(pack.rows)
        cipher = self._cipher
        stored = len(chunk.payload) + (packs.TAG_BYTES if cipher else 0)
        record = packs.Record(chunk.kind, chunk.codec, number, chunk.plain, stored, chunk.id)
        header = record.packed()
        payload = chunk.payload
        if cipher is not None:
            payload = cipher.encrypt(packs.nonce(number), payload, header)
        parts += (header, payload)
        place = Location(pack.number, pack.end, stored)
        pack.rows.append((chunk.id, pack.end, stored, chunk.plain, chunk.kind, chunk.codec, 0))
        pack.end += packs.RECORD_BYTES + stored
        return place

    def _write(self, pack: _OpenPack, parts: list[Buffer]) -> None:
        if parts:
            pack.writer.write(parts)
            self.bytes_written += sum(map(len, parts))

    def _seal(self) -> None:
        pack = self._open
        assert pack is not None
        entries = np.array(pack.rows, packs.ENTRY)
        pack_id = self._table.id(pack.number)
        self._write(pack, list(packs.footer(entries, pack_id, pack.header, self._cipher)))
        # Open until it is handed over: if another seal failed, leaving drops this one, too.
        while len(self._sealing) >= _SEALS_MAX:
            self._sealing.pop(0).result()
        self._open = None
        self._sealing.append(self._sealer.submit(pack.commit))
        self.sealed.append(pack.number)
        self._on_sealed(pack.number, entries)

    def finish(self) -> None:
        """Seal the open pack and return when everything appended is durable."""
        with self._lock:
            if self._open is not None:
                self._seal()
            while self._sealing:
                self._sealing.pop(0).result()
