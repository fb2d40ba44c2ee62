import pytest

from ruchu.blocks.formats.mapping import BytesDisk, ComposedDisk, Part
from ruchu.units import KIB, MIB


@pytest.fixture
def disk(rng):
    """Return a sparse disk of 5 MiB and a half sector more than whole ones."""
    parts = [
        Part(start, length, BytesDisk(rng.randbytes(length)))
        for start, length in ((0, 70_000), (MIB + 512, 200 * KIB), (5 * MIB - 1000, 1256))
    ]
    return ComposedDisk(5 * MIB + 256, parts)
