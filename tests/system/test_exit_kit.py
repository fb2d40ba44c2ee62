"""Backups come back without Ruchu: real storages, read by the `restore.py` that lies in them."""

import ast
import datetime
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ruchu.model.sources import Kind
from ruchu.repository import chains, compaction, keyring, layout, merging, packs, repositories
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage

BLOCK = 4096
SIZE = BLOCK * 1500 + 77
NO_GRACE = datetime.timedelta(0)
SECRETS = {
    "none": keyring.NO_SECRET,
    "passphrase": keyring.Secret("passphrase", "correct hörse".encode()),
    "keyfile": keyring.Secret("keyfile", bytes(range(256)) * 3),
}
KIT_NEEDS = ["zstandard", "cryptography", "blake3"]


@dataclass
class Written:
    """A storage and what its points must hold: the bytes of the disks by point id."""

    root: Path
    options: list[str]
    contents: dict[str, dict[str, bytes]]
    deleted: str


def changes_of(rng):
    """Return new contents of some blocks: noise, text that shrinks, zeros."""
    found = {}
    for _ in range(60):
        fill = rng.choice([rng.randbytes(BLOCK), (b"%d " % rng.randrange(99)) * 3000, bytes(BLOCK)])
        found[rng.randrange(1501)] = fill[:BLOCK]
    return found


def write_point(chain, rng, current):
    base = chain.latest()
    kind = Kind.FULL if base is None else Kind.INCREMENTAL
    with chain.exclusive("backup") as lock, PointWriter(chain, lock, kind, base) as writer:
        for name, content in current.items():
            disk = writer.open_disk(name, len(content), on_base=base is not None)
            for block, data in changes_of(rng).items():
                start = block * BLOCK
                if start < len(content):
                    part = data[: len(content) - start]
                    content[start : start + len(part)] = part
                    disk.write(start, memoryview(part))
        writer.attach("machine.json", b'{"name": "w\xc3\xb6b"}')
        writer.attach("native", b"<domain/>" * 100)
        return writer.commit(chain.surroundings.clock.now(), {"bytes_read": 1})


def merge(chain, stems):
    with chain.exclusive("merge") as lock:
        merging.delete_points(chain, lock, stems, grace=NO_GRACE)
        merging.sweep(chain, lock, grace=NO_GRACE)
        merging.purge(chain, lock)


def write_storage(parent, mode, patch):
    """Write a chain of 14 points with the real code, merge and compact it several times."""
    patch.setattr(packs, "PACK_BYTES_TARGET", 64 * BLOCK)
    patch.setattr(compaction, "SMALL_PACK_BYTES", 60 * BLOCK)
    patch.setattr(compaction, "SMALL_PACKS_MAX", 4)
    root = parent / "storage"
    root.mkdir()
    secret = SECRETS[mode]
    storage = DirectoryStorage(root)
    made = repositories.create(
        storage, "exit", secret, Surroundings(), costs=keyring.Costs(64, 1, 2)
    )
    what = chains.ProtectedObject("vm", "web1", "libvirt", "x")
    chain = made.create_chain(what, SIZE, block_size=BLOCK)
    rng = random.Random(4)
    current = {"vda": bytearray(SIZE), "vdb": bytearray(BLOCK * 3)}
    contents = {}
    for number in range(14):
        head = write_point(chain, rng, current)
        contents[head.stem] = {name: bytes(content) for name, content in current.items()}
        if number in {5, 8, 12}:
            doomed = sorted(contents)[: 2 if number == 5 else 1]
            merge(chain, doomed)
            for stem in doomed:
                del contents[stem]
    deleted = min(contents)
    with chain.exclusive("delete") as lock:
        merging.delete_points(chain, lock, [deleted])
    moved = [i.name for i in storage.list(layout.packs(chain.id)) if i.name.endswith(".moved")]
    assert moved, "nothing was compacted"
    points = {stem[11:]: disks for stem, disks in contents.items() if stem != deleted}
    return Written(root, options_of(parent, mode), points, deleted[11:])


def options_of(parent, mode):
    if mode == "none":
        return []
    path = parent / "secret"
    line_break = b"\n" if mode == "passphrase" else b""
    path.write_bytes(SECRETS[mode].value + line_break)
    return [f"--{'passphrase-file' if mode == 'passphrase' else 'key-file'}", str(path)]


@pytest.fixture(params=sorted(SECRETS))
def written(request, tmp_path, monkeypatch):
    return write_storage(tmp_path, request.param, monkeypatch)


def check_by_kit(python, written, target):
    """Restore all points with the kit in the storage, and hold them against the model."""

    def kit(*args, status=0):
        command = [*python, str(written.root / "restore.py"), *args, *written.options]
        done = subprocess.run(
            command, cwd="/", env={"PATH": os.environ["PATH"]}, capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr.decode()
        return done.stdout.decode()

    listed = json.loads(kit("list", "--json"))
    rows = listed["points"] if isinstance(listed, dict) else listed
    assert {row["point"] for row in rows} == set(written.contents)
    assert written.deleted in kit("list", "--deleted")
    assert "whole" in kit("verify", "--all")
    for point, disks in written.contents.items():
        for name, content in disks.items():
            image = target / f"{point}-{name}"
            kit("extract", point, "--disk", name, str(image))
            assert image.read_bytes() == content
    folder = target / "attachments"
    kit("attachments", min(written.contents), str(folder))
    assert (folder / "machine.json").read_bytes() == '{"name": "wöb"}'.encode()
    assert (folder / "native").read_bytes() == b"<domain/>" * 100


def test_the_kit_restores_merged_chains(written, tmp_path):
    """The fast variant: the libraries of this environment, isolated, no import of Ruchu."""
    # An import hook in front of the kit: whoever asks for ruchu fails.
    guard = (
        "import sys, runpy\n"
        "class Guard:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] != 'ruchu', name\n"
        "sys.meta_path.insert(0, Guard())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    check_by_kit([sys.executable, "-I", "-c", guard], written, tmp_path)


def test_the_kit_imports_nothing_of_ruchu():
    for name, content in repositories.exit_kit().items():
        if not name.endswith(".py"):
            continue
        imported = set()
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module)
        assert imported
        assert not [module for module in imported if module.startswith("ruchu")]
        assert b"import_module" not in content
        assert b"__import__" not in content


@pytest.fixture(scope="session")
def clean_python(tmp_path_factory):
    """A virtual environment with nothing but what the kit needs."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *KIT_NEEDS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no packages to install: {done.stderr[-500:]}")
    found = subprocess.run([python, "-c", "import ruchu"], capture_output=True, check=False)
    assert found.returncode == 1
    return python


@pytest.mark.system
@pytest.mark.slow
def test_the_kit_restores_where_ruchu_is_not_installed(clean_python, written, tmp_path):
    check_by_kit([clean_python], written, tmp_path)
