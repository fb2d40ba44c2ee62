"""A served export, a client of it, and its disk."""

import pytest

from ruchu.exports.nfs.exporting import ExportedDisk, NfsExport
from ruchu.testing import nfs
from ruchu.units import MIB


@pytest.fixture
def device(rng):
    made = nfs.GatedDevice(4 * MIB)
    made.content[:] = rng.randbytes(made.size)
    return made


@pytest.fixture
def export(device, tmp_path):
    return NfsExport(
        path=nfs.PATH,
        disks=(ExportedDisk("disk.raw", device),),
        files={"disk.vmdk": b"a descriptor"},
        scratch=tmp_path / "scratch",
        secret=nfs.SECRET,
        clients=nfs.LOOPBACK,
    )


@pytest.fixture
def server(export, device):
    with nfs.serving(export) as running:
        yield running
        device.gate.set()
        device.error = None


@pytest.fixture
def client(server):
    with nfs.Client(server.address) as connected:
        yield connected


@pytest.fixture
def root(client):
    return client.mount()


@pytest.fixture
def disk(client, root):
    return client.lookup(root, "disk.raw")
