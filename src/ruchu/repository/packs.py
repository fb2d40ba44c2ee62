"""Packs as bytes: header, records, footer, trailer (`docs/formats/vds.md`, section 6). Pure."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ruchu.chunks.codec import PLAIN_BYTES_MAX
from ruchu.errors import Damaged, UnknownFormat

KIND_DATA, KIND_SEGMENT, KIND_ROOT, KIND_ATTACHMENT = 1, 2, 3, 4
ENCRYPTED = 1
VERSION = 1
HEADER_BYTES = 64
RECORD_BYTES = 52
TRAILER_BYTES = 64
TAG_BYTES = 16
# A pack is closed when it grows beyond this: large enough for tape and object stores, small
# enough that a killed run loses little and compaction copies little.
PACK_BYTES_TARGET = 64 << 20
PACK_BYTES_MAX = 1 << 30
RECORDS_MAX = PACK_BYTES_MAX // RECORD_BYTES

_HEADER = struct.Struct("<8sII16s16s")
_RECORD = struct.Struct("<4sBBHIII32s")
_TRAILER = struct.Struct("<8sII16s")
_MAGIC, _RECORD_MAGIC, _TRAILER_MAGIC = b"RUCHUPK1", b"RCHK", b"RUCHUFT1"
_FOOTER_NONCE = b"\xff" * 12

ENTRY = np.dtype([
    ("id", "V32"), ("offset", "<u4"), ("stored", "<u4"), ("plain", "<u4"),
    ("kind", "u1"), ("codec", "u1"), ("zero", "<u2"),
])  # fmt: skip
Entries = npt.NDArray[np.void]
assert ENTRY.itemsize == 48


@dataclass(frozen=True, slots=True)
class Record:
    """Header of a record."""

    kind: int
    codec: int
    number: int
    plain: int
    stored: int
    id: bytes

    def packed(self) -> bytes:
        """Return the 52 bytes."""
        return _RECORD.pack(
            _RECORD_MAGIC, self.kind, self.codec, 0, self.number, self.plain, self.stored, self.id
        )


def pack_header(pack: bytes, chain: bytes, *, encrypted: bool) -> bytes:
    """Return the 64 bytes at the start of a pack."""
    front = _HEADER.pack(_MAGIC, VERSION, ENCRYPTED if encrypted else 0, pack, chain)
    return front + blake3(front).digest()[:16]


def check_pack_header(name: str, data: bytes, pack: bytes, chain: bytes) -> bool:
    """Check a pack header; return whether the pack is encrypted."""
    magic, version, flags, found_pack, found_chain = _HEADER.unpack_from(data)
    if magic != _MAGIC or blake3(data[:48]).digest()[:16] != data[48:64]:
        raise Damaged(f"{name}: header")
    if version != VERSION or flags & ~ENCRYPTED:
        raise UnknownFormat(f"{name}: version {version}, flags {flags:#x}")
    if found_pack != pack or found_chain != chain:
        raise Damaged(f"{name} is another pack under this name")
    return bool(flags & ENCRYPTED)


def parse_record(name: str, data: bytes | memoryview, at: int = 0) -> Record:
    """Return the record header at a place in a buffer."""
    magic, kind, codec, zero, number, plain, stored, chunk = _RECORD.unpack_from(data, at)
    if magic != _RECORD_MAGIC or zero or plain > PLAIN_BYTES_MAX:
        raise Damaged(f"{name}: record header")
    return Record(kind, codec, number, plain, stored, chunk)


def nonce(number: int) -> bytes:
    """Return the nonce of a record: unique in its pack, and a pack has a key of its own."""
    return number.to_bytes(12, "little")


def footer(
    entries: Entries, pack: bytes, header: bytes, cipher: AESGCM | None
) -> tuple[bytes, bytes]:
    """Return footer and trailer of a pack."""
    plain = entries.tobytes()
    stored_length = len(plain) + (TAG_BYTES if cipher else 0)
    front = _TRAILER.pack(_TRAILER_MAGIC, len(entries), stored_length, pack)
    stored = cipher.encrypt(_FOOTER_NONCE, plain, front) if cipher else plain
    return stored, front + blake3(header + stored + front).digest()


def parse_trailer(name: str, trailer: bytes, pack: bytes, size: int) -> tuple[int, int]:
    """Return the number of records and the stored length of the footer."""
    magic, count, length, found = _TRAILER.unpack_from(trailer)
    if magic != _TRAILER_MAGIC or found != pack:
        raise Damaged(f"{name}: trailer")
    if length > size - HEADER_BYTES - TRAILER_BYTES or count > RECORDS_MAX:
        raise Damaged(f"{name}: trailer asks for {length} bytes of {size}")
    return count, length


def open_footer(
    name: str, header: bytes, stored: bytes, trailer: bytes, cipher: AESGCM | None
) -> Entries:
    """Return the entries of a pack, checked against the trailer and against one another."""
    if blake3(header + stored + trailer[:32]).digest() != trailer[32:]:
        raise Damaged(f"{name}: footer")
    try:
        plain = cipher.decrypt(_FOOTER_NONCE, stored, trailer[:32]) if cipher else stored
    except InvalidTag:
        raise Damaged(f"{name}: footer does not decrypt") from None
    count = _TRAILER.unpack_from(trailer)[1]
    if len(plain) != count * ENTRY.itemsize:
        raise Damaged(f"{name}: footer of {len(plain)} bytes for {count} records")
    entries = np.frombuffer(plain, ENTRY)
    ends = entries["offset"].astype(np.int64) + RECORD_BYTES + entries["stored"]
    starts = np.concatenate(([HEADER_BYTES], ends))
    if not np.array_equal(entries["offset"], starts[:-1]) or entries["zero"].any():
        raise Damaged(f"{name}: footer entries do not follow one another")
    return entries
