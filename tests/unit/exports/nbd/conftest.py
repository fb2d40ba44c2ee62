import tempfile
from pathlib import Path

import pytest

from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import NbdServer
from ruchu.testing.memory_device import MemoryDevice
from ruchu.units import MIB


@pytest.fixture
def place():
    """Return a path for a socket: those of pytest are too long for one."""
    with tempfile.TemporaryDirectory(prefix="rn-") as directory:
        yield Path(directory) / "s"


@pytest.fixture
def device(rng):
    made = MemoryDevice(4 * MIB)
    made.write(0, memoryview(rng.randbytes(2 * MIB)))
    return made


@pytest.fixture
def server(device, place):
    with NbdServer([NbdExport("disk", device)]) as running:
        running.listen_unix(place)
        yield running
