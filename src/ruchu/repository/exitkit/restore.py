#!/usr/bin/env python3
"""Get backups out of a Ruchu storage without Ruchu: see FORMAT.txt, from which this was written.

  python3 restore.py list [--deleted] [--json]
  python3 restore.py extract POINT [--disk N|NAME] TARGET     a raw disk image, or a block device
  python3 restore.py attachments POINT DIRECTORY              machine.json, native, nvram
  python3 restore.py verify [POINT|--all]                     read and check every chunk

Begin with `list`. POINT is a point id or its unique beginning. It only reads the storage.
Exit status: 0 well, 1 failed, 2 wrong usage, 3 extracted, but zeros stand for damaged bytes.
"""

from __future__ import annotations

import argparse
import collections
import getpass
import json
import os
import re
import stat
import struct
import sys
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple, Union

MISSING = []
try:
    from blake3 import blake3
except ImportError:
    MISSING.append("blake3")
try:
    import zstandard
except ImportError:
    MISSING.append("zstandard")
try:
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    MISSING.append("cryptography")

MIB = 1 << 20
CHUNK_LIMIT = 64 * MIB  # a chunk; also the largest block
DOCUMENT_LIMIT = 64 * MIB  # a .json object
MOVED_LIMIT = FOOTER_LIMIT = 1024 * MIB
RUN_LIMIT = 8 * MIB  # adjacent records that are read at once
RECORD = struct.Struct("<4sBBHIII32s")  # magic, kind, codec, 0, number, plain, stored, chunk id
DATA, SEGMENT, ROOT, ATTACHMENT = 1, 2, 3, 4  # kinds of records
PER_SEGMENT = 1024  # blocks
ATTACHMENTS = ("machine.json", "native", "nvram")  # the only names that we ever write
ID = "[0-9a-f]{32}"
Moves = Dict[int, Tuple[bytes, int]]  # old offset to new pack and offset


class Damage(Exception):
    """Something stored is missing or wrong; the text begins with the name of the file."""


class Stop(Exception):
    """The work cannot be done as asked; the text says why and what to do."""


class Want(NamedTuple):
    """A record that a map, or a head, names, and what has to be true of it."""

    pack: bytes  # location: pack id, offset of the record header, stored length
    offset: int
    stored: int
    kind: int
    ident: bytes  # the chunk id, or its first 8 bytes
    limit: int  # the most bytes that the chunk may have
    block: int = 0  # the block of the disk, or the number of the segment


class Disk(NamedTuple):
    """The root of the map of one disk."""

    label: str
    size: int
    block_size: int
    segments: list[Want]


# ------------------------------------------------------------------ files and documents


def printable(text: object) -> str:
    """Return a text without control characters, for terminals."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


class Storage:
    """The directory of the storage; everything is read through it."""

    def __init__(self, root: str) -> None:
        """Look at the directory and at ruchu-storage.json (if that is damaged: go on, warned)."""
        self.root = os.path.realpath(root)
        self.warnings: list[str] = []
        self.open_files: list[Any] = []
        if not os.path.isdir(os.path.join(self.root, "chains")):
            raise Stop(f"{self.root} is no Ruchu storage (no chains/ in it): give --storage DIR")
        self.document: dict[str, Any] = {}
        try:
            found = self.read_document("ruchu-storage.json", "ruchu-storage")
            hex_field(found, "ruchu-storage.json", "storage", 16)
            self.document = found
        except Damage as error:
            self.warn(f"{error} (going on without it; copy it anew from another copy)")

    def warn(self, text: str) -> None:
        """Say a thing to stderr, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            print(f"restore.py: {printable(text)}", file=sys.stderr)

    def inside(self, path: str) -> bool:
        """Tell whether a path, with all symbolic links followed, lies in the storage."""
        return (os.path.realpath(path) + os.sep).startswith(self.root.rstrip(os.sep) + os.sep)

    def names(self, folder: str, pattern: str) -> list[str]:
        """Return the names in a folder that match a pattern; every other name is ignored."""
        path = os.path.join(self.root, folder)
        if not self.inside(path):
            self.warn(f"{folder}: leads out of the storage (a symbolic link); not followed")
        elif os.path.isdir(path):
            return sorted(n for n in os.listdir(path) if re.fullmatch(pattern, n, re.ASCII))
        return []

    def open(self, name: str) -> Any:
        """Open a regular file of the storage; FileNotFoundError if it is not there."""
        path = os.path.join(self.root, name)
        if not self.inside(path):
            raise Damage(f"{name}: leads out of the storage (a symbolic link); not followed")
        extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            file = os.fdopen(os.open(path, os.O_RDONLY | extra), "rb", buffering=0)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Damage(f"{name}: cannot be opened: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise Damage(f"{name}: is not a regular file")
        self.open_files = [f for f in self.open_files if not f.closed] + [file]
        return file

    def close(self) -> None:
        """Close every file."""
        for file in self.open_files:
            file.close()

    def read(self, name: str, limit: int) -> bytes:
        """Return the whole content of a file that must not be larger than the limit."""
        try:
            with self.open(name) as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise Damage(f"{name}: is larger than such a file can be")
                return read_at(file, 0, size)
        except FileNotFoundError:
            raise Damage(f"{name}: is missing") from None
        except OSError as error:
            raise Damage(f"{name}: cannot be read: {error.strerror}") from None

    def read_document(self, name: str, form: str, head_key: Optional[bytes] = None) -> Any:
        """Return a checked document; without a key, the seal of a head is not checked."""
        data = self.read(name, DOCUMENT_LIMIT)
        value: Any = None
        try:
            value = json.loads(data.decode("utf-8"))
            whole = isinstance(value, dict) and canonical(value) == data
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise Damage(f"{name}: is damaged (not a canonical document)")
        if value.get("format") != form:
            raise Damage(f"{name}: is not a document of the format {form}")
        if field(value, name, "version", int) != 1:
            raise Damage(f"{name}: has an unknown version; a newer restore.py is needed")
        seal, other = ("check", "sum") if form == "ruchu-point" else ("sum", "check")
        found = field(value, name, seal, str)
        body = canonical({key: value[key] for key in value if key != seal})
        if seal == "sum" or head_key is not None:
            right = (blake3(body, key=head_key) if head_key else blake3(body)).hexdigest()
            if found != right or other in value:
                raise Damage(f"{name}: is damaged (its seal is wrong)")
        return value


def canonical(value: Any) -> bytes:
    """Return the one form in which a document may be written."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1, allow_nan=False)
    return (text + "\n").encode("utf-8")


def read_at(file: Any, offset: int, length: int) -> bytes:
    """Read up to length bytes at an offset; fewer only at the end of the file."""
    file.seek(offset)
    parts = []
    while length > 0:
        part = file.read(length)
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def field(value: Any, name: str, key: str, kind: type) -> Any:
    """Return a field of a document, of just this type."""
    found = value.get(key) if isinstance(value, dict) else None
    if type(found) is not kind:
        raise Damage(f"{name}: the field {key} is missing or of the wrong type")
    return found


def hex_field(value: Any, name: str, key: str, length: Optional[int] = None) -> bytes:
    """Return a field of hex digits as bytes."""
    text = field(value, name, key, str)
    if not re.fullmatch("([0-9a-f]{2})*", text) or length not in (None, len(text) // 2):
        raise Damage(f"{name}: the field {key} is not hex of the right length")
    return bytes.fromhex(text)


# ------------------------------------------------------------------ keys


def unseal(key: bytes, nonce: bytes, data: bytes, more: bytes) -> Optional[bytes]:
    """Return what AES-256-GCM opens, or None."""
    try:
        return AESGCM(key).decrypt(nonce, data, more)
    except (InvalidTag, ValueError):
        return None


def argon2id(secret: bytes, salt: bytes, memory: int, iterations: int, lanes: int) -> bytes:
    """Return the key that a passphrase gives."""
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        return Argon2id(
            salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory
        ).derive(secret)
    except (ImportError, UnsupportedAlgorithm):
        pass
    try:
        from argon2.low_level import Type, hash_secret_raw
    except ImportError:
        raise Stop(
            "a passphrase needs Argon2id, which this cryptography has not: "
            f"{sys.executable} -m pip install argon2-cffi (or 'cryptography>=44')"
        ) from None
    return hash_secret_raw(secret, salt, iterations, memory, lanes, 32, Type.ID)


def read_slots(store: Storage) -> list[tuple[str, Any]]:
    """Return the names and documents of the key slots that are whole; warn about the others."""
    slots = []
    for file in store.names("keys", ID + r"\.json"):
        name = f"keys/{file}"
        try:
            slot = store.read_document(name, "ruchu-key")
            if slot.get("slot") != file[:32]:
                raise Damage(f"{name}: is the slot of another name")
            storage = hex_field(slot, name, "storage", 16).hex()
            if storage != store.document.get("storage", storage):
                raise Damage(f"{name}: belongs to another storage")
            field(slot, name, "method", str)
            slots.append((name, slot))
        except Damage as error:
            store.warn(f"{error} (this key slot is not used)")
    return slots


def open_slot(name: str, slot: Any, secret: bytes) -> Optional[bytes]:
    """Return the storage key from one slot, or None if the secret is not the slot's."""
    nonce, wrapped = hex_field(slot, name, "nonce", 12), hex_field(slot, name, "wrapped", 48)
    if slot["method"] == "keyfile":
        key = blake3(secret, derive_key_context="ruchu vds 1 key file").digest()
    else:
        costs = [field(slot, name, key, int) for key in ("memory_kib", "iterations", "lanes")]
        if not all(0 < c <= top for c, top in zip(costs, (8 * MIB, 10000, 255))):
            raise Damage(f"{name}: its costs are beyond reason")
        try:
            key = argon2id(secret, hex_field(slot, name, "salt"), *costs)
        except (ValueError, MemoryError) as error:
            raise Damage(f"{name}: Argon2id does not work with its costs: {error}") from None
    about = b"ruchu vds 1 storage key" + bytes.fromhex(slot["storage"])
    return unseal(key, nonce, wrapped, about)


def read_secret(path: str) -> bytes:
    """Return the content of a key file or passphrase file."""
    with open(path, "rb") as file:
        data = file.read(16 * MIB + 1)
    if not data or len(data) > 16 * MIB:
        raise Stop(f"{path}: is empty, or too large for a key")
    return data


def storage_keys(store: Storage, args: Any, ask: bool) -> list[bytes]:
    """Return the possible storage keys; none only if none was given and we must not ask."""
    slots = read_slots(store)
    if store.document.get("encryption", "none") == "none":
        keys = [hex_field(s, n, "key", 32) for n, s in slots if s["method"] == "none"]
        if keys:
            return keys
    method, secret = "passphrase", b""
    if args.key_file:
        method, secret = "keyfile", read_secret(args.key_file)
    elif args.passphrase_file:
        secret = re.sub(rb"\r?\n\Z", b"", read_secret(args.passphrase_file))
    elif not ask:
        return []
    fitting = [(name, slot) for name, slot in slots if slot["method"] == method]
    if not fitting:
        methods = ", ".join(sorted({slot["method"] for _, slot in slots})) or "none at all"
        raise Stop(
            f"keys/: no whole key slot for a {method} (there are: {methods}); give "
            "--key-file or --passphrase-file, or copy keys/ anew from another copy"
        )
    secret = secret or getpass.getpass("Passphrase of the storage: ").encode(
        "utf-8", "surrogateescape"
    )
    for name, slot in fitting:
        try:
            key = open_slot(name, slot, secret)
        except Damage as error:
            store.warn(f"{error} (this key slot is not used)")
            continue
        if key is not None:
            return [key]
    raise Stop(f"keys/: the {method} opens none of the {len(fitting)} slots: try another")


# ------------------------------------------------------------------ chains, packs, records


class Pack:
    """An open pack."""

    def __init__(self, name: str, ident: bytes, file: Any) -> None:
        """Read its header."""
        self.name, self.ident, self.file = name, ident, file
        self.size = os.fstat(file.fileno()).st_size
        self.header = read_at(file, 0, 64)
        self.cipher: Any = None  # none: the pack is not encrypted
        self.footer: Optional[bytes] = None  # only read by `verify`; empty if it is damaged

    def check_header(self, chain: bytes) -> bool:
        """Check the header; tell whether the pack is encrypted."""
        head = self.header
        if len(head) != 64 or blake3(head[:48]).digest()[:16] != head[48:]:
            raise Damage(f"{self.name}: the header of the pack is damaged")
        magic, version, flags, ident, owner = struct.unpack("<8sII16s16s", head[:48])
        if magic != b"RUCHUPK1" or version != 1 or flags > 1:
            raise Damage(f"{self.name}: is not a pack that this restore.py can read")
        if ident != self.ident or owner != chain:
            raise Damage(f"{self.name}: is another pack, or one of another chain")
        return bool(flags)

    def read_footer(self) -> bytes:
        """Return the footer in plain, checked with its trailer."""
        trailer = read_at(self.file, max(0, self.size - 64), 64)
        if len(trailer) != 64 or self.size < 128:
            raise Damage(f"{self.name}: is cut off")
        magic, count, length, ident = struct.unpack("<8sII16s", trailer[:32])
        tag = 16 if self.cipher else 0
        start = self.size - 64 - length
        if magic != b"RUCHUFT1" or ident != self.ident or length != 48 * count + tag:
            raise Damage(f"{self.name}: the trailer of the pack is damaged")
        if length > FOOTER_LIMIT or start < 64:
            raise Damage(f"{self.name}: the trailer of the pack names an impossible footer")
        stored = read_at(self.file, start, length)
        if blake3(self.header + stored + trailer[:32]).digest() != trailer[32:]:
            raise Damage(f"{self.name}: the footer of the pack is damaged")
        try:
            plain = self.cipher.decrypt(b"\xff" * 12, stored, trailer[:32]) if tag else stored
        except InvalidTag:
            raise Damage(f"{self.name}: the footer of the pack does not open") from None
        at = 64
        for _, offset, size, _, _, _, zero in struct.iter_unpack("<32sIIIBBH", plain):
            if offset != at or zero:
                raise Damage(f"{self.name}: the footer does not describe records without gaps")
            at += RECORD.size + size
        if at != start:
            raise Damage(f"{self.name}: the footer does not describe the whole pack")
        return plain


class Chain:
    """The backups of one object, and the keys to read them."""

    def __init__(
        self, store: Storage, ident: str, keys: list[bytes], lenient: bool = False
    ) -> None:
        """Read chain.json and, if there are storage keys, unwrap the key of the chain."""
        self.store, self.ident, self.lenient = store, bytes.fromhex(ident), lenient
        self.folder = f"chains/{ident}"
        name = f"{self.folder}/chain.json"
        self.document = doc = store.read_document(name, "ruchu-chain")
        if doc.get("chain") != ident:
            raise Damage(f"{name}: is the document of another chain")
        self.block_size = field(doc, name, "block_size", int)
        if not 0 < self.block_size <= CHUNK_LIMIT:
            raise Damage(f"{name}: the block size is impossible")
        if field(doc, name, "encryption", str) not in ("none", "aes-256-gcm"):
            raise Damage(f"{name}: unknown encryption; a newer restore.py is needed")
        nonce, wrapped = hex_field(doc, name, "nonce", 12), hex_field(doc, name, "wrapped", 48)
        about = b"ruchu vds 1 chain key" + self.ident
        key = next(filter(None, (unseal(k, nonce, wrapped, about) for k in keys)), None)
        if keys and key is None:
            raise Damage(f"{name}: the key of the chain does not open with the storage's key")
        self.key_head = self._derive(key, "ruchu vds 1 head") if key else None
        self.key_id = self._derive(key, "ruchu vds 1 chunk id") if key else b""
        self.key_packs = self._derive(key, "ruchu vds 1 packs") if key else b""
        self.packs: collections.OrderedDict[bytes, Optional[Pack]] = collections.OrderedDict()
        self.moves: collections.OrderedDict[bytes, Moves] = collections.OrderedDict()
        self.footers = False  # `verify`: compare the records with the footers
        self.known: Optional[dict[bytes, Optional[Damage]]] = None  # `verify --all`: seen records

    @staticmethod
    def _derive(key: bytes, context: str) -> bytes:
        """Return a key derived from the key of the chain."""
        return blake3(key, derive_key_context=context).digest()

    def head(self, file: str) -> Any:
        """Return the checked head of a point, by its file name <sequence>-<id>.json."""
        name = f"{self.folder}/points/{file}"
        head = self.store.read_document(name, "ruchu-point", self.key_head)
        right = (self.ident.hex(), int(file[:10]), file[11:43])
        if (head.get("chain"), field(head, name, "sequence", int), head.get("point")) != right:
            raise Damage(f"{name}: is the head of another point")
        kinds: dict[str, type] = {"time": str, "kind": str, "disks": list, "attachments": dict}
        for key in kinds:
            field(head, name, key, kinds[key])
        kinds = {"number": int, "name": str, "size": int, "root": dict}
        for disk in head["disks"]:
            for key in kinds:
                field(disk, name, key, kinds[key])
        return head

    def _cipher(self, pack: bytes) -> Any:
        """Return the cipher of a pack."""
        return AESGCM(blake3(pack, key=self.key_packs).digest())

    def _file(self, pack: bytes, suffix: str) -> str:
        """Return the name of a file of a pack."""
        return f"{self.folder}/packs/{pack.hex()[:2]}/{pack.hex()}.{suffix}"

    def pack(self, ident: bytes) -> Optional[Pack]:
        """Return an open pack, or None if its file is missing."""
        if ident in self.packs:
            self.packs.move_to_end(ident)
            return self.packs[ident]
        name, pack = self._file(ident, "pack"), None
        try:
            pack = Pack(name, ident, self.store.open(name))
            encrypted = pack.check_header(self.ident)
        except FileNotFoundError:
            encrypted = False
        except OSError as error:
            raise Damage(f"{name}: cannot be read: {error.strerror}") from None
        except Damage as error:
            if not (self.lenient and pack):
                raise
            self.store.warn(f"{error}; its records are checked one by one")
            encrypted = self.document["encryption"] != "none"
        if pack and encrypted:
            pack.cipher = self._cipher(ident)
        self.packs[ident] = pack
        while len(self.packs) > 64:
            old = self.packs.popitem(last=False)[1]
            if old:
                old.file.close()
        return pack

    def moved(self, pack: bytes) -> Moves:
        """Return where the records of a compacted pack are now: offset to (pack, offset)."""
        if pack in self.moves:
            self.moves.move_to_end(pack)
            return self.moves[pack]
        name = self._file(pack, "moved")
        if not os.path.lexists(os.path.join(self.store.root, name)):
            raise Damage(f"{self._file(pack, 'pack')}: is missing (and there is no .moved)")
        data = self.store.read(name, MOVED_LIMIT)
        if len(data) < 104 or blake3(data[:-32]).digest() != data[-32:]:
            raise Damage(f"{name}: is damaged (its sum is wrong)")
        head, body = data[:64], data[64:-32]
        magic, version, flags, ident, chain, nonce, zero = struct.unpack("<8sII16s16s12sI", head)
        if magic != b"RUCHUMV1" or version != 1 or flags > 1 or zero:
            raise Damage(f"{name}: is not a .moved file that this restore.py can read")
        if ident != pack or chain != self.ident:
            raise Damage(f"{name}: belongs to another pack or chain")
        try:
            body = self._cipher(pack).decrypt(nonce, body, head) if flags else body
        except InvalidTag:
            raise Damage(f"{name}: does not open with the key of the pack") from None
        targets, rows = struct.unpack_from("<II", body) if len(body) >= 8 else (0, 1 << 32)
        if len(body) != 8 + 16 * targets + 12 * rows:
            raise Damage(f"{name}: has the wrong length")
        packs = [body[8 + 16 * i : 24 + 16 * i] for i in range(targets)]
        old, where, new = columns(body, 8 + 16 * targets, rows, "III")
        if any(a >= b for a, b in zip(old, old[1:])) or (rows and max(where) >= targets):
            raise Damage(f"{name}: its table is malformed")
        self.moves[pack] = {a: (packs[b], c) for a, b, c in zip(old, where, new)}
        while len(self.moves) > 32:
            self.moves.popitem(last=False)
        return self.moves[pack]

    def locate(self, want: Want) -> tuple[bytes, int]:
        """Return the pack that has a record now, and the offset there."""
        pack, offset = want.pack, want.offset
        for step in range(65):
            if self.pack(pack):
                return pack, offset
            if step < 64:
                table = self.moved(pack)
                if offset not in table:
                    raise Damage(f"{self._file(pack, 'moved')}: does not list byte {offset}")
                pack, offset = table[offset]
        raise Damage(f"{self._file(want.pack, 'moved')}: leads through more than 64 packs")

    def chunks(self, wants: list[Want]) -> Iterator[tuple[Want, Union[bytes, Damage]]]:
        """Yield every wanted record with its chunk or its damage, in the order of the packs."""
        placed = []
        for want in wants:
            if self.known is not None:
                key = want.pack + struct.pack("<4I", *want[1:4], want.limit) + want.ident
                if key in self.known:
                    seen = self.known[key]
                    if seen:
                        yield want, seen
                    continue  # else seen and whole: nothing to say
            try:
                placed.append((*self.locate(want), want))
            except Damage as error:
                yield self._note(want, error)
        placed.sort(key=lambda item: item[:2])
        while placed:
            pack, offset, want = placed[0]
            count, length = 1, RECORD.size + want.stored
            for other, at, more in placed[1:]:
                size = RECORD.size + more.stored
                if (other, at) != (pack, offset + length) or length + size > RUN_LIMIT:
                    break
                count, length = count + 1, length + size
            for item, found in self._run(placed[:count], length):
                yield self._note(item, found)
            del placed[:count]

    def _note(self, want: Want, found: Union[bytes, Damage]) -> tuple[Want, Any]:
        """Remember what became of a record."""
        if self.known is not None:
            key = want.pack + struct.pack("<4I", *want[1:4], want.limit) + want.ident
            self.known[key] = found if isinstance(found, Damage) else None
        return want, found

    def _run(self, run: list[Any], length: int) -> Iterator[tuple[Want, Union[bytes, Damage]]]:
        """Read records that follow each other at once (one by one if that fails)."""
        data, first = None, run[0][1]
        for ident, offset, want in run:
            found: Union[bytes, Damage]
            try:
                pack = self.pack(ident)
                if pack is None:
                    raise Damage(f"{self._file(ident, 'pack')}: was removed meanwhile; run again")
                if data is None:
                    data = b""
                    data = read_at(pack.file, first, length)
                raw = (
                    data[offset - first :][: RECORD.size + want.stored]
                    if data
                    else (read_at(pack.file, offset, RECORD.size + want.stored))
                )
                found = self._decode(pack, offset, raw, want)
            except Damage as error:
                found = error
            except OSError as error:
                found = Damage(f"{self._file(ident, 'pack')}: byte {offset}: {error.strerror}")
            yield want, found

    def _decode(self, pack: Pack, offset: int, raw: bytes, want: Want) -> bytes:
        """Check a record, header and payload, and return its chunk."""
        where = f"{pack.name}: the record at byte {offset}"
        if len(raw) != RECORD.size + want.stored:
            raise Damage(f"{where} is cut off")
        magic, kind, codec, zero, number, plain, stored, ident = RECORD.unpack_from(raw)
        if magic != b"RCHK" or zero or codec > 1 or stored != want.stored:
            raise Damage(f"{where} has a damaged header")
        if kind != want.kind or ident[: len(want.ident)] != want.ident:
            raise Damage(f"{where} is not the one that was asked for")
        if plain > want.limit or (kind == DATA and not plain):
            raise Damage(f"{where} has an impossible length")
        chunk: bytes = raw[RECORD.size :]
        try:
            if pack.cipher:
                nonce = struct.pack("<QI", number, 0)
                chunk = pack.cipher.decrypt(nonce, chunk, raw[: RECORD.size])
            if codec:
                size = zstandard.get_frame_parameters(chunk).content_size
                if size not in (plain, 0, zstandard.CONTENTSIZE_UNKNOWN):
                    raise Damage(f"{where} has a damaged payload")
                chunk = zstandard.ZstdDecompressor().decompress(chunk, max_output_size=plain or 1)
        except (InvalidTag, ValueError, zstandard.ZstdError):
            raise Damage(f"{where} has a damaged payload") from None
        if len(chunk) != plain or blake3(chunk, key=self.key_id).digest() != ident:
            raise Damage(f"{where} is damaged (its chunk id is wrong)")
        if self.footers:
            entry = struct.pack("<32sIIIBBH", ident, offset, stored, plain, kind, codec, 0)
            self._compare(pack, number, entry, where)
        return chunk

    def _compare(self, pack: Pack, number: int, entry: bytes, where: str) -> None:
        """Compare a record with the footer; a damaged footer hurts no restore, so it only warns."""
        try:
            if pack.footer is None:
                pack.footer = b""
                pack.footer = pack.read_footer()
            if pack.footer and pack.footer[48 * number : 48 * number + 48] != entry:
                raise Damage(f"{where} is not the one that the footer names")
        except Damage as error:
            self.store.warn(f"{error} (restores do not need the footer)")

    def chunk(self, reference: Any, name: str, kind: int) -> bytes:
        """Return the chunk that a reference in the head of a point names."""
        stored, offset = (field(reference, name, key, int) for key in ("stored", "offset"))
        if not 0 <= stored <= CHUNK_LIMIT + 16 or not 64 <= offset < 1 << 32:
            raise Damage(f"{name}: holds an impossible reference")
        pack, ident = (hex_field(reference, name, k, n) for k, n in (("pack", 16), ("id", 32)))
        want = Want(pack, offset, stored, kind, ident, CHUNK_LIMIT)
        return self.one(want)

    def one(self, want: Want) -> bytes:
        """Return the chunk of one record, or raise its damage."""
        known, self.known = self.known, None
        try:
            found = next(self.chunks([want]))[1]
        finally:
            self.known = known
        if isinstance(found, Damage):
            raise found
        return found


# ------------------------------------------------------------------ maps


def columns(data: bytes, at: int, count: int, kinds: str) -> list[tuple[Any, ...]]:
    """Return the columns that begin at an offset, each of `count` numbers of a kind (H, I)."""
    result = []
    for kind in kinds:
        form = struct.Struct(f"<{count}{kind}")
        result.append(form.unpack_from(data, at))
        at += form.size
    return result


def read_disk(chain: Chain, disk: Any, name: str) -> Disk:
    """Return the root of a disk's map."""
    label = f"{name}: disk {disk['number']} ({disk['name']})"
    data = chain.chunk(disk["root"], name, ROOT)
    if len(data) < 32:
        raise Damage(f"{label}: its map is malformed (too short)")
    magic, block, size, per, count, packs, zero = struct.unpack_from("<4sIQIIII", data)
    fixed = (magic, block, size, per, zero)
    if fixed != (b"ROOT", chain.block_size, disk["size"], PER_SEGMENT, 0):
        raise Damage(f"{label}: its map is malformed, or of another disk")
    start = 32 + 16 * packs
    if len(data) != start + 48 * count:
        raise Damage(f"{label}: its map has the wrong length")
    numbers, which, offsets, stored = columns(data, start, count, "IIII")
    blocks = -(-size // block)
    if any(a >= b for a, b in zip(numbers, numbers[1:])) or (
        count
        and (
            max(which) >= packs
            or numbers[-1] * PER_SEGMENT >= blocks
            or min(offsets) < 64
            or max(stored) > CHUNK_LIMIT + 16
        )
    ):
        raise Damage(f"{label}: its map is malformed (segments)")
    ids = start + 16 * count
    segments = [
        Want(
            data[32 + 16 * which[i] : 48 + 16 * which[i]],
            offsets[i],
            stored[i],
            SEGMENT,
            data[ids + 32 * i : ids + 32 * i + 32],
            CHUNK_LIMIT,
            numbers[i],
        )
        for i in range(count)
    ]
    return Disk(label, size, block, segments)


def read_segment(chain: Chain, disk: Disk, want: Want) -> list[Want]:
    """Return the records of one segment's blocks; blocks of zeros are left out."""
    label = f"{disk.label}: segment {want.block} of its map"
    data = chain.one(want)
    if len(data) < 24:
        raise Damage(f"{label} is malformed (too short)")
    magic, count, first, packs, zero = struct.unpack_from("<4sIQII", data)
    start = 24 + 16 * packs
    if (magic, first, zero) != (b"RSEG", want.block * PER_SEGMENT, 0) or count > PER_SEGMENT:
        raise Damage(f"{label} is malformed, or another segment")
    if len(data) != start + 18 * count:
        raise Damage(f"{label} has the wrong length")
    which, offsets, stored = columns(data, start, count, "HII")
    wants = []
    for i in range(count):
        at = start + 10 * count + 8 * i
        prefix = data[at : at + 8]
        if not stored[i]:
            if which[i] or offsets[i] or any(prefix):
                raise Damage(f"{label} is malformed (a block of zeros that is stored)")
            continue
        limit = min(disk.block_size, disk.size - (first + i) * disk.block_size)
        if which[i] >= packs or offsets[i] < 64 or stored[i] > CHUNK_LIMIT + 16 or limit <= 0:
            raise Damage(f"{label} is malformed (block {first + i})")
        pack = data[24 + 16 * which[i] : 40 + 16 * which[i]]
        wants.append(Want(pack, offsets[i], stored[i], DATA, prefix, limit, first + i))
    return wants


def walk(chain: Chain, disk: Disk) -> Iterator[tuple[int, int, Union[bytes, Damage, None]]]:
    """Yield the ranges (offset, length, content) of a disk; None is zeros, Damage is unknown."""
    span, end = PER_SEGMENT * disk.block_size, 0
    for segment in disk.segments:
        start = segment.block * span
        if start > end:
            yield end, start - end, None
        end = min(disk.size, start + span)
        try:
            wants = read_segment(chain, disk, segment)
        except Damage as error:
            yield start, end - start, error
            continue
        at = start
        for want in wants:  # first the zeros between the blocks
            if want.block * disk.block_size > at:
                yield at, want.block * disk.block_size - at, None
            at = want.block * disk.block_size + want.limit
        if at < end:
            yield at, end - at, None
        for want, found in chain.chunks(wants):
            offset = want.block * disk.block_size
            if isinstance(found, Damage):
                yield offset, want.limit, found
                continue
            yield offset, len(found), found
            if len(found) < want.limit:  # the disk grew after this block was read
                yield offset + len(found), want.limit - len(found), None
    if end < disk.size:
        yield end, disk.size - end, None


# ------------------------------------------------------------------ points


class Point(NamedTuple):
    """A point, by the name of its head."""

    chain: str
    file: str
    deleted: bool

    @property
    def ident(self) -> str:
        """The point id."""
        return self.file[11:43]


def find_points(store: Storage) -> list[Point]:
    """Return all points whose heads are there, by chain and sequence."""
    points = []
    for chain in store.names("chains", ID):
        trash: set[str] = set()
        for file in store.names(f"chains/{chain}/trash", ID + r"\.json"):
            name = f"chains/{chain}/trash/{file}"
            try:
                document = store.read_document(name, "ruchu-trash")
                if document.get("chain") != chain:
                    raise Damage(f"{name}: belongs to another chain")
                trash.update(str(point) for point in field(document, name, "points", list))
            except Damage as error:
                store.warn(f"{error} (deleted points may seem to be still there)")
        for file in store.names(f"chains/{chain}/points", rf"[0-9]{{10}}-{ID}\.json"):
            points.append(Point(chain, file, file[:-5] in trash))
    return points


def choose_point(store: Storage, text: str, deleted: bool) -> tuple[Point, str]:
    """Return the point that a beginning of its id names, and a hint about the others."""
    points = find_points(store)
    found = [point for point in points if point.ident.startswith(text.lower()) and text]
    shown = [point for point in found if deleted or not point.deleted]
    if len(shown) != 1:
        what = "names more than one point: " + ", ".join(p.ident for p in shown[:8])
        if not shown:
            what = (
                "is deleted: add --deleted, as long as its data are there"
                if found
                else ("is not the beginning of a point id: see `list`")
            )
        raise Stop(f"POINT {text} {what}")
    others = [
        p.ident[:12]
        for p in points
        if p.chain == shown[0].chain and p != shown[0] and not p.deleted
    ]
    hint = "no other point is in this chain"
    if others:
        rest = f" and {len(others) - 8} more" if len(others) > 8 else ""
        hint = f"other points may be whole (try `verify`): {', '.join(others[-8:])}{rest}"
    return shown[0], hint


def advice(error: Damage, hint: str, more: str = "") -> Stop:
    """Return the one line that says what is damaged and what can be done."""
    return Stop(f"{error}. Copy this file anew from another copy of the storage{more}; {hint}")


class Target:
    """What a disk is written to: a new file (under another name until it is whole) or a device."""

    def __init__(self, path: str, size: int, force: bool, store: Storage) -> None:
        """Open it; everything that speaks against that stops before anything is changed."""
        self.path = os.path.realpath(path)
        there = os.stat(self.path).st_mode if os.path.lexists(self.path) else None
        self.device = there is not None and stat.S_ISBLK(there)
        self.force = force
        if store.inside(self.path):
            raise Stop(f"{path}: lies in the storage; choose another place")
        if there is not None and not (self.device or stat.S_ISREG(there)):
            raise Stop(f"{path}: is neither a regular file nor a block device")
        if there is not None and not force:
            raise Stop(f"{path}: exists; give --force to overwrite it, or another name")
        self.work = self.path if self.device else self.path + ".partial"
        flags = os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        if not self.device:
            flags |= os.O_CREAT
            if force and os.path.lexists(self.work):
                os.unlink(self.work)
        try:
            self.file = os.fdopen(os.open(self.work, flags, 0o600), "wb")
        except FileExistsError:
            raise Stop(f"{self.work}: is left from another run; remove it or --force") from None
        if not self.device:
            self.file.truncate(size)
        elif self.file.seek(0, os.SEEK_END) < size:
            self.file.close()
            raise Stop(f"{path}: the device is smaller than the disk ({size} bytes)")

    def write(self, offset: int, length: int, data: Optional[bytes]) -> None:
        """Write bytes, or zeros (None), which a new file has already."""
        if data is not None:
            self.file.seek(offset)
            self.file.write(data)
        elif self.device:
            self.file.seek(offset)
            zeros = bytes(min(length, RUN_LIMIT))
            while length > 0:
                length -= self.file.write(zeros[:length])

    def finish(self) -> None:
        """Make it durable; give the file its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if not self.device:
            if os.path.lexists(self.path) and not self.force:
                raise Stop(f"{self.path}: was created meanwhile; it is left as it is")
            os.replace(self.work, self.path)

    def abandon(self) -> None:
        """Remove what is not whole; of a device, say so."""
        try:
            self.file.close()
        except OSError as error:
            print(f"restore.py: {self.work}: {error.strerror}", file=sys.stderr)
        if self.device:
            print(f"restore.py: {self.path} is NOT whole: do not use it", file=sys.stderr)
        else:
            os.unlink(self.work)


# ------------------------------------------------------------------ commands


def state_of(store: Storage, point: Point) -> tuple[bool, Optional[str]]:
    """Tell whether a point is starred, and until when it is locked."""
    starred, until = False, None
    folder = f"chains/{point.chain}/marks"
    for file in store.names(folder, point.ident + r"\.(star|lock-[0-9]{8}T[0-9]{6}Z)\.json"):
        star = file[33:37] == "star"
        name = f"{folder}/{file}"
        try:
            mark = store.read_document(name, "ruchu-star" if star else "ruchu-lock-until")
            if mark.get("point") != point.ident:
                raise Damage(f"{name}: belongs to another point")
            if star:
                starred = True
            else:
                until = max(until or "", field(mark, name, "until", str))
        except Damage as error:
            store.warn(f"{error} (this mark is not shown)")
    return starred, until


def listed(store: Storage, args: Any, keys: list[bytes]) -> Iterator[dict[str, Any]]:
    """Yield what is known of each point that is to be shown."""
    chains: dict[str, Any] = {}
    for point in find_points(store):
        if point.deleted and not args.deleted:
            continue
        try:
            if point.chain not in chains:
                chains[point.chain] = None
                chains[point.chain] = Chain(store, point.chain, keys)
            chain = chains[point.chain]
            head = chain.head(point.file) if chain else None
        except Damage as error:
            store.warn(f"{error}: copy it anew from another copy of the storage")
            continue
        if head:
            starred, until = state_of(store, point)
            yield {
                "chain": point.chain,
                "object": chain.document.get("object"),
                "point": point.ident,
                "sequence": head["sequence"],
                "kind": head["kind"],
                "time": head["time"],
                "disks": [{k: d[k] for k in ("number", "name", "size")} for d in head["disks"]],
                "attachments": sorted(head["attachments"]),
                "starred": starred,
                "locked_until": until,
                "deleted": point.deleted,
                "seal_checked": bool(keys),
            }


def command_list(store: Storage, args: Any) -> int:
    """Show the points."""
    keys = storage_keys(store, args, ask=False)
    if not keys:
        print("restore.py: no key given: the seals of the heads are not checked", file=sys.stderr)
    rows = list(listed(store, args, keys))
    if args.json:
        print(json.dumps(rows, indent=1, sort_keys=True))
        return 1 if store.warnings else 0
    for row in rows:
        thing = row["object"] if isinstance(row["object"], dict) else {}
        text = ", ".join(f"{d['number']}={d['name']} ({d['size']} bytes)" for d in row["disks"])
        marks = " starred" * row["starred"] + " DELETED" * row["deleted"]
        marks += f" locked until {row['locked_until']}" if row["locked_until"] else ""
        print(
            printable(
                f"{row['point']}  {row['time'][:19]}Z  {row['kind']:<12} "
                f"{thing.get('kind')} {thing.get('name')}: {text}{marks}"
            )
        )
    return 1 if store.warnings else 0


def open_point(store: Storage, args: Any, lenient: bool = False) -> tuple[Chain, Any, str, str]:
    """Return the chain, the head, the head's name of the point asked for, and a hint."""
    point, hint = choose_point(store, args.point, args.deleted)
    keys = storage_keys(store, args, ask=True)
    try:
        chain = Chain(store, point.chain, keys, lenient)
        return chain, chain.head(point.file), f"{chain.folder}/points/{point.file}", hint
    except Damage as error:
        raise advice(error, hint) from None


def choose_disk(head: Any, text: Optional[str]) -> Any:
    """Return the disk with this number or name, or the only one."""
    disks = head["disks"]
    found = [d for d in disks if text is None or str(d["number"]) == text]
    found = found or [d for d in disks if d["name"] == text]
    if len(found) != 1:
        names = ", ".join(f"{d['number']} ({d['name']})" for d in disks) or "none"
        raise Stop(f"choose one disk with --disk N or --disk NAME; the point has: {names}")
    return found[0]


def ranges(damaged: list[tuple[int, int]]) -> list[str]:
    """Return damaged ranges as texts, adjacent ones as one."""
    merged: list[list[int]] = []
    for offset, length in sorted(damaged):
        if merged and merged[-1][1] == offset:
            merged[-1][1] += length
        else:
            merged.append([offset, offset + length])
    return [f"bytes {a} to {b - 1} ({b - a} bytes)" for a, b in merged]


def command_extract(store: Storage, args: Any) -> int:
    """Write one disk of a point as a raw image."""
    chain, head, name, hint = open_point(store, args, lenient=args.skip_damaged)
    disk = choose_disk(head, args.disk)
    damaged = []
    try:
        root = read_disk(chain, disk, name)
    except Damage as error:
        raise advice(error, hint) from None
    target = Target(args.target, root.size, args.force, store)
    try:
        for offset, length, content in walk(chain, root):
            if isinstance(content, Damage):
                if not args.skip_damaged:
                    raise advice(content, hint, ", or use --skip-damaged for zeros there")
                store.warn(f"{content}; zeros are written")
                damaged.append((offset, length))
                content = None
            target.write(offset, length, content)
        target.finish()
    except BaseException:
        target.abandon()
        raise
    for text in ranges(damaged):
        print(f"damaged, now zeros: {text}")
    print(
        f"{args.target}: {root.size} bytes, "
        + ("NOT whole" if damaged else "whole: every chunk was checked")
    )
    return 3 if damaged else 0


def command_attachments(store: Storage, args: Any) -> int:
    """Write the description of the machine and its like into a directory."""
    chain, head, name, hint = open_point(store, args)
    contents = {}
    for key, reference in head["attachments"].items():
        if key not in ATTACHMENTS:
            store.warn(f"{name}: the attachment {key!r} has no known name: not written")
            continue
        try:
            contents[key] = chain.chunk(reference, name, ATTACHMENT)
        except Damage as error:
            raise advice(error, hint) from None
    if store.inside(args.directory):
        raise Stop(f"{args.directory}: lies in the storage; choose another place")
    os.makedirs(args.directory, mode=0o700, exist_ok=True)
    for key, content in contents.items():
        path = os.path.join(args.directory, key)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(content)
        print(f"{path}: {len(content)} bytes, whole")
    if not contents:
        print("the point has no attachments")
    return 0


def verify_point(chain: Chain, point: Point) -> bool:
    """Read everything of a point; say what is damaged; return whether all is whole."""
    name = f"{chain.folder}/points/{point.file}"
    try:
        head = chain.head(point.file)
    except Damage as error:
        chain.store.warn(f"{error}")
        return False
    whole = True
    for reference in head["attachments"].values():
        try:
            chain.chunk(reference, name, ATTACHMENT)
        except Damage as error:
            chain.store.warn(f"{error}")
            whole = False
    for disk in head["disks"]:
        damaged = []
        try:
            for offset, length, content in walk(chain, read_disk(chain, disk, name)):
                if isinstance(content, Damage):
                    chain.store.warn(f"{content}")
                    damaged.append((offset, length))
        except Damage as error:
            chain.store.warn(f"{error}")
            whole = False
        for text in ranges(damaged):
            print(printable(f"  point {point.ident} disk {disk['number']} damaged: {text}"))
        whole = whole and not damaged
    return whole


def command_verify(store: Storage, args: Any) -> int:
    """Read and check all chunks of a point, or of all points."""
    points = [p for p in find_points(store) if args.deleted or not p.deleted]
    if args.point and not args.all:
        points = [choose_point(store, args.point, args.deleted)[0]]
    keys = storage_keys(store, args, ask=True)
    kit = store.document.get("kit")
    for file, right in sorted(kit.items()) if isinstance(kit, dict) else ():
        if file in ("FORMAT.txt", "restore.py"):
            try:
                if blake3(store.read(file, DOCUMENT_LIMIT)).hexdigest() != right:
                    store.warn(f"{file}: is not as it was written")
            except Damage as error:
                store.warn(f"{error}")
    bad, chain = 0, None
    for point in points:
        try:
            if chain is None or chain.ident.hex() != point.chain:
                chain = None
                chain = Chain(store, point.chain, keys)
                chain.footers, chain.known = True, ({} if len(points) > 1 else None)
            whole = verify_point(chain, point)
        except Damage as error:
            store.warn(f"{error}")
            whole = False
        bad += not whole
        print(f"{point.ident}  {'whole' if whole else 'DAMAGED'}", flush=True)
    if bad or store.warnings:
        print(
            f"restore.py: {bad} of {len(points)} points are damaged; copy the files named above "
            "anew from another copy of the storage, or use a whole point",
            file=sys.stderr,
        )
    return 1 if bad or store.warnings else 0


def parse(argv: Optional[list[str]]) -> Any:
    """Read the command line; the common options may stand before or after the command."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--storage", metavar="DIR", help="the storage (default: where this lies)")
    common.add_argument("--passphrase-file", metavar="F", help="one line break at its end is cut")
    common.add_argument("--key-file", metavar="F")
    common.add_argument("--deleted", action="store_true", help="also points in the trash")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, parents=[common])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("list", parents=[common], help="show the points")
    command.add_argument("--json", action="store_true")
    command = commands.add_parser("extract", parents=[common], help="write a raw disk image")
    command.add_argument("point", metavar="POINT")
    command.add_argument("target", metavar="TARGET")
    command.add_argument("--disk", metavar="N|NAME")
    command.add_argument("--force", action="store_true", help="overwrite a file, write a device")
    command.add_argument("--skip-damaged", action="store_true", help="zeros for what is damaged")
    command = commands.add_parser("attachments", parents=[common], help="machine.json and such")
    command.add_argument("point", metavar="POINT")
    command.add_argument("directory", metavar="DIRECTORY")
    command = commands.add_parser("verify", parents=[common], help="check every chunk")
    command.add_argument("point", metavar="POINT", nargs="?")
    command.add_argument("--all", action="store_true", help="all points (the default)")
    # Not set_defaults: it would make the commands overwrite what stands before them.
    args = argparse.Namespace(
        storage=os.path.dirname(os.path.abspath(__file__)),
        key_file=None,
        passphrase_file=None,
        deleted=False,
    )
    for key, value in vars(parser.parse_args(argv)).items():
        setattr(args, key, value)
    return args


def main(argv: Optional[list[str]] = None) -> int:
    """Run one command; every failure is one line on stderr."""
    if MISSING:
        print(
            f"restore.py: missing Python libraries: {', '.join(MISSING)}. Install them with: "
            f"{sys.executable} -m pip install {' '.join(MISSING)}",
            file=sys.stderr,
        )
        return 1
    args = parse(argv)
    commands = {
        "list": command_list,
        "extract": command_extract,
        "verify": command_verify,
        "attachments": command_attachments,
    }
    store = None
    try:
        store = Storage(args.storage)
        return commands[args.command](store, args)
    except (Stop, Damage) as error:
        text = str(error)
    except OSError as error:
        text = f"{error.filename or ''}: {error.strerror or error}"
    except (EOFError, KeyboardInterrupt):
        text = "interrupted"
    except MemoryError:
        text = "not enough memory: run this on a machine with more of it"
    finally:
        if store:
            store.close()
    print(f"restore.py: {printable(text)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
