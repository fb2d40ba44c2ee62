"""The exit kit's reader, against a storage that this file writes itself from docs/formats/vds.md.

Neither side imports anything of Ruchu: what they agree on is the specification alone.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from collections.abc import Iterator

RESTORE = Path(__file__).parents[3] / "src/ruchu/repository/exitkit/restore.py"
BLOCK = 64
DATA, SEGMENT, ROOT, ATTACHMENT = 1, 2, 3, 4
PASSPHRASE = "correct hörse"
KEY_FILE = bytes(range(100))
MODES = ["none", "passphrase", "keyfile"]


# ---------------------------------------------------------------- a minimal writer


def keyed(key: bytes, data: bytes) -> bytes:
    """Return keyed(k, x) of the specification."""
    return blake3(data, key=key).digest()


def derive(context: str, key: bytes) -> bytes:
    """Return derive(c, x) of the specification."""
    return blake3(key, derive_key_context=context).digest()


def canonical(value: dict[str, Any]) -> bytes:
    """Return the canonical form of a document."""
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def write_document(path: Path, value: dict[str, Any], head_key: bytes | None = None) -> None:
    """Seal a document and write it."""
    body = canonical(value)
    seal = {"check": keyed(head_key, body).hex()} if head_key else {"sum": blake3(body).hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canonical(value | seal))


@dataclass
class Record:
    """Where a record is."""

    pack: bytes
    offset: int
    stored: int
    ident: bytes

    def reference(self) -> dict[str, Any]:
        """Return the reference that a head holds."""
        return {
            "pack": self.pack.hex(),
            "offset": self.offset,
            "stored": self.stored,
            "id": self.ident.hex(),
        }


@dataclass
class PackWriter:
    """Builds one pack."""

    chain: ChainWriter
    ident: bytes
    body: bytes = b""
    entries: list[bytes] = field(default_factory=list)

    @property
    def cipher(self) -> AESGCM:
        """The cipher of the pack."""
        return AESGCM(keyed(self.chain.k_packs, self.ident))

    def header(self) -> bytes:
        """Return the header of the pack."""
        flags = 1 if self.chain.encrypted else 0
        head = struct.pack("<8sII", b"RUCHUPK1", 1, flags) + self.ident + self.chain.ident
        return head + blake3(head).digest()[:16]

    def add(self, kind: int, chunk: bytes) -> Record:
        """Append a record."""
        packed = zstandard.compress(chunk)
        codec = int(len(packed) < len(chunk))
        payload = packed if codec else chunk
        number, ident = len(self.entries), keyed(self.chain.k_id, chunk)
        stored = len(payload) + (16 if self.chain.encrypted else 0)
        head = b"RCHK" + struct.pack("<BBHIII", kind, codec, 0, number, len(chunk), stored) + ident
        if self.chain.encrypted:
            payload = self.cipher.encrypt(struct.pack("<Q", number) + bytes(4), payload, head)
        offset = 64 + len(self.body)
        self.body += head + payload
        self.entries.append(
            ident + struct.pack("<IIIBB", offset, stored, len(chunk), kind, codec) + b"\0\0"
        )
        return Record(self.ident, offset, stored, ident)

    def write(self) -> Path:
        """Write the pack."""
        footer = b"".join(self.entries)
        length = len(footer) + (16 if self.chain.encrypted else 0)
        trailer = struct.pack("<8sII", b"RUCHUFT1", len(self.entries), length) + self.ident
        if self.chain.encrypted:
            footer = self.cipher.encrypt(b"\xff" * 12, footer, trailer)
        total = blake3(self.header() + footer + trailer).digest()
        path = self.chain.pack_path(self.ident, "pack")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.header() + self.body + footer + trailer + total)
        return path


class ChainWriter:
    """Writes one chain of a new storage."""

    def __init__(self, root: Path, mode: str, seed: int = 1) -> None:
        """Write the storage, its key slot and the chain."""
        self.root, self.mode, self.encrypted = root, mode, mode != "none"
        self.random = random.Random(seed)
        storage, slot, self.ident = (self.new_id() for _ in range(3))
        key, self.key = self.random.randbytes(32), self.random.randbytes(32)
        self.k_id = derive("ruchu vds 1 chunk id", self.key)
        self.k_head = derive("ruchu vds 1 head", self.key)
        self.k_packs = derive("ruchu vds 1 packs", self.key)
        encryption = "aes-256-gcm" if self.encrypted else "none"
        root.mkdir()
        (root / "FORMAT.txt").write_text("the specification\n")
        write_document(
            root / "ruchu-storage.json",
            {
                "format": "ruchu-storage",
                "version": 1,
                "storage": storage.hex(),
                "name": "tést",
                "role": "backup",
                "created": "2026-11-22T18:00:00.000000Z",
                "encryption": encryption,
                "kit": {"FORMAT.txt": blake3(b"the specification\n").hexdigest()},
            },
        )
        self.write_slot(storage, slot, key)
        self.folder = root / "chains" / self.ident.hex()
        nonce = self.random.randbytes(12)
        wrapped = AESGCM(key).encrypt(nonce, self.key, b"ruchu vds 1 chain key" + self.ident)
        thing = {"kind": "vm", "name": "web\x1b1", "platform": "libvirt", "id": "x"}
        write_document(
            self.folder / "chain.json",
            {
                "format": "ruchu-chain",
                "version": 1,
                "chain": self.ident.hex(),
                "object": thing,
                "created": "2026-11-22T18:00:00.000000Z",
                "block_size": BLOCK,
                "encryption": encryption,
                "nonce": nonce.hex(),
                "wrapped": wrapped.hex(),
            },
        )

    def new_id(self) -> bytes:
        """Return a random id."""
        return self.random.randbytes(16)

    def write_slot(self, storage: bytes, slot: bytes, key: bytes) -> None:
        """Write the key slot."""
        value: dict[str, Any] = {
            "format": "ruchu-key",
            "version": 1,
            "storage": storage.hex(),
            "slot": slot.hex(),
            "created": "2026-11-22T18:00:00.000000Z",
            "method": self.mode,
        }
        nonce, salt = self.random.randbytes(12), self.random.randbytes(16)
        outer = derive("ruchu vds 1 key file", KEY_FILE)
        if self.mode == "none":
            value["key"] = key.hex()
        elif self.mode == "passphrase":
            value |= {"memory_kib": 64, "iterations": 1, "lanes": 2, "salt": salt.hex()}
            secret = PASSPHRASE.encode()
            outer = hash_secret_raw(secret, salt, 1, 64, 2, 32, Type.ID)
        if self.mode != "none":
            aad = b"ruchu vds 1 storage key" + storage
            wrapped = AESGCM(outer).encrypt(nonce, key, aad)
            value |= {"nonce": nonce.hex(), "wrapped": wrapped.hex()}
        write_document(self.root / "keys" / f"{slot.hex()}.json", value)

    def pack_path(self, ident: bytes, suffix: str) -> Path:
        """Return the path of a pack."""
        return self.folder / "packs" / ident.hex()[:2] / f"{ident.hex()}.{suffix}"

    def pack(self) -> PackWriter:
        """Begin a pack."""
        return PackWriter(self, self.new_id())

    def map(self, pack: PackWriter, size: int, blocks: dict[int, Record]) -> Record:
        """Write the map of a disk into a pack; return its root."""
        total = -(-size // BLOCK)
        segments = []
        for number in sorted({block // 1024 for block in blocks}):
            first = number * 1024
            here = [blocks.get(first + i) for i in range(min(1024, total - first))]
            packs = sorted({record.pack for record in here if record})
            chunk = b"RSEG" + struct.pack("<IQII", len(here), first, len(packs), 0)
            chunk += b"".join(packs)
            chunk += b"".join(struct.pack("<H", packs.index(r.pack) if r else 0) for r in here)
            chunk += b"".join(struct.pack("<I", r.offset if r else 0) for r in here)
            chunk += b"".join(struct.pack("<I", r.stored if r else 0) for r in here)
            chunk += b"".join(r.ident[:8] if r else bytes(8) for r in here)
            segments.append((number, pack.add(SEGMENT, chunk)))
        packs = sorted({record.pack for _, record in segments})
        chunk = b"ROOT" + struct.pack("<IQIIII", BLOCK, size, 1024, len(segments), len(packs), 0)
        chunk += b"".join(packs)
        chunk += b"".join(struct.pack("<I", number) for number, _ in segments)
        chunk += b"".join(struct.pack("<I", packs.index(r.pack)) for _, r in segments)
        chunk += b"".join(struct.pack("<I", r.offset) for _, r in segments)
        chunk += b"".join(struct.pack("<I", r.stored) for _, r in segments)
        chunk += b"".join(r.ident for _, r in segments)
        return pack.add(ROOT, chunk)

    def point(self, sequence: int, disks: list[Any], attachments: dict[str, Record]) -> bytes:
        """Write the head of a point; return its id."""
        ident = self.new_id()
        name = f"{sequence:010}-{ident.hex()}.json"
        listed = [
            {"number": i, "name": disk, "size": size, "root": root.reference()}
            for i, (disk, size, root) in enumerate(disks)
        ]
        write_document(
            self.folder / "points" / name,
            {
                "format": "ruchu-point",
                "version": 1,
                "chain": self.ident.hex(),
                "point": ident.hex(),
                "sequence": sequence,
                "kind": "full",
                "parent": None,
                "time": "2026-11-22T18:00:00.000000Z",
                "finished": "2026-11-22T18:01:00.000000Z",
                "disks": listed,
                "facts": {},
                "attachments": {key: r.reference() for key, r in attachments.items()},
            },
            self.k_head,
        )
        return ident

    def moved(self, old: bytes, rows: dict[int, tuple[bytes, int]]) -> Path:
        """Write <old>.moved and remove the old pack."""
        targets = sorted({target for target, _ in rows.values()})
        body = struct.pack("<II", len(targets), len(rows)) + b"".join(targets)
        body += b"".join(struct.pack("<I", at) for at in sorted(rows))
        body += b"".join(struct.pack("<I", targets.index(rows[at][0])) for at in sorted(rows))
        body += b"".join(struct.pack("<I", rows[at][1]) for at in sorted(rows))
        nonce = self.random.randbytes(12) if self.encrypted else bytes(12)
        head = b"RUCHUMV1" + struct.pack("<II", 1, int(self.encrypted)) + old + self.ident
        head += nonce + bytes(4)
        if self.encrypted:
            body = AESGCM(keyed(self.k_packs, old)).encrypt(nonce, body, head)
        path = self.pack_path(old, "moved")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(head + body + blake3(head + body).digest())
        self.pack_path(old, "pack").unlink(missing_ok=True)
        return path


@dataclass
class Sample:
    """A storage and what is in it."""

    root: Path
    chain: ChainWriter
    first: str
    second: str
    trashed: str
    images: dict[str, bytes]
    options: list[str]
    attachments: dict[str, bytes]
    spare: Path  # the pack that the second point does not need


SIZE = 1030 * BLOCK + 10  # two segments and a short last block
GROWN = SIZE + 3 * BLOCK


def compact(chain: ChainWriter, old: PackWriter, chunks: list[tuple[int, bytes]]) -> None:
    """Replace a pack by a new one that holds its records in another order."""
    new, rows = chain.pack(), {}
    records = {}
    for kind, chunk in chunks:
        records[keyed(chain.k_id, chunk)] = new.add(kind, chunk)
    for entry in old.entries:
        offset = struct.unpack_from("<I", entry, 32)[0]
        if entry[:32] in records:
            record = records[entry[:32]]
            rows[offset] = (record.pack, record.offset)
    new.write()
    chain.moved(old.ident, rows)


def build(parent: Path, mode: str, blocks_in_disk: int = 1030) -> Sample:
    """Write a storage with two points, a compacted pack and a point in the trash."""
    size, most = blocks_in_disk * BLOCK + 10, blocks_in_disk
    larger = size + 3 * BLOCK
    chain = ChainWriter(parent / "storage", mode)
    rng = chain.random
    contents = {
        0: rng.randbytes(BLOCK),
        5: b"ab" * 32,
        6: rng.randbytes(BLOCK),
        most - 1: rng.randbytes(BLOCK),
        most: rng.randbytes(10),
    }
    old, pack, last = chain.pack(), chain.pack(), chain.pack()
    pending = [(DATA, chunk) for chunk in contents.values()]
    blocks = {block: old.add(DATA, chunk) for block, chunk in contents.items()}
    old.add(DATA, b"not needed by anybody")
    old.write()
    given = {"machine.json": b"{}\n", "native": b"<domain/>" * 20, "nvram": b""}
    attachments = {name: last.add(ATTACHMENT, data) for name, data in given.items()}
    image = bytearray(size)
    for block, chunk in contents.items():
        image[block * BLOCK : block * BLOCK + len(chunk)] = chunk
    empty = chain.map(last, 100, {})
    first = chain.point(
        1,
        [("vda", size, chain.map(last, size, blocks)), ("7", 100, empty)],
        attachments | {"../evil": attachments["native"]},
    )
    changed = rng.randbytes(BLOCK)
    grown = bytearray(image + bytes(larger - size))
    grown[6 * BLOCK : 7 * BLOCK] = changed
    blocks[6] = pack.add(DATA, changed)
    second = chain.point(2, [("vda", larger, chain.map(pack, larger, blocks))], {})
    pack.write()
    gone = {3: last.add(DATA, b"x" * BLOCK)}
    trashed = chain.point(3, [("vda", size, chain.map(last, size, gone))], {})
    last.write()
    compact(chain, old, list(reversed(pending)))
    trash = chain.new_id().hex()
    write_document(
        chain.folder / "trash" / f"{trash}.json",
        {
            "format": "ruchu-trash",
            "version": 1,
            "chain": chain.ident.hex(),
            "packs": [],
            "created": "2026-11-22T18:00:00.000000Z",
            "purge_after": "2026-12-22T18:00:00.000000Z",
            "points": [f"{3:010}-{trashed.hex()}"],
            "moved": [],
            "reason": "test",
        },
    )
    (parent / "pass").write_bytes(PASSPHRASE.encode() + b"\n")
    (parent / "key").write_bytes(KEY_FILE)
    options = {
        "none": [],
        "passphrase": ["--passphrase-file", str(parent / "pass")],
        "keyfile": ["--key-file", str(parent / "key")],
    }[mode]
    dead = bytes(3 * BLOCK) + b"x" * BLOCK + bytes(size - 4 * BLOCK)
    images = {first.hex(): bytes(image), second.hex(): bytes(grown), trashed.hex(): dead}
    return Sample(
        chain.root,
        chain,
        first.hex(),
        second.hex(),
        trashed.hex(),
        images,
        options,
        given,
        chain.pack_path(last.ident, "pack"),
    )


# ---------------------------------------------------------------- running the reader


def run(sample: Sample, *args: str, keys: bool = True) -> subprocess.CompletedProcess[str]:
    """Run restore.py as an administrator would."""
    command = [sys.executable, str(RESTORE), *args, "--storage", str(sample.root)]
    command += sample.options if keys else []
    return subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def load() -> ModuleType:
    """Load restore.py into this process, for the cases that are many."""
    spec = importlib.util.spec_from_file_location("exit_kit_restore", RESTORE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parse = lru_cache(module.parse)  # equal command lines once: the many cases are then quicker
    module.__dict__["parse"] = parse
    return module


def call(module: ModuleType, sample: Sample, *args: str) -> int:
    """Run restore.py in this process."""
    return int(module.main((*args, "--storage", str(sample.root), *sample.options)))


@pytest.fixture(params=MODES)
def sample(tmp_path: Path, request: pytest.FixtureRequest) -> Sample:
    """A storage of every kind."""
    return build(tmp_path, request.param)


@pytest.fixture
def plain(tmp_path: Path) -> Sample:
    """A storage without encryption."""
    return build(tmp_path, "none")


@pytest.fixture
def locked(tmp_path: Path) -> Sample:
    """A storage with a key file."""
    return build(tmp_path, "keyfile")


# ---------------------------------------------------------------- what it does


def test_list_shows_the_points_and_hides_the_trash(sample: Sample) -> None:
    """Deleted points are shown only when asked for; the seals are checked with the key."""
    result = run(sample, "list", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["point"] for row in rows] == [sample.first, sample.second]
    assert rows[0]["disks"][0] == {"number": 0, "name": "vda", "size": SIZE}
    assert all(row["seal_checked"] for row in rows)
    assert result.stderr == ""
    text = run(sample, "list", "--deleted").stdout
    assert sample.trashed in text
    assert "DELETED" in text
    assert "\x1b" not in text


def test_list_without_a_key_says_that_seals_are_not_checked(locked: Sample) -> None:
    """Without the key the list is shown, and says what it is worth."""
    result = run(locked, "list", keys=False)
    assert result.returncode == 0
    assert sample_ids(result.stdout) == [locked.first, locked.second]
    assert "seals of the heads are not checked" in result.stderr


def sample_ids(text: str) -> list[str]:
    """Return the first words of the lines."""
    return [line.split()[0] for line in text.splitlines()]


def test_list_shows_stars_and_the_longest_lock(plain: Sample) -> None:
    """Marks are shown."""
    marks = plain.chain.folder / "marks"
    write_document(
        marks / f"{plain.first}.star.json",
        {"format": "ruchu-star", "version": 1, "point": plain.first, "created": "x"},
    )
    for year in ("2031", "2030"):
        write_document(
            marks / f"{plain.first}.lock-{year}0101T000000Z.json",
            {
                "format": "ruchu-lock-until",
                "version": 1,
                "point": plain.first,
                "created": "x",
                "until": f"{year}-01-01T00:00:00.000000Z",
            },
        )
    rows = json.loads(run(plain, "list", "--json").stdout)
    assert rows[0]["starred"] is True
    assert rows[0]["locked_until"] == "2031-01-01T00:00:00.000000Z"
    assert rows[1]["starred"] is False


def test_extract_gives_the_disks(sample: Sample, tmp_path: Path) -> None:
    """Both points give their bytes, through the compacted pack, the short and the grown block."""
    for point in (sample.first, sample.second):
        target = tmp_path / point
        result = run(sample, "extract", point[:6], "--disk", "vda", str(target))
        assert result.returncode == 0, result.stderr
        assert target.read_bytes() == sample.images[point]
    result = run(sample, "extract", sample.first, "--disk", "1", str(tmp_path / "empty"))
    assert result.returncode == 0
    assert (tmp_path / "empty").read_bytes() == bytes(100)
    assert not list(tmp_path.glob("*.partial"))


def test_deleted_points_only_with_the_option(plain: Sample, tmp_path: Path) -> None:
    """A point in the trash can be had while it lasts, but not by accident."""
    target = tmp_path / "image"
    result = run(plain, "extract", plain.trashed, str(target))
    assert result.returncode == 1
    assert "--deleted" in result.stderr
    assert run(plain, "extract", "--deleted", plain.trashed, str(target)).returncode == 0
    assert target.read_bytes() == plain.images[plain.trashed]


def test_attachments_are_written_under_fixed_names(sample: Sample, tmp_path: Path) -> None:
    """Only the known names are written; nothing is overwritten."""
    folder = tmp_path / "a" / "b"
    result = run(sample, "attachments", sample.first, str(folder))
    assert result.returncode == 0, result.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == sample.attachments
    assert "../evil" in result.stderr
    assert not (folder.parent / "evil").exists()
    assert run(sample, "attachments", sample.first, str(folder)).returncode == 1


def test_verify_finds_a_whole_storage_whole(sample: Sample) -> None:
    """One point, all points, also the deleted."""
    for args, count in (([], 2), (["--all"], 2), ([sample.second], 1), (["--deleted"], 3)):
        result = run(sample, "verify", *args)
        assert result.returncode == 0, result.stderr
        assert "DAMAGED" not in result.stdout
        assert len(result.stdout.splitlines()) == count


def test_it_does_not_overwrite(plain: Sample, tmp_path: Path) -> None:
    """An existing file stays without --force; a target in the storage is refused."""
    target = tmp_path / "image"
    target.write_bytes(b"precious")
    assert run(plain, "extract", plain.second, str(target)).returncode == 1
    assert target.read_bytes() == b"precious"
    assert run(plain, "extract", plain.second, "--force", str(target)).returncode == 0
    assert target.read_bytes() == plain.images[plain.second]
    inside = plain.root / "FORMAT.txt"
    result = run(plain, "extract", plain.second, "--force", str(inside))
    assert result.returncode == 1
    assert inside.read_text() == "the specification\n"


def test_a_device_gets_its_zeros_written(
    plain: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on a device is overwritten by zeros; a small device is refused."""
    module = load()
    fake = SimpleNamespace(S_ISBLK=lambda mode: True, S_ISREG=lambda mode: True)
    monkeypatch.setattr(module, "stat", fake)
    target = tmp_path / "device"
    target.write_bytes(b"\xff" * (GROWN + 100))
    assert call(module, plain, "extract", plain.second, str(target)) == 1
    assert call(module, plain, "extract", plain.second, "--force", str(target)) == 0
    assert target.read_bytes() == plain.images[plain.second] + b"\xff" * 100
    target.write_bytes(b"\xff" * (GROWN - 1))
    assert call(module, plain, "extract", plain.second, "--force", str(target)) == 1
    assert target.read_bytes() == b"\xff" * (GROWN - 1)


def test_a_wrong_secret_opens_nothing(sample: Sample, tmp_path: Path) -> None:
    """A wrong passphrase or key file is said in one line."""
    if sample.chain.mode == "none":
        return
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"no")
    sample.options[1] = str(wrong)
    result = run(sample, "verify")
    assert result.returncode == 1
    assert "opens none" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_argon2_comes_from_either_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cryptography has no Argon2id, argon2-cffi gives it; without both it is said."""
    sample, module = build(tmp_path, "passphrase"), load()
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.kdf.argon2", None)
    target = tmp_path / "image"
    assert call(module, sample, "extract", sample.second, str(target)) == 0
    monkeypatch.setitem(sys.modules, "argon2.low_level", None)
    assert call(module, sample, "verify") == 1


def test_missing_libraries_are_named() -> None:
    """The first thing it says is what to install."""
    result = subprocess.run(
        [sys.executable, "-S", str(RESTORE), "list"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "-m pip install blake3 zstandard cryptography" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_unclear_points_and_disks(plain: Sample, tmp_path: Path) -> None:
    """An unknown or ambiguous point, and a disk left open, stop with the choice."""
    target = str(tmp_path / "image")
    for point in ("", "zz", "../x"):
        assert run(plain, "extract", point, target).returncode == 1
    result = run(plain, "extract", plain.first, target)
    assert result.returncode == 1
    assert "0 (vda), 1 (7)" in result.stderr


# ---------------------------------------------------------------- damage


def needed(sample: Sample) -> list[Path]:
    """Return the files that the second point needs."""
    root = sample.root
    files = [
        root / "ruchu-storage.json",
        *(root / "keys").iterdir(),
        sample.chain.folder / "chain.json",
        *(sample.chain.folder / "points").glob(f"*{sample.second}*"),
        *(sample.chain.folder / "trash").iterdir(),
    ]
    packs = sorted((sample.chain.folder / "packs").glob("*/*"))
    return files + [path for path in packs if path != sample.spare]


def flips(path: Path, step: int = 1) -> Iterator[int]:
    """Flip one bit of every byte (or every few bytes) of a file; yield while it is flipped."""
    good = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at in range(0, len(good), step):
            byte = good[at]
            os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
            yield at
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert path.read_bytes() == good


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "keyfile"])
def test_no_flipped_byte_gives_wrong_bytes(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever byte is flipped: right bytes or a failure that names a file, nothing between."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    sample, module, target = build(tmp_path, mode, 9), load(), tmp_path / "image"
    failed = 0
    for path in needed(sample):
        for at in flips(path):
            status = call(module, sample, "extract", sample.second, str(target))
            error = capsys.readouterr().err
            if status:
                failed += 1
                assert status == 1
                assert not target.exists()
                assert path.name in error or "keys/" in error, (path, at)
            else:
                assert target.read_bytes() == sample.images[sample.second], (path, at)
                target.unlink()
            assert not target.with_name("image.partial").exists()
    assert failed > 500


@pytest.mark.slow
def test_verify_sees_every_flipped_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file of an encrypted storage is under some check, from its first byte to its last."""
    sample, module = build(tmp_path, "keyfile", 9), load()
    for path in [*needed(sample), sample.spare]:
        for at in flips(path, step=3):
            assert call(module, sample, "verify", "--deleted") == 1, (path, at)
        capsys.readouterr()
    assert call(module, sample, "verify", "--deleted") == 0


def test_cut_and_missing_files(sample: Sample, tmp_path: Path) -> None:
    """Files that end early, are empty or gone."""
    module, target = load(), tmp_path / "image"
    for path in needed(sample):
        good = path.read_bytes()
        for length in (*range(0, len(good), 1 + len(good) // 7), None):
            path.unlink()
            if length is not None:
                path.write_bytes(good[:length])
            status = call(module, sample, "extract", sample.second, str(target))
            assert status in (0, 1)
            assert target.exists() == (status == 0)
            if target.exists():
                assert target.read_bytes() == sample.images[sample.second], (path, length)
                target.unlink()
            path.write_bytes(good)


def test_skip_damaged_writes_zeros_and_says_where(plain: Sample, tmp_path: Path) -> None:
    """With --skip-damaged one damaged block costs one block, and the status is 3."""
    changed = plain.images[plain.second][6 * BLOCK : 7 * BLOCK]
    for path in (plain.chain.folder / "packs").glob("*/*.pack"):
        if changed in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(changed, bytes(BLOCK - 1) + b"!"))
    target = tmp_path / "image"
    result = run(plain, "extract", plain.second, str(target))
    assert result.returncode == 1
    assert "--skip-damaged" in result.stderr
    assert plain.first[:12] in result.stderr
    assert not target.exists()
    result = run(plain, "extract", plain.second, "--skip-damaged", str(target))
    assert result.returncode == 3
    assert f"bytes {6 * BLOCK} to {7 * BLOCK - 1} ({BLOCK} bytes)" in result.stdout
    assert target.read_bytes() == plain.images[plain.second].replace(changed, bytes(BLOCK))
    verified = run(plain, "verify")
    assert verified.returncode == 1
    assert f"{plain.first}  whole" in verified.stdout
    assert f"{plain.second}  DAMAGED" in verified.stdout


def test_damaged_pack_header_hurts_no_record(sample: Sample, tmp_path: Path) -> None:
    """With --skip-damaged the records of a pack with a damaged header are still read."""
    for path in (sample.chain.folder / "packs").glob("*/*.pack"):
        path.write_bytes(b"?" * 64 + path.read_bytes()[64:])
    target = tmp_path / "image"
    assert run(sample, "extract", sample.second, str(target)).returncode == 1
    result = run(sample, "extract", sample.second, "--skip-damaged", str(target))
    assert result.returncode == 0, result.stderr
    assert target.read_bytes() == sample.images[sample.second]


def test_swapped_records_and_heads_are_seen(plain: Sample, tmp_path: Path) -> None:
    """A whole file in the place of another is not taken for it."""
    packs = sorted((plain.chain.folder / "packs").glob("*/*.pack"))
    good = [path.read_bytes() for path in packs]
    for path, other in zip(packs, good[1:] + good[:1], strict=True):
        path.write_bytes(other)
    assert run(plain, "extract", plain.second, str(tmp_path / "image")).returncode == 1
    for path, data in zip(packs, good, strict=True):
        path.write_bytes(data)
    points = plain.chain.folder / "points"
    (points / f"{2:010}-{plain.second}.json").write_bytes(
        (points / f"{1:010}-{plain.first}.json").read_bytes()
    )
    assert run(plain, "extract", plain.second, str(tmp_path / "image")).returncode == 1
    assert sample_ids(run(plain, "list").stdout) == [plain.first]


def test_moves_are_followed_64_times_and_no_further(tmp_path: Path) -> None:
    """64 steps lead to the pack; 65, a circle, or a missing row end."""
    chain = ChainWriter(tmp_path / "storage", "keyfile")
    pack = chain.pack()
    block = pack.add(DATA, b"z" * BLOCK)
    pack.write()
    points = []
    for steps in (64, 65):
        names = [chain.new_id() for _ in range(steps)] + [pack.ident]
        for old, new in itertools.pairwise(names):
            chain.moved(old, {block.offset: (new, block.offset)})
        far = Record(names[0], block.offset, block.stored, block.ident)
        maps = chain.pack()
        points.append(chain.point(steps, [("a", BLOCK, chain.map(maps, BLOCK, {0: far}))], {}))
        maps.write()
    (tmp_path / "key").write_bytes(KEY_FILE)
    sample = Sample(
        chain.root, chain, "", "", "", {}, ["--key-file", str(tmp_path / "key")], {}, tmp_path
    )
    module, target = load(), tmp_path / "image"
    assert call(module, sample, "extract", points[0].hex(), str(target)) == 0
    assert target.read_bytes() == b"z" * BLOCK
    assert call(module, sample, "extract", points[1].hex(), str(target) + "2") == 1


def test_symbolic_links_out_of_the_storage_are_not_followed(plain: Sample, tmp_path: Path) -> None:
    """Nothing is read from elsewhere, not even the right bytes."""
    packs = plain.chain.folder / "packs"
    os.rename(packs, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", packs)
    result = run(plain, "extract", plain.second, str(tmp_path / "image"))
    assert result.returncode == 1
    assert "symbolic link" in result.stderr


def test_impossible_lengths_cost_no_memory(plain: Sample, tmp_path: Path) -> None:
    """Lengths that a broken writer sealed are refused before anything is allocated."""
    chain = plain.chain
    pack = chain.pack()
    frame = zstandard.compress(bytes(1 << 28))  # far more than the record says
    bomb = pack.add(DATA, b"b" * BLOCK)
    ident = keyed(chain.k_id, bytes(BLOCK))
    head = b"RCHK" + struct.pack("<BBHIII", DATA, 1, 0, 1, BLOCK, len(frame)) + ident
    bomb = Record(pack.ident, 64 + len(pack.body), len(frame), ident)
    pack.body += head + frame
    root = chain.map(pack, BLOCK, {0: bomb})
    huge = Record(pack.ident, 64, (1 << 32) - 1, ident)
    other = chain.map(pack, BLOCK, {0: huge})
    pack.write()
    target = str(tmp_path / "image")
    for sequence, reference in ((7, root), (8, other), (9, huge)):
        point = chain.point(sequence, [("a", BLOCK, reference)], {})
        result = run(plain, "extract", point.hex(), target)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1, result.stderr
