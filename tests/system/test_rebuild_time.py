"""How long it takes a fresh server to read the points of a storage that another one filled."""

import dataclasses
import os
import random
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest

from ruchu import units
from ruchu.model.ids import new_id
from ruchu.model.sources import Kind
from ruchu.repository import chains, heads, keyring, layout, repositories
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing.servers import Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

# 10,000 points in `make long`, 2,000 otherwise.
CHAINS, POINTS = 20, 500 if os.environ.get("RUCHU_PROFILE") == "faults" else 100
SIZE = 64 * units.MIB
BLOCK = 64 * units.KIB


def fill(root, rng):
    """Write chains of points: the first of each as a backup does, the others as copies of its head.

    A catalogue is read from heads alone, and so is what is measured here.
    """
    root.mkdir()
    storage = DirectoryStorage(root)
    made = repositories.create(storage, "large", keyring.NO_SECRET, Surroundings())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(CHAINS):
        what = chains.ProtectedObject("vm", f"web-{number}", "kvm", f"machine-{number}")
        chain = made.create_chain(what, SIZE, block_size=BLOCK)
        with (
            chain.exclusive("backup") as lock,
            PointWriter(chain, lock, Kind.FULL, None) as writer,
        ):
            disk = writer.open_disk("vda", SIZE, on_base=False)
            disk.write(0, memoryview(rng.randbytes(64) + bytes(BLOCK - 64)))
            head = writer.commit(start, {"bytes_stored": 4096, "bytes_read": BLOCK})
        for point in range(1, POINTS):
            head = dataclasses.replace(
                head, point=new_id(), sequence=head.sequence + 1, kind=Kind.INCREMENTAL,
                parent=head.point, time=start + timedelta(hours=point),
            )  # fmt: skip
            path = root / layout.head(chain.id, head.stem)
            path.write_bytes(heads.encode(head, chain.keys))


def counted(server):
    """Return how many points the catalogue has."""
    count, after = 0, ""
    while True:
        page = server.get("/points", limit=499, after=after)
        count += len(page["items"])
        after = page["next"]
        if not after:
            return count


def test_ten_thousand_points_are_read_into_the_catalogue(place, capsys):
    begun = time.monotonic()
    fill(place / "storage", random.Random(9))
    built_s = time.monotonic() - begun
    with Server(place / "one") as server:
        server.nodes_online(1)
        begun = time.monotonic()
        wanted = {"name": "large", "location": str(place / "storage"), "adopt": True}
        done = server.post("/storages", wanted)
        adopted_s = time.monotonic() - begun
        assert done["points"] == CHAINS * POINTS, done
        assert counted(server) == CHAINS * POINTS
        begun = time.monotonic()
        server.post("/storages/large/refresh")
        again_s = time.monotonic() - begun
    with capsys.disabled():
        print(  # noqa: T201 - measured, not judged
            f"\n{CHAINS * POINTS} points in {CHAINS} chains (written in {built_s:.0f} s): "
            f"adopted by a fresh server in {adopted_s:.1f} s, read again in {again_s:.1f} s"
        )  # fmt: skip
    for path in sorted(place.iterdir()):
        shutil.rmtree(path)
