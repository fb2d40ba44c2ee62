"""Storages that earlier releases wrote are read for ever, by Ruchu and by their own exit kit."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ruchu.repository import keyring, repositories, verifying, verifying_findings
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.directory import DirectoryStorage

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = [
    (version.name, name)
    for version in sorted(FIXTURES.iterdir())
    for name in json.loads((version / "expected.json").read_text())
]


@pytest.fixture
def storage(tmp_path, request):
    """Return a copy of a fixture and what is expected in it."""
    version, name = request.param
    shutil.copytree(FIXTURES / version / name, tmp_path / "storage")
    (tmp_path / "passphrase").write_text("fixture\n")
    expected = json.loads((FIXTURES / version / "expected.json").read_text())[name]
    return tmp_path, expected


@pytest.mark.parametrize("storage", CASES, indirect=True, ids="-".join)
def test_ruchu_reads_it(storage):
    root, expected = storage
    secret = keyring.Secret("passphrase", b"fixture")
    directory = DirectoryStorage(root / "storage")
    opened = repositories.open_repository(directory, secret, Surroundings())
    (chain,) = opened.all_chains()
    assert {head.point for head in chain.points()} == set(expected)
    for head in chain.points():
        disk = chain.disk(head, head.disks[0])
        content = bytearray(disk.size)
        disk.read_into(0, memoryview(content))
        assert hashlib.sha256(content).hexdigest() == expected[head.point]
        assert chain.attachment(head, "machine.json") == b'{"name": "fixture"}'
    assert verifying.verify_storage(opened, verifying_findings.Depth.FULL).clean


@pytest.mark.parametrize("storage", CASES, indirect=True, ids="-".join)
def test_its_exit_kit_reads_it(storage):
    root, expected = storage
    kit = [sys.executable, "-I", str(root / "storage" / "restore.py")]
    kit += ["--passphrase-file", str(root / "passphrase")]
    for point, total in expected.items():
        target = root / f"{point}.raw"
        subprocess.run([*kit, "extract", point, str(target)], check=True, timeout=60)
        assert hashlib.sha256(target.read_bytes()).hexdigest() == total
